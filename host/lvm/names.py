"""LVM's names, and how its devices are named after them (lvm(8), "Valid names")."""

from __future__ import annotations

import re

# A leading hyphen would read as an option.
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,126}")


def is_name(text: str) -> bool:
    """Whether a group or a volume may be named so."""
    return _NAME.fullmatch(text) is not None


def mangled(name: str) -> str:
    """A name as a part of those of devices, where a single hyphen stands between the parts."""
    return name.replace("-", "--")
