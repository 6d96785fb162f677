from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("assignments", "gone", "complete")
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    gone: _containers.RepeatedScalarFieldContainer[str]
    complete: bool
    def __init__(self, assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., gone: _Optional[_Iterable[str]] = ..., complete: _Optional[bool] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("volume_id", "record", "revision", "replication", "secret", "peer", "go_alone", "word")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    GO_ALONE_FIELD_NUMBER: _ClassVar[int]
    WORD_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    record: str
    revision: int
    replication: str
    secret: str
    peer: str
    go_alone: bool
    word: str
    def __init__(self, volume_id: _Optional[str] = ..., record: _Optional[str] = ..., revision: _Optional[int] = ..., replication: _Optional[str] = ..., secret: _Optional[str] = ..., peer: _Optional[str] = ..., go_alone: _Optional[bool] = ..., word: _Optional[str] = ...) -> None: ...

class Statement(_message.Message):
    __slots__ = ("volume_id", "statement")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    statement: str
    def __init__(self, volume_id: _Optional[str] = ..., statement: _Optional[str] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("node", "what", "statement", "noted")
    NODE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    NOTED_FIELD_NUMBER: _ClassVar[int]
    node: str
    what: str
    statement: Statement
    noted: str
    def __init__(self, node: _Optional[str] = ..., what: _Optional[str] = ..., statement: _Optional[_Union[Statement, _Mapping]] = ..., noted: _Optional[str] = ...) -> None: ...

class AskResponse(_message.Message):
    __slots__ = ("granted", "record", "revision", "reason")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    record: str
    revision: int
    reason: str
    def __init__(self, granted: _Optional[bool] = ..., record: _Optional[str] = ..., revision: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class TellRequest(_message.Message):
    __slots__ = ("node", "statements")
    NODE_FIELD_NUMBER: _ClassVar[int]
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    node: str
    statements: _containers.RepeatedCompositeFieldContainer[Statement]
    def __init__(self, node: _Optional[str] = ..., statements: _Optional[_Iterable[_Union[Statement, _Mapping]]] = ...) -> None: ...

class TellResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
