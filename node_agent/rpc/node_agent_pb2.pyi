from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Health(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_UNSPECIFIED: _ClassVar[Health]
    HEALTH_OK: _ClassVar[Health]
    HEALTH_DEGRADED: _ClassVar[Health]
    HEALTH_INACCESSIBLE: _ClassVar[Health]
    HEALTH_DATA_LOSS: _ClassVar[Health]
HEALTH_UNSPECIFIED: Health
HEALTH_OK: Health
HEALTH_DEGRADED: Health
HEALTH_INACCESSIBLE: Health
HEALTH_DATA_LOSS: Health

class GetInventoryRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Inventory(_message.Message):
    __slots__ = ("node", "boot_id", "topology", "pools", "volumes", "snapshots", "foreign", "stuck_commands", "version", "replication_address", "replication_trouble")
    class TopologyEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_FIELD_NUMBER: _ClassVar[int]
    STUCK_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_TROUBLE_FIELD_NUMBER: _ClassVar[int]
    node: str
    boot_id: str
    topology: _containers.ScalarMap[str, str]
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    volumes: _containers.RepeatedCompositeFieldContainer[Volume]
    snapshots: _containers.RepeatedCompositeFieldContainer[Snapshot]
    foreign: _containers.RepeatedScalarFieldContainer[str]
    stuck_commands: int
    version: str
    replication_address: str
    replication_trouble: str
    def __init__(self, node: _Optional[str] = ..., boot_id: _Optional[str] = ..., topology: _Optional[_Mapping[str, str]] = ..., pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ..., volumes: _Optional[_Iterable[_Union[Volume, _Mapping]]] = ..., snapshots: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ..., foreign: _Optional[_Iterable[str]] = ..., stuck_commands: _Optional[int] = ..., version: _Optional[str] = ..., replication_address: _Optional[str] = ..., replication_trouble: _Optional[str] = ...) -> None: ...

class Pool(_message.Message):
    __slots__ = ("name", "volume_group", "extent_bytes", "thick_total_bytes", "thick_free_bytes", "disk_free_bytes", "thin", "trouble", "block_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VOLUME_GROUP_FIELD_NUMBER: _ClassVar[int]
    EXTENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    THICK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    THICK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    THIN_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    volume_group: str
    extent_bytes: int
    thick_total_bytes: int
    thick_free_bytes: int
    disk_free_bytes: _containers.RepeatedScalarFieldContainer[int]
    thin: ThinPool
    trouble: str
    block_bytes: int
    def __init__(self, name: _Optional[str] = ..., volume_group: _Optional[str] = ..., extent_bytes: _Optional[int] = ..., thick_total_bytes: _Optional[int] = ..., thick_free_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[_Iterable[int]] = ..., thin: _Optional[_Union[ThinPool, _Mapping]] = ..., trouble: _Optional[str] = ..., block_bytes: _Optional[int] = ...) -> None: ...

class ThinPool(_message.Message):
    __slots__ = ("name", "total_bytes", "used_bytes", "metadata_used", "virtual_bytes", "virtual_limit_bytes", "chunk_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    METADATA_USED_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    total_bytes: int
    used_bytes: int
    metadata_used: float
    virtual_bytes: int
    virtual_limit_bytes: int
    chunk_bytes: int
    def __init__(self, name: _Optional[str] = ..., total_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., metadata_used: _Optional[float] = ..., virtual_bytes: _Optional[int] = ..., virtual_limit_bytes: _Optional[int] = ..., chunk_bytes: _Optional[int] = ...) -> None: ...

class Volume(_message.Message):
    __slots__ = ("id", "size_bytes", "pool", "record", "complete", "used", "active", "mounts", "health", "trouble", "allocated_bytes", "logical_volume_uuid", "replica")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOGICAL_VOLUME_UUID_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    id: str
    size_bytes: int
    pool: str
    record: str
    complete: bool
    used: bool
    active: bool
    mounts: _containers.RepeatedScalarFieldContainer[str]
    health: Health
    trouble: str
    allocated_bytes: int
    logical_volume_uuid: str
    replica: Replica
    def __init__(self, id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., pool: _Optional[str] = ..., record: _Optional[str] = ..., complete: _Optional[bool] = ..., used: _Optional[bool] = ..., active: _Optional[bool] = ..., mounts: _Optional[_Iterable[str]] = ..., health: _Optional[_Union[Health, str]] = ..., trouble: _Optional[str] = ..., allocated_bytes: _Optional[int] = ..., logical_volume_uuid: _Optional[str] = ..., replica: _Optional[_Union[Replica, _Mapping]] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("role", "disk", "peer_disk", "connection", "activity", "frozen", "out_of_sync_bytes", "resync_total_bytes", "resync_done_bytes", "bytes_per_second", "doing", "waits_for", "serving", "verify")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    PEER_DISK_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SYNC_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESYNC_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESYNC_DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    DOING_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    role: str
    disk: str
    peer_disk: str
    connection: str
    activity: str
    frozen: str
    out_of_sync_bytes: int
    resync_total_bytes: int
    resync_done_bytes: int
    bytes_per_second: int
    doing: str
    waits_for: str
    serving: bool
    verify: Verify
    def __init__(self, role: _Optional[str] = ..., disk: _Optional[str] = ..., peer_disk: _Optional[str] = ..., connection: _Optional[str] = ..., activity: _Optional[str] = ..., frozen: _Optional[str] = ..., out_of_sync_bytes: _Optional[int] = ..., resync_total_bytes: _Optional[int] = ..., resync_done_bytes: _Optional[int] = ..., bytes_per_second: _Optional[int] = ..., doing: _Optional[str] = ..., waits_for: _Optional[str] = ..., serving: _Optional[bool] = ..., verify: _Optional[_Union[Verify, _Mapping]] = ...) -> None: ...

class Verify(_message.Message):
    __slots__ = ("finished_at", "out_of_sync_bytes", "trouble")
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SYNC_BYTES_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    finished_at: float
    out_of_sync_bytes: int
    trouble: str
    def __init__(self, finished_at: _Optional[float] = ..., out_of_sync_bytes: _Optional[int] = ..., trouble: _Optional[str] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("id", "volume_id", "size_bytes", "pool", "record", "complete")
    ID_FIELD_NUMBER: _ClassVar[int]
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    id: str
    volume_id: str
    size_bytes: int
    pool: str
    record: str
    complete: bool
    def __init__(self, id: _Optional[str] = ..., volume_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., pool: _Optional[str] = ..., record: _Optional[str] = ..., complete: _Optional[bool] = ...) -> None: ...

class GetPoolsRequest(_message.Message):
    __slots__ = ("fresh",)
    FRESH_FIELD_NUMBER: _ClassVar[int]
    fresh: bool
    def __init__(self, fresh: _Optional[bool] = ...) -> None: ...

class GetPoolsResponse(_message.Message):
    __slots__ = ("pools",)
    POOLS_FIELD_NUMBER: _ClassVar[int]
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    def __init__(self, pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ...) -> None: ...

class GetVolumeRequest(_message.Message):
    __slots__ = ("volume_id",)
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    def __init__(self, volume_id: _Optional[str] = ...) -> None: ...

class GetVolumeResponse(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: Volume
    def __init__(self, volume: _Optional[_Union[Volume, _Mapping]] = ...) -> None: ...

class CreateVolumeRequest(_message.Message):
    __slots__ = ("volume_id", "size_bytes", "limit_bytes", "record", "source_snapshot_id", "source_volume_id")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    size_bytes: int
    limit_bytes: int
    record: str
    source_snapshot_id: str
    source_volume_id: str
    def __init__(self, volume_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., record: _Optional[str] = ..., source_snapshot_id: _Optional[str] = ..., source_volume_id: _Optional[str] = ...) -> None: ...

class CreateVolumeResponse(_message.Message):
    __slots__ = ("volume", "pool")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    volume: Volume
    pool: Pool
    def __init__(self, volume: _Optional[_Union[Volume, _Mapping]] = ..., pool: _Optional[_Union[Pool, _Mapping]] = ...) -> None: ...

class DeleteVolumeRequest(_message.Message):
    __slots__ = ("volume_id", "pool")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    pool: str
    def __init__(self, volume_id: _Optional[str] = ..., pool: _Optional[str] = ...) -> None: ...

class DeleteVolumeResponse(_message.Message):
    __slots__ = ("pools",)
    POOLS_FIELD_NUMBER: _ClassVar[int]
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    def __init__(self, pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ...) -> None: ...

class ExpandVolumeRequest(_message.Message):
    __slots__ = ("volume_id", "size_bytes", "limit_bytes")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    size_bytes: int
    limit_bytes: int
    def __init__(self, volume_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class ExpandVolumeResponse(_message.Message):
    __slots__ = ("size_bytes", "pool")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    pool: Pool
    def __init__(self, size_bytes: _Optional[int] = ..., pool: _Optional[_Union[Pool, _Mapping]] = ...) -> None: ...

class UpdateVolumeRequest(_message.Message):
    __slots__ = ("volume_id", "record")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    record: str
    def __init__(self, volume_id: _Optional[str] = ..., record: _Optional[str] = ...) -> None: ...

class UpdateVolumeResponse(_message.Message):
    __slots__ = ("pool",)
    POOL_FIELD_NUMBER: _ClassVar[int]
    pool: Pool
    def __init__(self, pool: _Optional[_Union[Pool, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("read_iops", "write_iops", "read_bytes", "write_bytes")
    READ_IOPS_FIELD_NUMBER: _ClassVar[int]
    WRITE_IOPS_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITE_BYTES_FIELD_NUMBER: _ClassVar[int]
    read_iops: int
    write_iops: int
    read_bytes: int
    write_bytes: int
    def __init__(self, read_iops: _Optional[int] = ..., write_iops: _Optional[int] = ..., read_bytes: _Optional[int] = ..., write_bytes: _Optional[int] = ...) -> None: ...

class SetLimitsRequest(_message.Message):
    __slots__ = ("volume_id", "limits")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    limits: Limits
    def __init__(self, volume_id: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class SetLimitsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SuspendVolumesRequest(_message.Message):
    __slots__ = ("volume_ids", "deadline_milliseconds")
    VOLUME_IDS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    volume_ids: _containers.RepeatedScalarFieldContainer[str]
    deadline_milliseconds: int
    def __init__(self, volume_ids: _Optional[_Iterable[str]] = ..., deadline_milliseconds: _Optional[int] = ...) -> None: ...

class SuspendVolumesResponse(_message.Message):
    __slots__ = ("suspension",)
    SUSPENSION_FIELD_NUMBER: _ClassVar[int]
    suspension: str
    def __init__(self, suspension: _Optional[str] = ...) -> None: ...

class ResumeVolumesRequest(_message.Message):
    __slots__ = ("suspension",)
    SUSPENSION_FIELD_NUMBER: _ClassVar[int]
    suspension: str
    def __init__(self, suspension: _Optional[str] = ...) -> None: ...

class ResumeVolumesResponse(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: bool
    def __init__(self, held: _Optional[bool] = ...) -> None: ...

class CreateSnapshotsRequest(_message.Message):
    __slots__ = ("cuts", "suspension")
    CUTS_FIELD_NUMBER: _ClassVar[int]
    SUSPENSION_FIELD_NUMBER: _ClassVar[int]
    cuts: _containers.RepeatedCompositeFieldContainer[Cut]
    suspension: str
    def __init__(self, cuts: _Optional[_Iterable[_Union[Cut, _Mapping]]] = ..., suspension: _Optional[str] = ...) -> None: ...

class Cut(_message.Message):
    __slots__ = ("snapshot_id", "volume_id", "record")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    volume_id: str
    record: str
    def __init__(self, snapshot_id: _Optional[str] = ..., volume_id: _Optional[str] = ..., record: _Optional[str] = ...) -> None: ...

class CreateSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots",)
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[Snapshot]
    def __init__(self, snapshots: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ...) -> None: ...

class DeleteSnapshotsRequest(_message.Message):
    __slots__ = ("snapshot_ids", "pool")
    SNAPSHOT_IDS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    snapshot_ids: _containers.RepeatedScalarFieldContainer[str]
    pool: str
    def __init__(self, snapshot_ids: _Optional[_Iterable[str]] = ..., pool: _Optional[str] = ...) -> None: ...

class DeleteSnapshotsResponse(_message.Message):
    __slots__ = ("pools",)
    POOLS_FIELD_NUMBER: _ClassVar[int]
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    def __init__(self, pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ...) -> None: ...

class VerifyVolumeRequest(_message.Message):
    __slots__ = ("volume_id",)
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    def __init__(self, volume_id: _Optional[str] = ...) -> None: ...

class VerifyVolumeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
