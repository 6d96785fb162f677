"""Between the messages of ``proto/node_agent.proto`` and the types of ``cluster/agents.py``.

Both ends of the connection use it, so that a field is written and read in one place.
"""

from __future__ import annotations

from cluster.agents import (
    Health,
    Inventory,
    PoolReport,
    ReplicaReport,
    SnapshotReport,
    ThinPoolReport,
    VerifyReport,
    VolumeReport,
)
from cluster.model import IoLimits
from node_agent.rpc import node_agent_pb2 as pb

_HEALTH_TO_WIRE = {
    Health.OK: pb.HEALTH_OK,
    Health.DEGRADED: pb.HEALTH_DEGRADED,
    Health.INACCESSIBLE: pb.HEALTH_INACCESSIBLE,
    Health.DATA_LOSS: pb.HEALTH_DATA_LOSS,
    Health.UNKNOWN: pb.HEALTH_UNSPECIFIED,
}
_HEALTH_FROM_WIRE = {wire: health for health, wire in _HEALTH_TO_WIRE.items()}


def pool_to_wire(pool: PoolReport) -> pb.Pool:
    thin = pool.thin
    return pb.Pool(
        name=pool.name,
        volume_group=pool.volume_group,
        extent_bytes=pool.extent_bytes,
        thick_total_bytes=pool.thick_total_bytes,
        thick_free_bytes=pool.thick_free_bytes,
        disk_free_bytes=pool.disk_free_bytes,
        thin=None if thin is None else _thin_to_wire(thin),
        trouble=pool.trouble,
        block_bytes=pool.block_bytes,
    )


def pool_from_wire(pool: pb.Pool) -> PoolReport:
    return PoolReport(
        name=pool.name,
        volume_group=pool.volume_group,
        extent_bytes=pool.extent_bytes,
        thick_total_bytes=pool.thick_total_bytes,
        thick_free_bytes=pool.thick_free_bytes,
        disk_free_bytes=tuple(pool.disk_free_bytes),
        thin=_thin_from_wire(pool.thin) if pool.HasField("thin") else None,
        trouble=pool.trouble,
        block_bytes=pool.block_bytes,
    )


def _thin_to_wire(thin: ThinPoolReport) -> pb.ThinPool:
    return pb.ThinPool(
        name=thin.name,
        total_bytes=thin.total_bytes,
        used_bytes=thin.used_bytes,
        metadata_used=thin.metadata_used,
        virtual_bytes=thin.virtual_bytes,
        virtual_limit_bytes=thin.virtual_limit_bytes,
        chunk_bytes=thin.chunk_bytes,
    )


def _thin_from_wire(thin: pb.ThinPool) -> ThinPoolReport:
    return ThinPoolReport(
        name=thin.name,
        total_bytes=thin.total_bytes,
        used_bytes=thin.used_bytes,
        metadata_used=thin.metadata_used,
        virtual_bytes=thin.virtual_bytes,
        virtual_limit_bytes=thin.virtual_limit_bytes,
        chunk_bytes=thin.chunk_bytes,
    )


def volume_to_wire(volume: VolumeReport) -> pb.Volume:
    return pb.Volume(
        id=volume.id,
        size_bytes=volume.size_bytes,
        pool=volume.pool,
        record=volume.record,
        complete=volume.complete,
        used=volume.used,
        active=volume.active,
        mounts=volume.mounts,
        health=_HEALTH_TO_WIRE[volume.health],
        trouble=volume.trouble,
        allocated_bytes=volume.allocated_bytes,
        logical_volume_uuid=volume.logical_volume_uuid,
        replica=None if volume.replica is None else _replica_to_wire(volume.replica),
    )


def volume_from_wire(volume: pb.Volume) -> VolumeReport:
    return VolumeReport(
        id=volume.id,
        size_bytes=volume.size_bytes,
        pool=volume.pool,
        record=volume.record,
        complete=volume.complete,
        used=volume.used,
        active=volume.active,
        mounts=tuple(volume.mounts),
        health=_HEALTH_FROM_WIRE.get(volume.health, Health.UNKNOWN),
        trouble=volume.trouble,
        allocated_bytes=volume.allocated_bytes,
        logical_volume_uuid=volume.logical_volume_uuid,
        replica=_replica_from_wire(volume.replica) if volume.HasField("replica") else None,
    )


def health_to_wire(health: Health) -> pb.Health:
    return _HEALTH_TO_WIRE[health]


