"""Identifiers of volumes, snapshots and groups: made and parsed in this file and nowhere else.

An identifier is a kind letter (``v``, ``s``, ``g``), 20 hexadecimal digits of the SHA-256 of the
name, and 8 random hexadecimal digits: 29 characters without a hyphen, safe in paths, LVM names,
device-mapper names and Kubernetes object names.

The first 21 characters are the *key* of the record in the store. Creating the key is therefore the
claim on the name, and a look-up by name or by identifier is one ``get``. The random part, the
*incarnation*, tells a volume from a former one of the same name, so that a late request for the
old one cannot touch the new one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from enum import StrEnum

from cluster.errors import InvalidArgument, NotFound

_PATTERN = re.compile(r"[vsg][0-9a-f]{28}")
_KEY_LENGTH = 21
_KEY_PATTERN = re.compile(r"[vsg][0-9a-f]{20}")
MAX_NAME_BYTES = 128  # CSI 1.13, "Size Limits": 128 bytes for a string without a limit of its own


class Kind(StrEnum):
    VOLUME = "v"
    SNAPSHOT = "s"
    GROUP = "g"


def key_of_name(kind: Kind, name: str) -> str:
    """The store key of the object of that name."""
    return kind.value + hashlib.sha256(name.encode()).hexdigest()[: _KEY_LENGTH - 1]


def new_id(kind: Kind, name: str) -> str:
    """A fresh identifier for an object of that name."""
    return key_of_name(kind, name) + secrets.token_hex(4)


def key_of_id(identifier: str) -> str:
    """The store key of a well-formed identifier."""
    return identifier[:_KEY_LENGTH]


def is_key(text: str) -> bool:
    """Whether the text is a well-formed store key."""
    return _KEY_PATTERN.fullmatch(text) is not None


def is_id(kind: Kind, text: str) -> bool:
    """Whether the text is a well-formed identifier of that kind."""
    return _PATTERN.fullmatch(text) is not None and text[0] == kind.value


def require_id(kind: Kind, text: str, field: str) -> str:
    """Return the identifier.

    Raises InvalidArgument when it is empty, and NotFound when it is none of ours: CSI wants
    NOT_FOUND for an unknown volume, whatever it looks like.
    """
    if not text:
        raise InvalidArgument(f"{field} is missing")
    if not is_id(kind, text):
        raise NotFound(f"{field} {text[:64]!r} is not an identifier of this driver")
    return text


def require_name(text: str) -> str:
    """Return the name; raises InvalidArgument for one that CSI does not permit.

    White space is permitted (CSI 1.13, CreateVolumeRequest.name), in the middle and alone.
    """
    if not text:
        raise InvalidArgument("name is missing")
    if len(text.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidArgument(f"name is longer than {MAX_NAME_BYTES} bytes")
    if any(_is_control(character) for character in text):
        raise InvalidArgument("name contains control characters")
    return text


def _is_control(character: str) -> bool:
    code = ord(character)
    return (code < 0x20 and character not in "\t\n\r") or 0x7F <= code <= 0x9F
