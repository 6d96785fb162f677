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
    __slots__ = ("version", "nodes", "counts", "differences", "compared_seconds_ago", "replicated")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    COMPARED_SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    version: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    counts: _containers.RepeatedCompositeFieldContainer[Count]
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    compared_seconds_ago: float
    replicated: _containers.RepeatedCompositeFieldContainer[Replicated]
    def __init__(self, version: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., counts: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ..., compared_seconds_ago: _Optional[float] = ..., replicated: _Optional[_Iterable[_Union[Replicated, _Mapping]]] = ...) -> None: ...

class Replicated(_message.Message):
    __slots__ = ("id", "name", "summary", "health")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    summary: str
    health: _node_agent_pb2.Health
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., summary: _Optional[str] = ..., health: _Optional[_Union[_node_agent_pb2.Health, str]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "address", "trouble", "boot_id", "version", "topology", "pools", "stuck_commands", "volumes", "snapshots", "replication_trouble")
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
    REPLICATION_TROUBLE_FIELD_NUMBER: _ClassVar[int]
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
    replication_trouble: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., trouble: _Optional[str] = ..., boot_id: _Optional[str] = ..., version: _Optional[str] = ..., topology: _Optional[_Mapping[str, str]] = ..., pools: _Optional[_Iterable[_Union[_node_agent_pb2.Pool, _Mapping]]] = ..., stuck_commands: _Optional[int] = ..., volumes: _Optional[int] = ..., snapshots: _Optional[int] = ..., replication_trouble: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("volumes", "next", "replicated")
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    volumes: _containers.RepeatedScalarFieldContainer[str]
    next: str
    replicated: _containers.RepeatedCompositeFieldContainer[Replicated]
    def __init__(self, volumes: _Optional[_Iterable[str]] = ..., next: _Optional[str] = ..., replicated: _Optional[_Iterable[_Union[Replicated, _Mapping]]] = ...) -> None: ...

class GetVolumeRequest(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: str
    def __init__(self, volume: _Optional[str] = ...) -> None: ...

class GetVolumeResponse(_message.Message):
    __slots__ = ("volume", "nodes", "replication")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_FIELD_NUMBER: _ClassVar[int]
    volume: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeVolume]
    replication: Replication
    def __init__(self, volume: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeVolume, _Mapping]]] = ..., replication: _Optional[_Union[Replication, _Mapping]] = ...) -> None: ...

class Replication(_message.Message):
    __slots__ = ("membership", "state", "explanation", "decision")
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    membership: str
    state: Replicated
    explanation: str
    decision: str
    def __init__(self, membership: _Optional[str] = ..., state: _Optional[_Union[Replicated, _Mapping]] = ..., explanation: _Optional[str] = ..., decision: _Optional[str] = ...) -> None: ...

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

class FailOverRequest(_message.Message):
    __slots__ = ("volume", "node")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    volume: str
    node: str
    def __init__(self, volume: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class FailOverResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    def __init__(self, outcome: _Optional[str] = ...) -> None: ...

class ForcePrimaryRequest(_message.Message):
    __slots__ = ("volume", "node", "accept_data_loss")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_DATA_LOSS_FIELD_NUMBER: _ClassVar[int]
    volume: str
    node: str
    accept_data_loss: bool
    def __init__(self, volume: _Optional[str] = ..., node: _Optional[str] = ..., accept_data_loss: _Optional[bool] = ...) -> None: ...

class ForcePrimaryResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    def __init__(self, outcome: _Optional[str] = ...) -> None: ...

class VerifyVolumeRequest(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: str
    def __init__(self, volume: _Optional[str] = ...) -> None: ...

class VerifyVolumeResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    def __init__(self, outcome: _Optional[str] = ...) -> None: ...

class SetReplicasRequest(_message.Message):
    __slots__ = ("volume", "count")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    volume: str
    count: int
    def __init__(self, volume: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class SetReplicasResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    def __init__(self, outcome: _Optional[str] = ...) -> None: ...

class MoveReplicaRequest(_message.Message):
    __slots__ = ("volume", "from_node", "to_node")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    FROM_NODE_FIELD_NUMBER: _ClassVar[int]
    TO_NODE_FIELD_NUMBER: _ClassVar[int]
    volume: str
    from_node: str
    to_node: str
    def __init__(self, volume: _Optional[str] = ..., from_node: _Optional[str] = ..., to_node: _Optional[str] = ...) -> None: ...

class MoveReplicaResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    def __init__(self, outcome: _Optional[str] = ...) -> None: ...
