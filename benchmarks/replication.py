"""Replicated volumes: their rates against DRBD by hand, their failover, the pause of a snapshot."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.device_io import PATTERNS, SIZE, Pattern, compared, rates
from benchmarks.disk_failure import DISK
from benchmarks.figures import Figure, at_least, at_most, mean_ratio
from lab.deployment import Deployment, Pool
from lab.lab import Lab
from lab.node import MIB, Node
from lab.orchestrator import Orchestrator
from lab.records import Records

ONE, TWO = "n1", "n2"
_GROUP = "vg0"
_FAILOVER_SECONDS = 6.0
# Of fio's jobs over the lab's network: by the scatter of shorter ones, forty of these pairs make a
# ratio good to one or two hundredths.
_JOB_SECONDS = 1.0
_WAKEUP_SECONDS = 0.005
_HAND = "/dev/drbd1"
_THICK = {"pool": "default", "provision": "thick"}
# What a person writes who follows the manual, with the settings that ours has; but for fencing:
# nobody would let it go on, were the link lost in between.
_BY_HAND = """resource hand {{
  disk {{ on-io-error detach; fencing dont-care; c-max-rate 102400k; }}
  net {{
    protocol C; cram-hmac-alg sha256; shared-secret "{secret}";
    timeout 9; ping-int 1; ping-timeout 5; connect-int 1; ko-count 7;
    verify-alg sha256; csums-alg sha256;
  }}
{hosts}
}}
"""
_HOST = """  on {name} {{
    address ipv4 {address}:7001;
    volume 0 {{
      device minor 1; disk /dev/vg0/hand; flexible-meta-disk /dev/vg0/hand-meta;
    }}
  }}"""

_IN_SYNC = """
for _ in $(seq 300); do
    grep -q '^ *1: cs:Connected .* ds:UpToDate/UpToDate ' /proc/drbd && exit
    sleep 0.5
done
cat /proc/drbd; exit 1
"""


@contextmanager
def pair() -> Iterator[Orchestrator]:
    """Build it, and take it down again."""
    with Lab(_WAKEUP_SECONDS) as lab:
        nodes = lab.add_nodes((ONE, TWO), disks=(8 << 30, 512 * MIB), memory=512 * MIB, udev=True)
        pools = (
            Pool(settings={"thin_size": "50%"}),
            Pool("failing", "vg1", (nodes[0].faulty_disk(DISK).path,), thin_pool=""),
        )
        nodes[1].faulty_disk(DISK)
        deployment = Deployment(lab, nodes, pools=pools, replication=True, name="pair")
        try:
            deployment.start()
            yield Orchestrator(deployment)
        finally:
            deployment.close()


def device_rates(site: Orchestrator, rounds: int, seconds: float) -> list[Figure]:
    """Ours against the same resource by hand, the raw logical volume, and a face without DRBD.

    Both resources are made anew halfway, in the other order: where a device lies on the disk makes
    more of a difference than two layers of device-mapper, and so each lies once in either place.
    """
    single = site.create("bench-one", SIZE, **_THICK)
    where = single.accessible_topology[0].segments["csi.xlss.io/node"]
    alone = site.serve(single, where)
    raw = f"/dev/{_GROUP}/vol-{single.volume_id}"
    found: dict[Pattern, list[_Rates]] = {pattern: [] for pattern in PATTERNS}
    try:
        for makers in itertools.permutations((_ours, _by_hand)):
            with ExitStack() as stack:
                made = {make: stack.enter_context(make(site, where)) for make in makers}
                devices = (made[_ours], made[_by_hand], raw, alone)
                _fill(site.node(where), *devices[:3])
                for pattern, halves in found.items():
                    halves.append(
                        _measure(site.node(where), pattern, devices, rounds // 2, seconds)
                    )
    finally:
        site.withdraw(single, where)
        site.delete(single)
    figures = [figure for pattern, halves in found.items() for figure in _told(pattern, halves)]
    return sorted(figures, key=lambda figure: figure.group)


@contextmanager
def _ours(site: Orchestrator, where: str) -> Iterator[str]:
    """A replicated volume, in sync and served there; its path.

    Its data comes from there as well, as by hand: how large TCP lets the window of the lab's
    network become depends on which way the first sync went, and with it the rate of large writes.
    """
    volume = site.create("bench-two", SIZE, at=where, **_THICK, replicas="2")
    try:
        path = site.serve(volume, where)
        site.until_in_sync(volume)
        yield path
    finally:
        site.withdraw(volume, where)
        site.delete(volume)


@contextmanager
def _by_hand(site: Orchestrator, where: str) -> Iterator[str]:
    """The same made by hand, in sync and primary there; its path."""
    try:
        _make_by_hand(site, where)
        yield _HAND
    finally:
        _remove_by_hand(site)


def _fill(node: Node, *devices: str) -> None:
    """Blocks never written are read faster than any device."""
    for device in devices:
        node.run(["dd", "if=/dev/urandom", f"of={device}", "bs=1M", "oflag=direct"], check=False)


@dataclass(frozen=True)
class _Rates:
    """Of one pattern, one for each round; ``against``: ours, the raw LV, a face alone."""

    ours: list[float]
    by_hand: list[float]
    against: list[list[float]]


def _measure(
    node: Node, pattern: Pattern, devices: tuple[str, str, str, str], rounds: int, seconds: float
) -> _Rates:
    mine, hand, raw, alone = devices
    ours, theirs = rates(node, pattern, (mine, hand), rounds, _JOB_SECONDS)
    return _Rates(
        ours, theirs, rates(node, pattern, (mine, raw, alone), max(1, rounds // 4), seconds)
    )


def _told(pattern: Pattern, halves: list[_Rates]) -> list[Figure]:
    ours = [rate for half in halves for rate in half.ours]
    theirs = [rate for half in halves for rate in half.by_hand]
    ratio, error = mean_ratio(ours, theirs)
    means = f"{statistics.mean(ours):.0f} / {statistics.mean(theirs):.0f} {pattern.unit}"
    each = " and ".join(f"{mean_ratio(half.ours, half.by_hand)[0]:.3f}" for half in halves)
    figures = [
        Figure(
            "fio, replicated / DRBD by hand",
            pattern.name,
            ratio,
            "",
            at_least(0.97),
            f"{means}, {each} ± {error:.3f}",
        )
    ]
    mine, *others = ([rate for half in halves for rate in half.against[n]] for n in range(3))
    for name, rate in zip(("raw LV", "face without replica"), others, strict=True):
        figures.append(compared(f"fio, replicated / {name}", pattern, mine, rate))
    return figures


def failover(site: Orchestrator, runs: int) -> list[Figure]:
    """From the SIGKILL of the primary's node to the first write acknowledged on the survivor."""
    volume = site.create("bench-failover", 64 * MIB, replicas="2")
    took: list[float] = []
    site.serve(volume, ONE)
    site.until_in_sync(volume)
    for number in range(runs):
        old, new = (ONE, TWO) if number % 2 == 0 else (TWO, ONE)
        site.node(old).kill(silently=True)
        begun = time.monotonic()
        device = site.fail_over(volume, old, new)
        _write(site.node(new), device)
        took.append(time.monotonic() - begun)
        site.deployment.reboot(old)
        site.until_in_sync(volume)
    site.withdraw(volume, new)
    site.delete(volume)
    basis = f"min {min(took):.2f}, max {max(took):.2f} s, {runs} runs"
    return [
        Figure(
            "failover",
            "power-off of the primary to the first write on the survivor, median",
            statistics.median(took),
            "s",
            at_most(_FAILOVER_SECONDS),
            basis,
        )
    ]


