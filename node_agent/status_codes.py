"""The one table between errors and gRPC status codes, both ways.

An error is answered with the code of its most specific class in the table. A code that a node's
agent answered becomes the error that the workflows know. CSI 1.13 ("Error Scheme" and the tables
of the single calls) says what a code makes the caller do; the comments say where that decided.
"""

from __future__ import annotations

import grpc

import cluster.errors as cluster
import host.errors as host
from node_agent.tls import PeerRefused

_Code = grpc.StatusCode

_CODES: dict[type[Exception], grpc.StatusCode] = {
    cluster.ClusterError: _Code.INTERNAL,
    cluster.InvalidArgument: _Code.INVALID_ARGUMENT,
    cluster.NotFound: _Code.NOT_FOUND,
    cluster.AlreadyExists: _Code.ALREADY_EXISTS,
    cluster.OutOfRange: _Code.OUT_OF_RANGE,
    # Final for the node that was chosen: the scheduler tries another one.
    cluster.NoSpace: _Code.RESOURCE_EXHAUSTED,
    cluster.Refused: _Code.FAILED_PRECONDITION,
    cluster.Busy: _Code.ABORTED,
    cluster.Unavailable: _Code.UNAVAILABLE,
    cluster.Unsupported: _Code.UNIMPLEMENTED,
    cluster.DataLoss: _Code.DATA_LOSS,
    cluster.Conflict: _Code.ABORTED,
    host.HostError: _Code.INTERNAL,
    host.Missing: _Code.NOT_FOUND,
    host.AlreadyExists: _Code.ALREADY_EXISTS,
    host.NoSpace: _Code.RESOURCE_EXHAUSTED,
    host.InUse: _Code.FAILED_PRECONDITION,
    host.NotBlank: _Code.FAILED_PRECONDITION,
    # The secret is not the right one: CSI calls that "Not authenticated".
    host.WrongKey: _Code.UNAUTHENTICATED,
    host.Refused: _Code.FAILED_PRECONDITION,
    host.InTransition: _Code.UNAVAILABLE,
    # Not final: parts of what was asked for may be there, so the caller has to come back to us
    # rather than take it that nothing was made. The same holds for a command that hangs.
    host.DeviceFailed: _Code.UNAVAILABLE,
    host.CommandStuck: _Code.UNAVAILABLE,
    host.CommandLost: _Code.UNAVAILABLE,
    host.CommandFailed: _Code.INTERNAL,
    PeerRefused: _Code.PERMISSION_DENIED,
}

_ERRORS: dict[grpc.StatusCode, type[cluster.ClusterError]] = {
    _Code.INVALID_ARGUMENT: cluster.InvalidArgument,
    _Code.NOT_FOUND: cluster.NotFound,
    _Code.ALREADY_EXISTS: cluster.AlreadyExists,
    _Code.OUT_OF_RANGE: cluster.OutOfRange,
    _Code.RESOURCE_EXHAUSTED: cluster.NoSpace,
    _Code.FAILED_PRECONDITION: cluster.Refused,
    _Code.ABORTED: cluster.Busy,
    _Code.UNAVAILABLE: cluster.Unavailable,
    _Code.UNIMPLEMENTED: cluster.Unsupported,
    _Code.DATA_LOSS: cluster.DataLoss,
    # The outcome of the call is unknown, and the same call may be made again.
    _Code.DEADLINE_EXCEEDED: cluster.Unavailable,
    _Code.CANCELLED: cluster.Unavailable,
    # The node does not take us for its controller: it is out of reach until that is put right.
    _Code.PERMISSION_DENIED: cluster.Unavailable,
    _Code.UNAUTHENTICATED: cluster.Unavailable,
}

# How gRPC itself says that a message is over the limit of its channel: not a lack of storage.
_MESSAGE_TOO_LARGE = "message larger than max"


def code_of(error: BaseException) -> grpc.StatusCode | None:
    """The code that an error is answered with; None for one that nobody raised on purpose."""
    for ancestor in type(error).__mro__:
        if code := _CODES.get(ancestor):
            return code
    return None


def error_of(code: grpc.StatusCode, text: str) -> cluster.ClusterError:
    """The error that an agent's answer stands for, ready to be raised."""
    if code is _Code.RESOURCE_EXHAUSTED and _MESSAGE_TOO_LARGE in text:
        return cluster.ClusterError(text)
    return _ERRORS.get(code, cluster.ClusterError)(text)
