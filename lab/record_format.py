"""The records that test writers put on volumes, and what a place of the ring holds.

A region of a volume is a ring of places of one record each; record N (from 1) lies at place
(N - 1) mod places. A record, little endian:

    0   8  "XLSSREC1"
    8  16  run: a random id, so that what an earlier test left is not taken for a record
   24   8  epoch: which writer; the later one has the higher number
   32   8  number of the record
   40   8  place at which it was written
   48   4  size of the record, bytes
   52  12  zeros
   64   …  SHAKE-128 of the bytes before, up to the size: nothing can change unnoticed

It is used on both sides, in the node with the standard library alone.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass

MAGIC = b"XLSSREC1"
RUN_BYTES = 16
_HEAD = struct.Struct("<8s16sQQQI12x")


class State(enum.Enum):
    """What a place holds."""

    BLANK = "blank"  # nothing of this run: what was there before
    RECORD = "record"  # a whole record, perhaps not the one that belongs there
    DAMAGED = "damaged"  # the head of a record of this run, with something else behind it


@dataclass(frozen=True)
class Found:
    """What was read at one place; the numbers are those in its head, 0 where it is blank."""

    state: State
    epoch: int = 0
    number: int = 0
    place: int = 0


BLANK = Found(State.BLANK)


def place_of(number: int, places: int) -> int:
    return (number - 1) % places


def pack(run: bytes, epoch: int, number: int, place: int, size: int) -> bytes:
    """A record of `size` bytes."""
    head = _HEAD.pack(MAGIC, run, epoch, number, place, size)
    return head + hashlib.shake_128(head).digest(size - _HEAD.size)


def parse(data: bytes | memoryview, run: bytes) -> Found:
    """What one place holds: `data` has the size of a record."""
    magic, its_run, epoch, number, place, size = _HEAD.unpack_from(data)
    if magic != MAGIC or its_run != run:
        return BLANK
    whole = size == len(data) and bytes(data) == pack(run, epoch, number, place, size)
    return Found(State.RECORD if whole else State.DAMAGED, epoch, number, place)
