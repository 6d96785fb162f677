"""LVM's messages made into errors.

LVM has one exit code for nearly all failures (lvm(8), "Exit status": 5), so that its texts decide,
which ``LC_ALL=C`` keeps constant. Each pattern was seen in a real report or in LVM's source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from host.errors import (
    AlreadyExists,
    CommandFailed,
    DeviceFailed,
    HostError,
    InUse,
    Missing,
    NoSpace,
    Refused,
)
from host.lvm.report import SUCCESS, Report

SAME_SIZE = re.compile(r"matches existing size|not larger than existing size")
"""What an extension to a size that the volume already has is answered with."""

_VOLUME_NOT_FOUND = re.compile(
    r"Failed to find logical volume|[Ll]ogical volume \S+ not found"
    r"|Pool \S+ not found|origin LV \S+ not found"
)

# In order: the first pattern that a message matches decides. A disk that fails comes first, for it
# makes LVM miss volumes and room as well. A group that is not found is one whose disks are: nobody
# may take its volumes for gone.
_PATTERNS: tuple[tuple[re.Pattern[str], type[HostError]], ...] = (
    (
        re.compile(
            r"while PVs are missing|partial LV|partial logical volume|I/O error"
            r"|Input/output error|[Ee]rror (reading|writing) device|Couldn't find device"
            r"|[Mm]anual repair required|Check of pool \S+ failed|missing PVs"
            r"|device for PV \S+ not found|is unknown or missing"
            r"|Volume group \S+ not found|Cannot find volume group"
        ),
        DeviceFailed,
    ),
    (
        re.compile(
            r"[Ii]nsufficient (free|suitable|usable)|[Nn]ot enough free|too large for circular"
            r"|free space in (thin )?pool \S+ reached threshold|Can't get free space"
            r"|no free extents|[Ff]ree space in pool|Maximum number of logical volumes"
        ),
        NoSpace,
    ),
    (re.compile(r"already exists"), AlreadyExists),
    (_VOLUME_NOT_FOUND, Missing),
    (
        re.compile(
            r"in use|is used by another device|contains a filesystem|Device or resource busy"
            r"|Can't open \S+ exclusively"
        ),
        InUse,
    ),
    (
        re.compile(
            r"under snapshot|only while inactive|must not exceed number of physical volumes"
            r"|duplicate PV|Multiple VGs found|multiple volume groups|Cannot (change|process)"
            r"|[Nn]ot (supported|allowed|permitted)|[Cc]annot be|[Cc]an't (remove|resize|change)"
            r"|is exported|foreign|is already in volume group|not enough (PVs|physical)"
        ),
        Refused,
    ),
)


def failure(argv: Sequence[str], report: Report) -> HostError:
    """The error that a failed command stands for. ``argv``: without the program's name."""
    errors = report.errors
    text = "; ".join(dict.fromkeys(errors))
    for pattern, kind in _PATTERNS:
        if any(pattern.search(message) for message in errors):
            return kind(f"lvm {argv[0]}: {text}")
    nothing = "LVM said nothing about the cause"
    return CommandFailed(("lvm", *argv), report.return_code, text or nothing)


def without_missing(report: Report) -> Report:
    """The report of a command for which volumes that are not there are fine.

    It is a success if nothing else went wrong.
    """
    kept = tuple(m for m in report.messages if not _VOLUME_NOT_FOUND.search(m.text))
    rest = replace(report, messages=kept)
    if report.errors and not rest.errors:
        return replace(rest, return_code=SUCCESS)
    return rest


def only_same_size(report: Report) -> bool:
    """Whether an extension failed only because the volume is as large already."""
    return bool(report.errors) and all(SAME_SIZE.search(message) for message in report.errors)
