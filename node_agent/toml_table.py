"""Reading configuration files: every key is asked for once, by type; the rest is refused.

A mistyped key in a configuration that is silently ignored shows up much later and elsewhere, so
unknown keys are errors that name the nearest valid one. Errors are InvalidArgument with the file
and the dotted key.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cluster.errors import InvalidArgument

_T = TypeVar("_T")
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}


class Table:
    """One table of a TOML file. Call ``finish`` (also on its sub-tables) after the last key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        """``where`` starts every error: the file, and the dotted name of a sub-table."""
        self._values = values
        self._where = where
        self._asked: set[str] = set()

    @property
    def where(self) -> str:
        return self._where

    def text(self, key: str, default: str | None = None) -> str:
        """A string, not empty; required when there is no default."""
        value = self._take(key, str, "a string", default)
        if not value and default is None:
            raise self.error(key, "must not be empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; none when it is missing."""
        values = self._take(key, list, "a list of strings", [])
        if not all(isinstance(value, str) and value for value in values):
            raise self.error(key, "must be a list of strings")
        return tuple(values)

    def path(self, key: str, default: Path | None = None) -> Path:
        """An absolute path: a daemon's working directory is nobody's choice."""
        value = Path(self.text(key, None if default is None else str(default)))
        if not value.is_absolute():
            raise self.error(key, f"must be an absolute path, not {str(value)!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return self._take(key, bool, "true or false", default)

    def integer(self, key: str, default: int, *, minimum: int, maximum: int) -> int:
        value = self._take(key, int, "an integer", default)
        if isinstance(value, bool) or not minimum <= value <= maximum:
            raise self.error(key, f"must be an integer from {minimum} to {maximum}, not {value!r}")
        return value

    def number(self, key: str, default: float, *, minimum: float, maximum: float) -> float:
        """A number, such as a deadline in seconds or a ratio."""
        value: object = self._take(key, object, "a number", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "must be a number")
        if not minimum <= value <= maximum:
            raise self.error(key, f"must be a number from {minimum:g} to {maximum:g}")
        return float(value)

    def size(self, key: str, default: int | None = None) -> int:
        """Bytes: an integer, or a string with a unit such as ``"64 KiB"``."""
        value = self._take(key, object, 'bytes, or a size such as "64 MiB"', default)
        digits = str(value).rstrip("KMGTPiB ")
        unit = str(value)[len(digits) :].strip()
        if isinstance(value, bool) or not digits.isdecimal() or unit not in _UNITS:
            units = ", ".join(filter(None, _UNITS))
            raise self.error(key, f"must be bytes, or a number with one of {units}: {value!r}")
        return int(digits) * _UNITS[unit]

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise self.error(
                key, f"must be {' or '.join(choices)}, not {value!r}{near(value, choices)}"
            )
        return value

    def strings(self, key: str) -> dict[str, str]:
        """A table of strings under keys of the user's choice; empty when it is missing."""
        values = self._take(key, dict, "a table of strings", {})
        for name, value in values.items():
            if not isinstance(value, str) or not value:
                raise self.error(f"{key}.{name}", "must be a string that is not empty")
        return dict(values)

    def table(self, key: str) -> Table:
        """A sub-table; empty when it is missing."""
        return Table(self._take(key, dict, "a table", {}), f"{self._where}: {key}")

    def tables(self, key: str) -> tuple[Table, ...]:
        """An array of tables (``[[key]]``); none when it is missing."""
        values = self._take(key, list, "an array of tables", [])
        if not all(isinstance(value, dict) for value in values):
            raise self.error(key, "must be an array of tables")
        return tuple(
            Table(value, f"{self._where}: {key}[{index}]") for index, value in enumerate(values)
        )

    def has(self, key: str) -> bool:
        return key in self._values

    def finish(self) -> None:
        """Refuse what nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                raise self.error(key, f"is not known here{near(key, tuple(sorted(self._asked)))}")

    def error(self, key: str, text: str) -> InvalidArgument:
        """The error to raise about one key."""
        return InvalidArgument(f"{self._where}: {key} {text}")

    def _take(self, key: str, kind: type[_T], what: str, default: _T | None) -> _T:
        self._asked.add(key)
        if key not in self._values:
            if default is None:
                raise self.error(key, "is missing")
            return default
        value = self._values[key]
        if not isinstance(value, kind):
            raise self.error(key, f"must be {what}")
        return value


def near(wrong: str, valid: tuple[str, ...]) -> str:
    """`` (did you mean 'x'?)`` for the nearest of the valid words, or the list of them all."""
    close = difflib.get_close_matches(wrong, valid, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(valid)})" if valid else ""


def read_toml(path: Path) -> Table:
    """The root table of a file. Raises InvalidArgument when it cannot be read or parsed."""
    try:
        return Table(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: not valid TOML: {error}") from error
