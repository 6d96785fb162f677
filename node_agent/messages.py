"""What is done to every request, whatever its type: its bounds are checked, and it is logged.

Both walk the message by its descriptor, so that a field that comes with a later version of a
protocol is covered without anybody thinking of it. The fields that are secret say so themselves,
by the ``csi_secret`` option of CSI, or by protobuf's own ``debug_redact``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cluster.errors import InvalidArgument

_SECRET_OPTION = "csi.v1.csi_secret"
_STRIPPED = "***stripped***"

# CSI 1.13, "Size Limits", has 128 bytes for strings (more for paths) and 4 KiB for maps as what
# must be accepted. Orchestrators do exceed them, so these bounds leave room.
MAX_STRING_BYTES = 4096
MAX_MAP_BYTES = 64 << 10

# A line of a log is for reading.
_SHOWN_CHARACTERS = 256
_SHOWN_ENTRIES = 16
_SHOWN_TOTAL = 4096


def check_bounds(message: Message, string_limit: int = MAX_STRING_BYTES) -> None:
    """Raise InvalidArgument for text that is too long or carries a NUL, naming the field.

    Behind this check no text of a request can end early in a path or an argument.
    """
    for field, value in message.ListFields():
        if _is_map(field):
            _check_map(field, value)
        elif field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                check_bounds(part, string_limit)
        elif field.type == FieldDescriptor.TYPE_STRING:
            for text in value if field.is_repeated else (value,):
                _check_text(field, text, string_limit)


def _check_map(field: FieldDescriptor, entries: Any) -> None:
    total = 0
    for key, value in entries.items():
        for part in (key, value):
            if isinstance(part, Message):
                check_bounds(part)
            elif isinstance(part, str):
                total += len(part.encode())
                _check_text(field, part, MAX_MAP_BYTES)
    if total > MAX_MAP_BYTES:
        raise InvalidArgument(f"{field.name} has {total} bytes, more than {MAX_MAP_BYTES}")


def _check_text(field: FieldDescriptor, text: str, limit: int) -> None:
    if len(text) > limit or len(text.encode()) > limit:
        raise InvalidArgument(f"{field.name} is longer than {limit} bytes")
    if "\0" in text:
        raise InvalidArgument(f"{field.name} contains a NUL character")


def loggable(message: Message) -> dict[str, Any]:
    """The message as a JSON object for a log: without its secrets, and never long."""
    shown = dict(_shown_fields(message))
    text = json.dumps(shown, ensure_ascii=False)
    return shown if len(text) <= _SHOWN_TOTAL else {"cut": text[:_SHOWN_TOTAL]}


def _shown_fields(message: Message) -> Iterator[tuple[str, Any]]:
    for field, value in message.ListFields():
        if _is_secret(field):
            yield field.name, _STRIPPED
        elif _is_map(field):
            keys = sorted(value)
            entries = {_cut(key): _shown(field, value[key]) for key in keys[:_SHOWN_ENTRIES]}
            yield field.name, entries | _more(len(keys))
        elif field.is_repeated:
            parts = [_shown(field, part) for part in value[:_SHOWN_ENTRIES]]
            yield field.name, [*parts, *_more(len(value)).values()]
        else:
            yield field.name, _shown(field, value)


def _shown(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Message):
        return dict(_shown_fields(value))
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return _cut(value) if isinstance(value, str | bytes) else value


def _cut(text: Any) -> Any:
    if isinstance(text, bytes):
        return f"{len(text)} bytes"
    if isinstance(text, str) and len(text) > _SHOWN_CHARACTERS:
        return f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
    return text


def _more(count: int) -> dict[str, str]:
    hidden = count - _SHOWN_ENTRIES
    return {"…": f"{hidden} more"} if hidden > 0 else {}


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _is_secret(field: FieldDescriptor) -> bool:
    return _is_secret_name(field.full_name)


@functools.cache
def _is_secret_name(full_name: str) -> bool:
    pool = descriptor_pool.Default()
    options = pool.FindFieldByName(full_name).GetOptions()
    if options.debug_redact:
        return True
    try:
        option: Any = pool.FindExtensionByName(_SECRET_OPTION)
    except KeyError:
        return False  # the CSI protocol is not loaded: no message with that option exists
    return bool(options.Extensions[option])
