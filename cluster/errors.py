"""The domain errors of XLSS.

Each says what is wrong and what to do about it, in words that a person reads in an event or a log.
They carry no gRPC codes: the one table that maps them is ``node_agent/status_codes.py``.
"""

from __future__ import annotations


class ClusterError(Exception):
    """Base of all errors that the driver raises on purpose."""


class InvalidArgument(ClusterError):
    """The request itself is wrong; the same request will never succeed."""


class NotFound(ClusterError):
    """The volume, snapshot, group, node or pool does not exist."""


class AlreadyExists(ClusterError):
    """Something of that name exists and is not what was asked for."""


class OutOfRange(ClusterError):
    """A size that no pool of the cluster can ever have, or that the request itself limits."""


class NoSpace(ClusterError):
    """No permitted node has room now; another node or a later time may have."""


class Refused(ClusterError):
    """The state forbids it (a volume in use, a dependent snapshot); the text says which."""


class Busy(ClusterError):
    """Another operation on the same object is under way; repeat the request later."""


class Unavailable(ClusterError):
    """A node or the store cannot be reached, or an operation is going on; repeat the request."""


class Unsupported(ClusterError):
    """The driver does not do this (yet)."""


class DataLoss(ClusterError):
    """What should be there is gone or damaged; a person has to decide."""


class Conflict(ClusterError):
    """Compare-and-swap failed: the record was changed by somebody else in between."""
