"""fio on the face of a volume against the logical volume under it: the same blocks, two ways."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import Figure, Target, at_least, mean_ratio, median_ratio
from benchmarks.site import GROUP, MIB, Site
from lab.csi_client import block
from lab.node import Node

SIZE = 256 * MIB
_STAGING = "/run/bench-staging"


@dataclass(frozen=True)
class Pattern:
    name: str
    mode: str  # fio's --rw
    block_bytes: int
    unit: str


PATTERNS = (
    Pattern("sequential read, 1 MiB", "read", MIB, "MiB/s"),
    Pattern("sequential write, 1 MiB", "write", MIB, "MiB/s"),
    Pattern("random read, 4 KiB", "randread", 4096, "IO/s"),
    Pattern("random write, 4 KiB", "randwrite", 4096, "IO/s"),
)


def measure(site: Site, rounds: int, seconds: float) -> list[Figure]:
    """Stage a thick volume and measure every pattern on both devices, in turn."""
    parameters = {"pool": "default", "provision": "thick"}
    volume = site.controller.create("bench-io", SIZE, capability=block(), parameters=parameters)
    site.controller.publish(volume.volume_id, site.host.name, block())
    site.host.run(["mkdir", "-p", _STAGING])
    site.node.stage(volume, _STAGING, block())
    face = f"/dev/mapper/xlss-{volume.volume_id}"
    raw = f"/dev/{GROUP}/vol-{volume.volume_id}"
    try:
        # Blocks never written are read faster than any device: fill it all once.
        site.host.run(["dd", "if=/dev/urandom", f"of={raw}", "bs=1M", "oflag=direct"], check=False)
        return [_compare(site, pattern, face, raw, rounds, seconds) for pattern in PATTERNS]
    finally:
        site.node.unstage(volume.volume_id, _STAGING)
        site.controller.unpublish(volume.volume_id, site.host.name)
        site.controller.delete(volume.volume_id)


def _compare(
    site: Site, pattern: Pattern, face: str, raw: str, rounds: int, seconds: float
) -> Figure:
    ours, theirs = rates(site.host, pattern, (face, raw), rounds, seconds)
    return compared("fio, face / raw LV", pattern, ours, theirs, at_least(0.97))


def compared(
    group: str,
    pattern: Pattern,
    ours: Sequence[float],
    theirs: Sequence[float],
    target: Target | None = None,
) -> Figure:
    """The median of the rounds' ratios, the medians that it comes from, and how they scatter."""
    _, error = mean_ratio(ours, theirs)
    medians = f"{statistics.median(ours):.0f} / {statistics.median(theirs):.0f} {pattern.unit}"
    basis = f"{medians}, ± {error:.3f}"
    return Figure(group, pattern.name, median_ratio(ours, theirs), "", target, basis)


def rates(
    node: Node, pattern: Pattern, devices: Sequence[str], rounds: int, seconds: float
) -> list[list[float]]:
    """Rates per device of that node, one of each round; each has ``SIZE`` bytes.

    One fio does it all, in short jobs one after the other: it takes longer to start here than a
    job takes to tell the rate, and the shorter the turns, the more alike are both sides' lots.
    """
    argv = [
        "fio",
        f"--rw={pattern.mode}",
        f"--bs={pattern.block_bytes}",
        f"--size={SIZE}",
        "--direct=1",
        "--ioengine=psync",
        "--thread",
        "--time_based",
        f"--runtime={round(seconds * 1000)}ms",
        "--randseed=1",
        "--output-format=json",
    ]
    # The first round warms up and is left out.
    turns = [turn for number in range(rounds + 1) for turn in _turns(number, len(devices))]
    for turn in turns:
        argv += [f"--name=device{turn}", f"--filename={devices[turn]}", "--stonewall"]
    timeout = len(turns) * (seconds + 1.0) + 60.0
    jobs = json.loads(node.run(argv, timeout=timeout).stdout)["jobs"]
    side = "read" if "read" in pattern.mode else "write"
    scale, key = (MIB, "bw_bytes") if pattern.unit == "MiB/s" else (1, "iops")
    found: list[list[float]] = [[] for _ in devices]
    for turn, job in zip(turns, jobs, strict=True):
        found[turn].append(float(job[side][key]) / scale)
    return [rate[1:] for rate in found]


def _turns(number: int, devices: int) -> list[int]:
    """A B, then B A: going first must not be to anybody's advantage."""
    order = list(range(devices))
    return order if number % 2 == 0 else order[::-1]