def snapshot_pause(site: Orchestrator, snapshots: int) -> list[Figure]:
    """The longest that a write waits around a snapshot, under a writer that never rests."""
    volume = site.create("bench-pause", 64 * MIB, replicas="2")
    device = site.serve(volume, ONE)
    site.until_in_sync(volume)
    records = Records()
    writer = records.start(site.node(ONE), device)
    pauses: list[float] = []
    for number in range(snapshots):
        writer.wait_for(50)
        begun = time.monotonic()
        cut = site.controller.snapshot(volume.volume_id, f"pause-{number}")
        writer.wait_for(50)
        pauses.append(_longest_gap(records, begun))
        site.controller.delete_snapshot(cut.snapshot_id)
    writer.stop()
    site.withdraw(volume, ONE)
    site.delete(volume)
    basis = f"max {max(pauses) * 1000:.0f} ms, {snapshots} snapshots"
    return [
        Figure(
            "snapshot of a replicated volume",
            "longest pause of a write, median",
            statistics.median(pauses) * 1000,
            "ms",
            None,
            basis,
        )
    ]


def _longest_gap(records: Records, since: float) -> float:
    (session,) = records.journal()
    times = [since, *(time for time in session.acknowledged if time > since)]
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


def _write(node: Node, device: str) -> None:
    node.run(["dd", "if=/dev/zero", f"of={device}", "bs=4096", "count=1", "oflag=direct,sync"])


def _make_by_hand(site: Orchestrator, primary: str) -> None:
    nodes = site.deployment.nodes.values()
    hosts = "\n".join(_HOST.format(name=node.name, address=node.address) for node in nodes)
    config = _BY_HAND.format(secret="0123456789abcdef", hosts=hosts)
    for node in nodes:
        node.put("/etc/hand.res", config.encode(), mode=0o600)
        node.sh(
            f"lvcreate -y -Wn -Zn -L {SIZE}b -n hand {_GROUP} && "
            f"lvcreate -y -Wn -Zn -L 4M -n hand-meta {_GROUP} && "
            "drbdadm -c /etc/hand.res create-md --force hand && drbdadm -c /etc/hand.res up hand"
        )
    site.node(primary).sh("drbdadm -c /etc/hand.res primary --force hand")
    site.node(primary).sh(_IN_SYNC)


def _remove_by_hand(site: Orchestrator) -> None:
    for node in site.deployment.nodes.values():
        node.sh(
            f"drbdadm -c /etc/hand.res down hand; lvremove -fy {_GROUP}/hand {_GROUP}/hand-meta",
            check=False,
        )