def health_from_wire(health: pb.Health) -> Health:
    return _HEALTH_FROM_WIRE.get(health, Health.UNKNOWN)


def _replica_to_wire(replica: ReplicaReport) -> pb.Replica:
    verify = replica.verify
    return pb.Replica(
        role=replica.role,
        disk=replica.disk,
        peer_disk=replica.peer_disk,
        connection=replica.connection,
        activity=replica.activity,
        frozen=replica.frozen,
        out_of_sync_bytes=replica.out_of_sync_bytes,
        resync_total_bytes=replica.resync_total_bytes,
        resync_done_bytes=replica.resync_done_bytes,
        bytes_per_second=replica.bytes_per_second,
        doing=replica.doing,
        waits_for=replica.waits_for,
        serving=replica.serving,
        verify=None
        if verify is None
        else pb.Verify(
            finished_at=verify.finished_at,
            out_of_sync_bytes=verify.out_of_sync_bytes,
            trouble=verify.trouble,
        ),
    )


def _replica_from_wire(replica: pb.Replica) -> ReplicaReport:
    verify = replica.verify
    return ReplicaReport(
        role=replica.role,
        disk=replica.disk,
        peer_disk=replica.peer_disk,
        connection=replica.connection,
        activity=replica.activity,
        frozen=replica.frozen,
        out_of_sync_bytes=replica.out_of_sync_bytes,
        resync_total_bytes=replica.resync_total_bytes,
        resync_done_bytes=replica.resync_done_bytes,
        bytes_per_second=replica.bytes_per_second,
        doing=replica.doing,
        waits_for=replica.waits_for,
        serving=replica.serving,
        verify=VerifyReport(verify.finished_at, verify.out_of_sync_bytes, verify.trouble)
        if replica.HasField("verify")
        else None,
    )


def snapshot_to_wire(snapshot: SnapshotReport) -> pb.Snapshot:
    return pb.Snapshot(
        id=snapshot.id,
        volume_id=snapshot.volume_id,
        size_bytes=snapshot.size_bytes,
        pool=snapshot.pool,
        record=snapshot.record,
        complete=snapshot.complete,
    )


def snapshot_from_wire(snapshot: pb.Snapshot) -> SnapshotReport:
    return SnapshotReport(
        id=snapshot.id,
        volume_id=snapshot.volume_id,
        size_bytes=snapshot.size_bytes,
        pool=snapshot.pool,
        record=snapshot.record,
        complete=snapshot.complete,
    )


def inventory_to_wire(inventory: Inventory) -> pb.Inventory:
    return pb.Inventory(
        node=inventory.node,
        boot_id=inventory.boot_id,
        topology=dict(inventory.topology),
        pools=[pool_to_wire(pool) for pool in inventory.pools],
        volumes=[volume_to_wire(volume) for volume in inventory.volumes],
        snapshots=[snapshot_to_wire(snapshot) for snapshot in inventory.snapshots],
        foreign=inventory.foreign,
        stuck_commands=inventory.stuck_commands,
        version=inventory.version,
        replication_address=inventory.replication_address,
        replication_trouble=inventory.replication_trouble,
    )


def inventory_from_wire(inventory: pb.Inventory) -> Inventory:
    return Inventory(
        node=inventory.node,
        boot_id=inventory.boot_id,
        topology=dict(inventory.topology),
        pools=tuple(pool_from_wire(pool) for pool in inventory.pools),
        volumes=tuple(volume_from_wire(volume) for volume in inventory.volumes),
        snapshots=tuple(snapshot_from_wire(snapshot) for snapshot in inventory.snapshots),
        foreign=tuple(inventory.foreign),
        stuck_commands=inventory.stuck_commands,
        version=inventory.version,
        replication_address=inventory.replication_address,
        replication_trouble=inventory.replication_trouble,
    )


def limits_to_wire(limits: IoLimits) -> pb.Limits:
    return pb.Limits(
        read_iops=limits.read_iops,
        write_iops=limits.write_iops,
        read_bytes=limits.read_bytes,
        write_bytes=limits.write_bytes,
    )


def limits_from_wire(limits: pb.Limits) -> IoLimits:
    return IoLimits(
        read_iops=limits.read_iops,
        write_iops=limits.write_iops,
        read_bytes=limits.read_bytes,
        write_bytes=limits.write_bytes,
    )
