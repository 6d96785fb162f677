"""What the tags of a logical volume say about it: ours or not, what it is, how far it has come.

Tags are written by the very command that creates the logical volume, so that there is no moment at
which one of ours is not known as such. The format (LVM permits ``A-Za-z0-9_+.-/=!:&#`` and 1,024
characters a tag; lvm(8), "Tags"):

| tag                     | value                                                             |
|-------------------------|-------------------------------------------------------------------|
| xlss.id=<id>            | identifier of the volume or snapshot                              |
| xlss.kind=<kind>        | volume, snapshot, scratch (the source of a copy, kept meanwhile)  |
|                         | or metadata (DRBD's, of the volume with that id)                  |
| xlss.state=<state>      | filling, blank, formatting or used (below)                        |
| xlss.unique=no          | a copy of a file system that still carries its source's UUID      |
| xlss.wiped=<bytes>      | it grows: what lies beyond is a former tenant's until it is wiped |
| xlss.zrecord.<n>=<part> | the record (cluster/model.py) as JSON, compressed (RFC 1950, with |
|                         | ``_DICTIONARY`` preset), base64url, cut in parts                  |
| xlss.record.<n>=<part>  | the same without the compression: read where it is found and      |
|                         | there is no zrecord, not written any more                         |

LVM reads and writes the tags of the whole group at every command, so that each byte counts: the
compression takes a record to less than half.

States: ``filling`` is half-made, a copy or a wipe is not finished. ``blank`` is complete and was
never formatted. ``formatting`` is set right before a file system or a LUKS header is made, and is
what a crash in there leaves. ``used`` may hold data, and is never formatted.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

_PREFIX = "xlss."
_RECORD = "xlss.zrecord."
_PLAIN_RECORD = "xlss.record."
_PART_LENGTH = 960  # below LVM's 1,024 with the tag's name
_LONGEST_RECORD = 1 << 20
# What records have in common; the most frequent comes last. Part of the format: what was written
# with one dictionary can be read with no other, so that this text must never change. A better one
# needs a tag of another name.
_DICTIONARY = (
    b'"snapshot_id":"source":{"id":"s","kind":"snapshot"},"volume_id":"v","group_id":'
    b'"layout":{"copies":2,"kind":"raid1"},"encrypted":true,"filesystem":"btrfs",'
    b'"filesystem":"xfs","mkfs_options":["limits":{"read_iops":"limit_bytes":"topology":'
    b'"replicas":2,"replication":{"spec":{"access":"block","filesystem":"ext4",'
    b'"pool":"default","provision":"thin"}},"size_bytes":1073741824,"phase":"ready",'
    b'{"created_at":17,"id":"v","name":"pvc-","nodes":["node"],"phase":"creating",'
    b'"size_bytes":10737418240,"spec":{"access":"mount","pool":"default","provision":"thick"}}'
)


class Kind(StrEnum):
    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    SCRATCH = "scratch"
    METADATA = "metadata"

    @property
    def tag(self) -> str:
        """The tag that all of the kind carry."""
        return f"{_PREFIX}kind={self.value}"


class State(StrEnum):
    FILLING = "filling"
    BLANK = "blank"
    FORMATTING = "formatting"
    USED = "used"


_NAME_PREFIXES = {
    Kind.VOLUME: "vol-",
    Kind.SNAPSHOT: "snap-",
    Kind.SCRATCH: "tmp-",
    Kind.METADATA: "meta-",
}


@dataclass(frozen=True)
class Label:
    id: str
    kind: Kind
    state: State
    unique: bool = True
    wiped_bytes: int | None = None  # None: it is all its own
    record: str = ""  # JSON
    # The record as it was found, and the tags that said so: the same record may be written in
    # other bytes by another release of zlib, and in the older format.
    found: tuple[str, tuple[str, ...]] = field(default=("", ()), compare=False, repr=False)

    @property
    def name(self) -> str:
        """The name of the logical volume."""
        return _NAME_PREFIXES[self.kind] + self.id

    @property
    def tags(self) -> tuple[str, ...]:
        tags = [
            f"{_PREFIX}id={self.id}",
            self.kind.tag,
            f"{_PREFIX}state={self.state}",
        ]
        if not self.unique:
            tags.append(f"{_PREFIX}unique=no")
        if self.wiped_bytes is not None:
            tags.append(f"{_PREFIX}wiped={self.wiped_bytes}")
        record, written = self.found
        if record != self.record:
            written = _in_parts(_RECORD, _compressed(self.record))
        return (*tags, *written)

    def with_state(self, state: State) -> Label:
        return replace(self, state=state)


def lv_name(kind: Kind, identifier: str) -> str:
    """The name of the logical volume that holds it."""
    return _NAME_PREFIXES[kind] + identifier


def parse_label(tags: Iterable[str]) -> Label | None:
    """The label of a logical volume, or None when it is not one of ours.

    Lenient, because whatever it cannot read would become an orphan: an unknown state counts as
    ``used`` (never formatted, never removed as half-made), a damaged record as an empty one.
    """
    ours = [tag for tag in tags if tag.startswith(_PREFIX)]
    values = {key: value for key, _, value in (tag.partition("=") for tag in ours)}
    identifier = values.get(f"{_PREFIX}id", "")
    kind = values.get(f"{_PREFIX}kind", "")
    if not identifier or kind not in set(Kind):
        return None
    state = values.get(f"{_PREFIX}state", "")
    wiped = values.get(f"{_PREFIX}wiped", "")
    record = _record(values)
    return Label(
        id=identifier,
        kind=Kind(kind),
        state=State(state) if state in set(State) else State.USED,
        unique=values.get(f"{_PREFIX}unique") != "no",
        wiped_bytes=int(wiped) if wiped.isdecimal() else None,
        record=record,
        found=(record, tuple(tag for tag in ours if tag.startswith((_RECORD, _PLAIN_RECORD)))),
    )


def changed_tags(old: Label, new: Label) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which tags to remove and which to add, to turn one label into the other."""
    before, after = old.tags, new.tags
    removed = tuple(tag for tag in before if tag not in after)
    added = tuple(tag for tag in after if tag not in before)
    return removed, added


def _in_parts(name: str, data: bytes) -> tuple[str, ...]:
    text = base64.urlsafe_b64encode(data).decode()
    parts = (text[at : at + _PART_LENGTH] for at in range(0, len(text), _PART_LENGTH))
    return tuple(f"{name}{number}={part}" for number, part in enumerate(parts))


def _record(values: dict[str, str]) -> str:
    try:
        if f"{_RECORD}0" in values:
            return _decompressed(_joined(_RECORD, values)).decode()
        return _joined(_PLAIN_RECORD, values).decode()
    except (binascii.Error, ValueError, zlib.error):
        return ""


def _joined(name: str, values: dict[str, str]) -> bytes:
    parts: list[str] = []
    while (part := values.get(f"{name}{len(parts)}")) is not None:
        parts.append(part)
    return base64.urlsafe_b64decode("".join(parts))


def _compressed(record: str) -> bytes:
    if not record:
        return b""
    compressor = zlib.compressobj(level=9, zdict=_DICTIONARY)
    return compressor.compress(record.encode()) + compressor.flush()


def _decompressed(data: bytes) -> bytes:
    """Raises zlib.error, ValueError when it is damaged or cut off."""
    decompressor = zlib.decompressobj(zdict=_DICTIONARY)
    record = decompressor.decompress(data, _LONGEST_RECORD)
    if not decompressor.eof:
        raise ValueError("the record has no end")
    return record
