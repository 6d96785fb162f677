from node_agent.rpc import node_agent_pb2 as _node_agent_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("version", "nodes", "counts", "differences", "compared_seconds_ago")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    COMPARED_SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    version: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    counts: _containers.RepeatedCompositeFieldContainer[Count]
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    compared_seconds_ago: float
    def __init__(self, version: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., counts: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ..., compared_seconds_ago: _Optional[float] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "address", "trouble", "boot_id", "version", "topology", "pools", "stuck_commands", "volumes", "snapshots")
    class TopologyEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    STUCK_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    trouble: str
    boot_id: str
    version: str
    topology: _containers.ScalarMap[str, str]
    pools: _containers.RepeatedCompositeFieldContainer[_node_agent_pb2.Pool]
    stuck_commands: int
    volumes: int
    snapshots: int
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., trouble: _Optional[str] = ..., boot_id: _Optional[str] = ..., version: _Optional[str] = ..., topology: _Optional[_Mapping[str, str]] = ..., pools: _Optional[_Iterable[_Union[_node_agent_pb2.Pool, _Mapping]]] = ..., stuck_commands: _Optional[int] = ..., volumes: _Optional[int] = ..., snapshots: _Optional[int] = ...) -> None: ...

class Count(_message.Message):
    __slots__ = ("kind", "phase", "count")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    phase: str
    count: int
    def __init__(self, kind: _Optional[str] = ..., phase: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("kind", "node", "object", "text", "mended")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MENDED_FIELD_NUMBER: _ClassVar[int]
    kind: str
    node: str
    object: str
    text: str
    mended: bool
    def __init__(self, kind: _Optional[str] = ..., node: _Optional[str] = ..., object: _Optional[str] = ..., text: _Optional[str] = ..., mended: _Optional[bool] = ...) -> None: ...

class ListVolumesRequest(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: str
    limit: int
    def __init__(self, after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListVolumesResponse(_message.Message):
    __slots__ = ("volumes", "next")
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    volumes: _containers.RepeatedScalarFieldContainer[str]
    next: str
    def __init__(self, volumes: _Optional[_Iterable[str]] = ..., next: _Optional[str] = ...) -> None: ...

class GetVolumeRequest(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: str
    def __init__(self, volume: _Optional[str] = ...) -> None: ...

class GetVolumeResponse(_message.Message):
    __slots__ = ("volume", "nodes")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    volume: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeVolume]
    def __init__(self, volume: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeVolume, _Mapping]]] = ...) -> None: ...

class NodeVolume(_message.Message):
    __slots__ = ("node", "trouble", "volume")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    node: str
    trouble: str
    volume: _node_agent_pb2.Volume
    def __init__(self, node: _Optional[str] = ..., trouble: _Optional[str] = ..., volume: _Optional[_Union[_node_agent_pb2.Volume, _Mapping]] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("after", "limit", "volume_id")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    after: str
    limit: int
    volume_id: str
    def __init__(self, after: _Optional[str] = ..., limit: _Optional[int] = ..., volume_id: _Optional[str] = ...) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots", "next")
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedScalarFieldContainer[str]
    next: str
    def __init__(self, snapshots: _Optional[_Iterable[str]] = ..., next: _Optional[str] = ...) -> None: ...
