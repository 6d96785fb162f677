"""Snapshots of replicated volumes: of one instant on both nodes, whoever writes meanwhile."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lab.records import differing, hashes
from tests.lab.replicated import ONE, TWO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from csi.rpc import csi_pb2 as pb
    from tests.lab.replicated import Service

pytestmark = pytest.mark.lab

_REPETITIONS = 50
_LVM = "export LVM_SYSTEM_DIR=/run/xlss/lvm/vg0 DM_DISABLE_UDEV=1; lvm"


def cut(service: Service, name: str) -> pb.Snapshot:
    made: list[pb.Snapshot] = []
    controller = service.cluster.controller()
    service.repeat("cut it", lambda: made.append(controller.snapshot(service.id, name)))
    return made[0]


def remove(service: Service, snapshot: pb.Snapshot) -> None:
    controller = service.cluster.controller()
    service.repeat("delete it", lambda: controller.delete_snapshot(snapshot.snapshot_id))


@contextmanager
def visible(service: Service, snapshot: pb.Snapshot) -> Iterator[str]:
    """The snapshot's own device, at the same path on both nodes."""
    name = f"vg0/snap-{snapshot.snapshot_id}"
    try:
        for node in service.nodes:
            service.node(node).sh(f"{_LVM} lvchange -q -ay -K {name}")
        yield f"/dev/{name}"
    finally:
        for node in service.nodes:
            service.node(node).sh(f"{_LVM} lvchange -q -an {name}")


def judge(service: Service, snapshot: pb.Snapshot, before: object) -> None:
    """What was acknowledged before is in it, and both nodes have the same."""
    with visible(service, snapshot) as path:
        assert differing(*(hashes(service.node(node), path) for node in service.nodes)) == []
        verdict = service.records.check(service.node(TWO), path, before)  # type: ignore[arg-type]
        assert verdict.ok, verdict


def test_snapshots_are_equal_on_both_nodes_while_it_is_written(service: Service) -> None:
    writer = service.start(ONE)
    for number in range(_REPETITIONS):
        writer.wait_for(5)
        before = service.records.journal()
        snapshot = cut(service, f"cut-{number}")
        writer.wait_for(1)
        judge(service, snapshot, before)
        remove(service, snapshot)
    service.check()
