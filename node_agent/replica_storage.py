"""What DRBD lies on at this node: a linear device over the data, a small volume for its metadata.

DRBD claims its disk for itself, so it gets a linear device of its own (``xlss-disk-<id>``) over
the volume's logical volume. Its metadata has a thick logical volume of its own (``meta-<id>``),
which is made after the data's and removed before it: there is never one without its volume.

The tags of the metadata's logical volume say how far the two have come. ``filling``: DRBD has not
written its metadata yet, and what is there is a former tenant's. Its record is the number of bytes
of the data that the metadata has room for, and so DRBD may use. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import replace

from cluster.errors import DataLoss, Unavailable
from cluster.model import Replication, volume_from_json
from cluster.placement import metadata_bytes
from host import block_worker
from host.command import Runner
from host.device_mapper import DeviceMapper
from host.linear_device import ensure_linear, remove_if_present, resize_linear
from node_agent.devices import disk_name
from node_agent.entries import Entry
from node_agent.labels import Kind, Label, State
from node_agent.logical_volumes import LogicalVolumes
from node_agent.records import overhead, record_of
from node_agent.replica_side import ReplicaDevices


class ReplicaStorage:
    """The caller holds the volume's lock, or keeps the membership loop from it.

    Raises NotFound where this node has no replica, and the errors of ``LogicalVolumes``.
    """

    def __init__(self, runner: Runner, mapper: DeviceMapper, volumes: LogicalVolumes) -> None:
        self._runner = runner
        self._mapper = mapper
        self._volumes = volumes

    def establish(self, data: Entry) -> None:
        """Make the metadata's logical volume, which is not there, beside one that is complete."""
        size = data.usable_bytes
        label = Label(data.label.id, Kind.METADATA, State.FILLING, record=str(size))
        self._volumes.create_thick(data.pool.name, label, metadata_bytes(size))

    def is_established(self, data: Entry) -> bool:
        """Whether the metadata's logical volume is there, also where memory does not know it.

        Only the pool of the data is looked at.
        """
        return self._volumes.locate(Kind.METADATA, data.label.id, data.pool.name) is not None

    def is_used(self, volume_id: str) -> bool:
        """Whether DRBD has written its metadata, and so may have run over the data."""
        metadata = self._volumes.find(Kind.METADATA, volume_id)
        return metadata is not None and metadata.label.state is not State.FILLING

    def recorded(self, volume_id: str) -> Replication | None:
        """What the tags of the data tell of its replicas. Raises NotFound."""
        data = self._volumes.require(Kind.VOLUME, volume_id)
        return volume_from_json(data.label.record).replication

    def devices(self, volume_id: str) -> ReplicaDevices:
        """What they are, as memory has it."""
        metadata = self._volumes.require(Kind.METADATA, volume_id)
        path = str(self._mapper.node(disk_name(volume_id)))
        thin = self._volumes.chunk_bytes(self._volumes.require(Kind.VOLUME, volume_id))
        fresh = metadata.label.state is State.FILLING
        return ReplicaDevices(path, metadata.path, usable_bytes(metadata), fresh, thin)

    def sizes(self, volume_id: str) -> tuple[int, int]:
        """Of DRBD's disk here, and what all replicas have, which the volume's record tells."""
        record = record_of(self._volumes.require(Kind.VOLUME, volume_id))
        disk = usable_bytes(self._volumes.require(Kind.METADATA, volume_id))
        return disk, record.size_bytes + overhead(record.spec)

    def set_up(self, volume_id: str) -> ReplicaDevices:
        """Both, active. Raises Unavailable while the volume is being filled or wiped."""
        data = self._volumes.require(Kind.VOLUME, volume_id)
        if data.label.state is State.FILLING:
            raise Unavailable(f"volume {volume_id} is still being filled or wiped")
        metadata = self._volumes.require(Kind.METADATA, volume_id)
        self._volumes.ensure_active(data)
        self._volumes.ensure_active(metadata)
        if metadata.label.state is State.FILLING:
            # drbdmeta writes over no file system, not even by force.
            block_worker.zero(self._runner, metadata.path, lambda done: None)
        size = usable_bytes(metadata)
        ensure_linear(self._mapper, disk_name(volume_id), data.path, size)
        return self.devices(volume_id)

    def metadata_made(self, volume_id: str) -> None:
        """DRBD has written its metadata: from now on it is kept."""
        metadata = self._volumes.require(Kind.METADATA, volume_id)
        if metadata.label.state is State.FILLING:
            self._volumes.relabel(metadata, metadata.label.with_state(State.USED))

    def is_there(self, volume_id: str) -> bool:
        """Whether the volume is on this node. Raises Unavailable where that cannot be known."""
        return self._volumes.locate(Kind.VOLUME, volume_id) is not None

    def grow(self, data: Entry) -> int:
        """Give DRBD's disk what the logical volume has grown to; returns its size.

        What is new reads as zeros on every replica, and so is the same.
        """
        volume_id = data.label.id
        metadata = self._volumes.require(Kind.METADATA, volume_id)
        size = data.usable_bytes
        if usable_bytes(metadata) < size:
            metadata = self._volumes.extend(metadata, metadata_bytes(size))
            label = replace(metadata.label, record=str(size))
            metadata = self._volumes.relabel(metadata, label)
        if self._mapper.find(disk_name(volume_id)) is not None:
            resize_linear(self._mapper, disk_name(volume_id), usable_bytes(metadata))
        return usable_bytes(metadata)

    def remove(self, volume_id: str) -> None:
        """What is there of both; DRBD has let go of them. Raises InUse otherwise."""
        remove_if_present(self._mapper, disk_name(volume_id))
        metadata = self._volumes.find(Kind.METADATA, volume_id)
        if metadata is not None:
            self._volumes.remove(metadata)


def usable_bytes(metadata: Entry) -> int:
    """How much of the data DRBD may use. Raises DataLoss when the tags are damaged."""
    try:
        return int(metadata.label.record)
    except ValueError as error:
        raise DataLoss(
            f"{metadata.group}/{metadata.name}: its tags do not say how large the replica is"
        ) from error
