"""What the tags of a logical volume say about it: ours or not, what it is, how far it has come.

Tags are written by the very command that creates the logical volume, so that there is no moment at
which one of ours is not known as such. The format (LVM permits ``A-Za-z0-9_+.-/=!:&#`` and 1,024
characters a tag; lvm(8), "Tags"):

| tag                    | value                                                              |
|------------------------|--------------------------------------------------------------------|
| xlss.id=<id>           | identifier of the volume or snapshot                               |
| xlss.kind=<kind>       | volume, snapshot, scratch (the source of a copy, kept meanwhile)   |
|                        | or metadata (DRBD's, of the volume with that id)                   |
| xlss.state=<state>     | filling, blank, formatting or used (below)                         |
| xlss.unique=no         | a copy of a file system that still carries its source's UUID       |
| xlss.record.<n>=<part> | the record (cluster/model.py) as JSON, base64url, cut in parts     |

States: ``filling`` is half-made, a copy or a wipe is not finished. ``blank`` is complete and was
never formatted. ``formatting`` is set right before a file system or a LUKS header is made, and is
what a crash in there leaves. ``used`` may hold data, and is never formatted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

_PREFIX = "xlss."
_RECORD = "xlss.record."
_PART_LENGTH = 960  # below LVM's 1,024 with the tag's name


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
    record: str = ""  # JSON

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
        text = base64.urlsafe_b64encode(self.record.encode()).decode()
        parts = (text[at : at + _PART_LENGTH] for at in range(0, len(text), _PART_LENGTH))
        tags += [f"{_RECORD}{number}={part}" for number, part in enumerate(parts)]
        return tuple(tags)

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
    values: dict[str, str] = {}
    for tag in tags:
        if tag.startswith(_PREFIX):
            key, _, value = tag.partition("=")
            values[key] = value
    identifier = values.get(f"{_PREFIX}id", "")
    kind = values.get(f"{_PREFIX}kind", "")
    if not identifier or kind not in set(Kind):
        return None
    state = values.get(f"{_PREFIX}state", "")
    return Label(
        id=identifier,
        kind=Kind(kind),
        state=State(state) if state in set(State) else State.USED,
        unique=values.get(f"{_PREFIX}unique") != "no",
        record=_record(values),
    )


def changed_tags(old: Label, new: Label) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which tags to remove and which to add, to turn one label into the other."""
    before, after = old.tags, new.tags
    removed = tuple(tag for tag in before if tag not in after)
    added = tuple(tag for tag in after if tag not in before)
    return removed, added


def _record(values: dict[str, str]) -> str:
    parts: list[str] = []
    while (part := values.get(f"{_RECORD}{len(parts)}")) is not None:
        parts.append(part)
    try:
        return base64.urlsafe_b64decode("".join(parts)).decode()
    except (binascii.Error, ValueError):
        return ""
