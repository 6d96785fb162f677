"""Which options of mkfs a class may set: those that shape the file system, and no others.

An option that names a path, another device, a smaller size or a UUID, or that overrides the checks
against formatting what carries data, is not for a class to give. Sources: mke2fs(8), mkfs.xfs(8),
mkfs.btrfs(8).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NUMBER = r"\d{1,12}"
_SIZE = r"\d{1,12}[kKmMgGsb]?"
_SWITCH = r"[01]"


@dataclass(frozen=True)
class _Value:
    """An option with one value that matches ``pattern`` as a whole."""

    pattern: str


@dataclass(frozen=True)
class _Pairs:
    """An option with ``key[=value]`` pairs between commas; "" as pattern: a key without value."""

    keys: Mapping[str, str]


@dataclass(frozen=True)
class _Features:
    """A list of feature names; ``forbidden`` ones would make something else than a volume."""

    forbidden: frozenset[str]


@dataclass(frozen=True)
class _Flag:
    """An option without a value."""


_Kind = _Value | _Pairs | _Features | _Flag

_OPTIONS: Mapping[str, Mapping[str, _Kind]] = {
    "ext4": {
        "-b": _Value("1024|2048|4096"),
        "-C": _Value(_NUMBER),
        "-E": _Pairs(
            {
                "stride": _NUMBER,
                "stripe_width": _NUMBER,
                "stripe-width": _NUMBER,
                "resize": _NUMBER,
                "num_backup_sb": "[012]",
                "packed_meta_blocks": _SWITCH,
                "lazy_itable_init": _SWITCH,
                "lazy_journal_init": _SWITCH,
                "quotatype": "usrquota|grpquota|prjquota",
                "encoding": "utf8(-12[.]1)?",
                "discard": "",
                "nodiscard": "",
            }
        ),
        "-g": _Value(_NUMBER),
        "-G": _Value(_NUMBER),
        "-i": _Value(_NUMBER),
        "-I": _Value(_NUMBER),
        "-J": _Pairs({"size": _NUMBER, "fast_commit_size": _NUMBER}),
        "-m": _Value(r"\d{1,2}([.]\d{1,2})?"),
        "-N": _Value(_NUMBER),
        "-O": _Features(frozenset({"none", "journal_dev", "mmp", "read-only", "shared_blocks"})),
        "-T": _Value("[a-z0-9]{1,16}(,[a-z0-9]{1,16}){0,3}"),
    },
    "xfs": {
        "-b": _Pairs({"size": "(512|1024|2048|4096|1k|2k|4k)"}),
        "-d": _Pairs(
            {
                "agcount": _NUMBER,
                "agsize": _SIZE,
                "su": _SIZE,
                "sw": _NUMBER,
                "sunit": _NUMBER,
                "swidth": _NUMBER,
            }
        ),
        "-i": _Pairs(
            {
                "size": _NUMBER,
                "perblock": _NUMBER,
                "maxpct": r"\d{1,3}",
                "attr": "[12]",
                "align": _SWITCH,
                "sparse": _SWITCH,
                "nrext64": _SWITCH,
            }
        ),
        "-l": _Pairs({"size": _SIZE, "su": _SIZE, "sunit": _NUMBER, "lazy-count": _SWITCH}),
        "-m": _Pairs(
            {
                "crc": "1",
                "finobt": _SWITCH,
                "inobtcount": _SWITCH,
                "reflink": _SWITCH,
                "rmapbt": _SWITCH,
                "bigtime": _SWITCH,
            }
        ),
        "-n": _Pairs({"size": _SIZE, "ftype": _SWITCH}),
        "-s": _Pairs({"size": "(512|4096|4k)"}),
    },
    "btrfs": {
        "-n": _Value(_SIZE),
        "-s": _Value("4096|4k|4K"),
        "-m": _Value("single|dup"),
        "-d": _Value("single|dup"),
        "-M": _Flag(),
        "-O": _Features(frozenset({"zoned", "raid56", "extent-tree-v2", "list-all"})),
        "-R": _Features(frozenset({"list-all"})),
    },
}

FILESYSTEMS = tuple(_OPTIONS)


def validate_mkfs_options(filesystem: str, options: Sequence[str]) -> None:
    """Raises ValueError that names the first of ``options`` which is not one for a class.

    ``options`` are words of a command line; a value may be a word of its own (``-m 1``) or part of
    its option's (``-m1``).
    """
    for option, value in split_options(filesystem, options):
        _check(filesystem, option, value)


def split_options(filesystem: str, options: Sequence[str]) -> list[tuple[str, str | None]]:
    """``(letter with its dash, value)``; None for an option that has no value."""
    known = _OPTIONS.get(filesystem)
    if known is None:
        raise ValueError(f"no such file system: {filesystem!r}; there are {', '.join(FILESYSTEMS)}")
    found: list[tuple[str, str | None]] = []
    words = iter(options)
    for word in words:
        option = word[:2]
        kind = known.get(option)
        if kind is None or (isinstance(kind, _Flag) and len(word) > 2):
            raise ValueError(
                f"{word[:64]!r} is not an option of mkfs for {filesystem} that a class can set; "
                f"these are: {' '.join(known)}"
            )
        if isinstance(kind, _Flag):
            found.append((option, None))
            continue
        value = word[2:] or next(words, "")
        if not value:
            raise ValueError(f"the mkfs option {option} needs a value")
        found.append((option, value))
    return found


def _check(filesystem: str, option: str, value: str | None) -> None:
    kind = _OPTIONS[filesystem][option]
    if value is None or isinstance(kind, _Flag):
        return
    shown = value[:64]
    if isinstance(kind, _Value):
        if not re.fullmatch(kind.pattern, value):
            raise ValueError(f"the mkfs option {option} does not take {shown!r}")
        return
    for part in value.split(","):
        if isinstance(kind, _Features):
            _check_feature(option, part, kind)
        else:
            _check_pair(option, part, kind)


def _check_feature(option: str, part: str, kind: _Features) -> None:
    if not re.fullmatch(r"\^?[a-z0-9][a-z0-9_-]{0,40}", part) or part in kind.forbidden:
        raise ValueError(f"the mkfs option {option} does not take the feature {part[:64]!r}")


def _check_pair(option: str, part: str, kind: _Pairs) -> None:
    key, equals, value = part.partition("=")
    pattern = kind.keys.get(key)
    if pattern is None:
        near = difflib.get_close_matches(key, kind.keys, 1)
        hint = near[0] if near else f"one of {', '.join(kind.keys)}"
        raise ValueError(f"the mkfs option {option} has no {key[:64]!r} for a class: {hint}?")
    if bool(equals) != bool(pattern) or not re.fullmatch(pattern, value):
        raise ValueError(f"the mkfs option {option} does not take {part[:64]!r}")
