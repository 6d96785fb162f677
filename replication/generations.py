"""Data generations (DRBD's UUIDs): read from what tells them, and written for a new replica.

The lowest bit is DRBD's own: it says that the node is primary, and differs from node to node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from host.errors import Refused
from replication.record import Generations

# UUIDJUST_CREATED of linux/drbd.h: metadata that has seen no data yet.
JUST_CREATED = 4

# DRBD_MAX_BIO_SIZE: what every peer since 8.4.0 takes. Metadata of DRBD 8.4 that does not tell it
# limits the device to 4 KiB until it has once been connected, and what lies over it for longer.
LARGEST_IO_BYTES = 1 << 20

_GENERATION = re.compile(r"[0-9a-f]{16}")
_SECTOR = 512
# MDF_* of drbd_meta_data.h and linux/drbd.h, and where get-gi prints them.
_CONSISTENT, _PRIMARY, _WAS_UP_TO_DATE, _CRASHED_PRIMARY = 1 << 0, 1 << 1, 1 << 4, 1 << 6
_PRIMARY_WORD, _CRASHED_PRIMARY_WORD = 6, 10


@dataclass(frozen=True)
class Generation:
    """Data generation UUIDs of a replica, without the bit that says who was primary."""

    current: int
    bitmap: int

    @property
    def just_created(self) -> bool:
        return self.current == JUST_CREATED


def generations_of(text: str) -> Generations:
    """What ``get-gi`` of drbdsetup or drbdmeta (8.4) prints. Raises ``Refused`` for other text."""
    words = text.strip().split(":")
    try:
        numbers = [int(word, 16) for word in words[:4]]
        was_primary = "1" in (words[_PRIMARY_WORD], words[_CRASHED_PRIMARY_WORD])
    except (ValueError, IndexError) as error:
        raise Refused(f"not generations of DRBD: {text.strip()!r}") from error
    return _generations(numbers, was_primary=was_primary)


def generations_in(uuids: Sequence[int], flags: int) -> Generations:
    """The same from the numbers: the metadata's four UUIDs, and its flags."""
    return _generations(uuids, was_primary=bool(flags & (_PRIMARY | _CRASHED_PRIMARY)))


def _generations(uuids: Sequence[int], *, was_primary: bool) -> Generations:
    numbers = [number & ~1 for number in uuids]
    current, bitmap, *history = [f"{number:016x}" if number else "" for number in numbers]
    return Generations(current, bitmap, tuple(one for one in history if one), was_primary)


def metadata_dump(generation: str, size_bytes: int) -> str:
    """What ``drbdmeta restore-md`` makes metadata of; it leaves the bitmap on the disk as it is.

    Where that is zeros, nothing is out of sync; drbdmeta takes long to write any. The size has to
    be in it: DRBD takes all that a disk grew by since for out of sync. set-gi writes none. The
    format is that of dump-md, in its order. Raises ValueError.
    """
    number = int(generation, 16) if _GENERATION.fullmatch(generation) else 0
    if number <= JUST_CREATED or number % 2:
        raise ValueError(f"not a data generation: {generation!r}")
    if size_bytes <= 0 or size_bytes % _SECTOR:
        raise ValueError(f"not the size of a disk: {size_bytes}")
    return f"""version "v08";
uuid {{
    0x{number:016X}; 0x{0:016X}; 0x{0:016X}; 0x{0:016X};
    flags 0x{_CONSISTENT | _WAS_UP_TO_DATE:08X};
}}
la-size-sect {size_bytes // _SECTOR};
bm-byte-per-bit 4096;
device-uuid 0x{0:016X};
la-peer-max-bio-size {LARGEST_IO_BYTES};
al-stripes 1;
al-stripe-size-4k 8;
bm {{
}}
"""
