"""What DRBD lies on, over an LVM of the test's own whose answers can be lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from host.command import Runner
from host.device_mapper import DeviceMapper
from host.errors import AlreadyExists, CommandLost
from host.lvm.model import Kind as LvKind
from host.lvm.model import LogicalVolume
from host.lvm.pools import Pools, PoolStatus
from node_agent.entries import Entry
from node_agent.labels import Kind, Label, State
from node_agent.logical_volumes import LogicalVolumes
from node_agent.replica_storage import ReplicaStorage
from tests.unit.test_lvm_growth import SPEC, STATE
from tests.unit.test_lvm_growth import VOLUME as WELL

MIB = 1 << 20
VOLUME = "v" + "0" * 28


class Group:
    """``Pools`` of one volume group; the answer of the next creation is lost."""

    specs = (SPEC,)

    def __init__(self) -> None:
        self.volumes: list[LogicalVolume] = []
        self.lvm = self

    def status(self, name: str) -> PoolStatus:
        state = replace(STATE, physical_volumes=(), logical_volumes=tuple(self.volumes))
        return PoolStatus(SPEC, state, "")

    def create_thick(self, vg: str, name: str, size: int, *, tags: Any, layout: Any) -> None:
        if any(volume.name == name for volume in self.volumes):
            raise AlreadyExists(name)
        self.volumes.append(
            replace(
                WELL,
                vg=vg,
                name=name,
                size_bytes=size,
                allocated_bytes=size,
                tags=frozenset(tags),
                kind=LvKind.LINEAR,
                device=None,
            )
        )
        raise CommandLost("lvcreate: no answer")


def test_metadata_whose_making_was_not_answered_is_adopted() -> None:
    volumes = LogicalVolumes({"fast": cast(Pools, Group())}, lambda spec: None)
    storage = ReplicaStorage(Runner(), DeviceMapper(Runner()), volumes)
    data = Entry(SPEC, Label(VOLUME, Kind.VOLUME, State.BLANK), 64 * MIB, thin=False)
    assert not storage.is_established(data)
    with pytest.raises(CommandLost):
        storage.establish(data)
    assert storage.is_established(data)
    assert not storage.is_used(VOLUME)
