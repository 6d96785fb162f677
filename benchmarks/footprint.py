"""How much memory the two processes hold, and how soon they serve."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from benchmarks.figures import Figure, at_most, milliseconds
from benchmarks.site import MIB, Site

NODE_MIB, CONTROLLER_MIB = 60, 80
CONTROLLER_SECONDS = 1.5
NODE_SECONDS = 2 * CONTROLLER_SECONDS  # in the lab node


def memory(site: Site) -> list[Figure]:
    """Resident memory of both processes with all volumes there."""
    volumes = len(site.controller.volumes())
    node = site.node_memory()
    children = ", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in list(node.items())[1:])
    group = f"resident memory, {volumes} volumes"
    return [
        Figure(
            group,
            "xlss node",
            node["xlss node"] / MIB,
            "MiB",
            at_most(NODE_MIB),
            f"children: {children or 'none'}",
        ),
        Figure(
            group,
            "xlss controller",
            site.controller_memory() / MIB,
            "MiB",
            at_most(CONTROLLER_MIB),
        ),
    ]


def start_up(site: Site, rounds: int) -> list[Figure]:
    """From exec to the first Probe that is answered with ready, with all volumes there."""
    controller = [_controller_start(site) for _ in range(rounds)]
    node = [_node_start(site) for _ in range(rounds)]
    return [
        _figure("xlss controller, on the host", controller, CONTROLLER_SECONDS),
        _figure("xlss node, in the lab node", node, NODE_SECONDS),
    ]


def _figure(name: str, seconds: Sequence[float], limit: float) -> Figure:
    middle = statistics.median(seconds)
    return Figure("exec to serving", name, middle, "s", at_most(limit), milliseconds(seconds))


def _controller_start(site: Site) -> float:
    site.deployment.stop_controller()
    begin = time.perf_counter()
    site.deployment.start_controller()
    return time.perf_counter() - begin


def _node_start(site: Site) -> float:
    name = site.host.name
    site.deployment.stop_agent(name)
    begin = time.perf_counter()
    site.deployment.start_agent(name)
    return time.perf_counter() - begin
