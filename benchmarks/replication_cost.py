"""What replicated volumes cost an agent at which nothing happens: looks at their state."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from benchmarks.figures import Figure, at_most, milliseconds
from benchmarks.status_rounds import DATA_BYTES, METADATA_BYTES
from lab.lab import Lab
from lab.node import MIB
from lab.paths import PYTHON

_SECONDS = 900.0
# The kernel's lists of resources and devices are walked, nothing else may grow with them.
_GROWTH = 1.5


def status_rounds(counts: Sequence[int], rounds: int) -> list[Figure]:
    """A look at each of so many volumes that are served on one node: milliseconds and forks."""
    disks = (max(counts) * DATA_BYTES, max(counts) * METADATA_BYTES)
    with Lab() as lab:
        node = lab.add_node(disks=disks, memory=768 * MIB)
        argv = [str(PYTHON), "-m", "benchmarks.status_rounds", "/dev/ubdb", "/dev/ubdc"]
        output = node.run([*argv, str(rounds), *map(str, counts)], timeout=_SECONDS).text
    found = [json.loads(line) for line in output.splitlines()]
    figures: list[Figure] = []
    for one in found:
        group, seconds = f"a round of looks at {one['volumes']}", one["seconds"]
        figures += [
            Figure(
                group, "time", statistics.median(seconds) * 1000, "ms", None, milliseconds(seconds)
            ),
            Figure(group, "forks", one["forks"], "", at_most(0), f"{rounds} rounds"),
        ]
    # Whatever else the machine does makes a round longer, never shorter.
    few, many = (min(one["seconds"]) / one["volumes"] for one in found[:: len(found) - 1])
    return [
        *figures,
        Figure(
            "a look at one volume",
            f"with {found[-1]['volumes']} there / with {found[0]['volumes']} there, best rounds",
            many / few,
            "",
            at_most(_GROWTH),
            f"{many * 1000:.2f} / {few * 1000:.2f} ms",
        ),
    ]
