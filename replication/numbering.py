"""The numbers of DRBD's states, in its module's enums, as words. Unknown ones warn.

``version`` is that of the netlink family: 1 (DRBD 8.4) or 2 (DRBD 9).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from replication.status import ConnectionState, DiskState, ReplicationState, Role

log = logging.getLogger("xlss.replication")

_ROLES = tuple(Role)
_CONNECTIONS = tuple(ConnectionState)[:-1]
_REPLICATIONS = tuple(ReplicationState)[:-1]
_DISKS_9 = tuple(DiskState)[:-1]
# Detaching came with DRBD 9, in the middle.
_DISKS_84 = tuple(state for state in _DISKS_9 if state is not DiskState.DETACHING)

OFF = 9
"""WFReportParams: the last state of a connection, where those of replication begin."""

_Word = TypeVar("_Word", bound=StrEnum)


def role(number: int) -> Role:
    return word(_ROLES, number, Role.UNKNOWN)


def connection(number: int) -> ConnectionState:
    return word(_CONNECTIONS, number, ConnectionState.UNKNOWN)


def replication(number: int) -> ReplicationState:
    return word(_REPLICATIONS, number - OFF, ReplicationState.UNKNOWN)


def disk(number: int, version: int) -> DiskState:
    return word(_DISKS_84 if version == 1 else _DISKS_9, number, DiskState.UNKNOWN)


def word(words: Sequence[_Word], number: int, unknown: _Word) -> _Word:
    """The word of that number; ``unknown`` for a number beyond them."""
    if 0 <= number < len(words):
        return words[number]
    log.warning("unknown %s %d of the module drbd", type(unknown).__name__, number)
    return unknown
