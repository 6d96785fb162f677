"""How long writes are acknowledged by one replica's disk alone after the other's has failed.

DRBD 8.4 goes on at once where a disk fails: for a moment what is written is on one disk, and
nothing that outlives a loss of power says so yet (docs/membership.md, rule 11).
"""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass
from datetime import datetime

from benchmarks.figures import Figure
from lab.node import MIB
from lab.orchestrator import Orchestrator, until
from lab.records import Records

DISK = "/dev/ubdc"
_PATIENCE_SECONDS = 60.0
_names = itertools.count()
# Tells by the node's clock when its kernel says that a replica's disk is not UpToDate any more.
_WATCH = """
import re, time
with open("/dev/kmsg", "rb", 0) as messages:
    messages.seek(0, 2)
    print("ready", flush=True)
    while not re.search(rb"(disk|pdsk)[(] UpToDate -> ", messages.read(8192)):
        pass
print(time.time(), flush=True)
"""


@dataclass(frozen=True)
class _Case:
    """``after``: what the serving agent logs that it does, once the window is closed."""

    name: str
    after: str


_OWN = _Case("of the serving node: until that is noted there", "ask-leave: its own")
_PEER = _Case("of the other node: until the face is held back", "force-disconnect: the peer must")


def windows(site: Orchestrator, serving: str, peer: str, runs: int) -> list[Figure]:
    """With the disk of the serving node failing, then with that of the other."""
    figures = []
    for case, failing in ((_OWN, serving), (_PEER, peer)):
        took = [_run(site, serving, failing, case.after) for _ in range(runs)]
        figures.append(
            Figure(
                "a disk fails under one replica",
                f"{case.name}, median",
                statistics.median(took) * 1000,
                "ms",
                None,
                f"max {max(took) * 1000:.0f} ms, {runs} runs",
            )
        )
    return figures


def _run(site: Orchestrator, serving: str, failing: str, after: str) -> float:
    name = f"bench-disk-{next(_names)}"
    volume = site.create(name, 64 * MIB, replicas="2", pool="failing", provision="thick")
    device = site.serve(volume, serving)
    site.until_in_sync(volume)
    writer = Records().start(site.node(serving), device, interval=0.002)
    writer.wait_for(50)
    seconds = _window(site, serving, failing, after)
    writer.wait_for(50)
    writer.stop()
    site.node(failing).faulty_disk(DISK).recover()
    site.withdraw(volume, serving)
    site.delete(volume)
    return seconds


def _window(site: Orchestrator, serving: str, failing: str, after: str) -> float:
    node, agent = site.node(serving), site.deployment.agent(serving)
    watch = node.spawn(["python3", "-S", "-c", _WATCH], log="/run/window.log")
    until(lambda: "" if "ready" in watch.log() else f"{serving} does not hear its kernel")
    seen = len(agent.log())
    site.node(failing).faulty_disk(DISK).fail()
    watch.wait(_PATIENCE_SECONDS)
    begun = float(watch.log().split()[-1])
    until(lambda: "" if after in agent.log()[seen:] else f"{serving} does not log {after!r}")
    line = next(line for line in agent.log()[seen:].splitlines() if after in line)
    return datetime.fromisoformat(json.loads(line)["time"]).timestamp() - begun
