"""What a request costs: commands, forks and calls to the agent, counted by the processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from benchmarks.figures import Cost
from benchmarks.site import MIB, Sample, Site

_COMMANDS = "xlss_command_duration_seconds_count"
_CALLS = "xlss_rpc_duration_seconds_count"
_STAGING, _TARGET = "/run/bench-cost-staging", "/run/bench-cost-target"
_LVM_PREFIXES = ("lv", "vg", "pv")


def measure(site: Site) -> list[Cost]:
    """The life of a thin and of a thick volume, request by request."""
    site.host.run(["mkdir", "-p", _STAGING])
    return [*_life(site, "thin"), *_life(site, "thick")]


def _life(site: Site, provision: str) -> Iterable[Cost]:
    controller, node, host = site.controller, site.node, site.host.name
    parameters = {"pool": "default", "provision": provision}
    made = []

    def create() -> None:
        made.append(controller.create(f"cost-{provision}", 64 * MIB, parameters=parameters))

    yield _cost(site, f"CreateVolume, {provision}", create)
    (volume,) = made
    name = volume.volume_id
    cut = []
    steps: Sequence[tuple[str, Callable[[], object]]] = (
        ("ControllerPublishVolume", lambda: controller.publish(name, host)),
        ("NodeStageVolume, first time (mkfs)", lambda: node.stage(volume, _STAGING)),
        ("NodePublishVolume", lambda: node.publish(volume, _STAGING, _TARGET)),
        ("NodeGetVolumeStats", lambda: node.usage(name, _TARGET)),
        ("CreateSnapshot", lambda: cut.append(controller.snapshot(name, f"cut-{provision}"))),
        ("DeleteSnapshot", lambda: controller.delete_snapshot(cut[0].snapshot_id)),
        ("ControllerExpandVolume", lambda: controller.expand(name, 96 * MIB)),
        ("NodeExpandVolume", lambda: node.expand(name, _TARGET, 96 * MIB, staging=_STAGING)),
        ("NodeUnpublishVolume", lambda: node.unpublish(name, _TARGET)),
        ("NodeUnstageVolume", lambda: node.unstage(name, _STAGING)),
        ("NodeStageVolume, again", lambda: node.stage(volume, _STAGING)),
        ("NodeUnstageVolume", lambda: node.unstage(name, _STAGING)),
        ("ControllerUnpublishVolume", lambda: controller.unpublish(name, host)),
        ("DeleteVolume", lambda: controller.delete(name)),
    )
    for request, call in steps:
        yield _cost(site, f"{request}, {provision}", call)


def _cost(site: Site, request: str, call: Callable[[], object]) -> Cost:
    commands, calls = _commands(site.node_metrics()), _calls(site.controller_metrics())
    forks = site.forks()
    idle = site.forks() - forks  # what looking itself costs
    forks = site.forks()
    begin = time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    forks = site.forks() - forks - idle
    after = _commands(site.node_metrics())
    used = {name: count - commands.get(name, 0) for name, count in after.items()}
    lvm = sum(count for name, count in used.items() if name.startswith(_LVM_PREFIXES))
    return Cost(
        request,
        milliseconds=seconds * 1000,
        lvm_commands=lvm,
        other_commands=sum(used.values()) - lvm,
        forks=max(forks, 0),
        agent_calls=_calls(site.controller_metrics()) - calls,
    )


def _commands(samples: Iterable[Sample]) -> dict[str, int]:
    """Commands so far, by their names."""
    counts: dict[str, int] = {}
    for sample in samples:
        if sample.name == _COMMANDS:
            name = sample.labels["command"]
            counts[name] = counts.get(name, 0) + int(sample.value)
    return counts


def _calls(samples: Iterable[Sample]) -> int:
    """Calls to agents so far."""
    return sum(
        int(sample.value)
        for sample in samples
        if sample.name == _CALLS and sample.labels.get("side") == "client"
    )
