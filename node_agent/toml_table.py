"""Reading configuration files: every key is taken once, with its reader; the rest is refused.

A mistyped key that is silently ignored shows up much later and elsewhere, so unknown keys are
errors that name the nearest valid one. A reader turns one loose value into a typed one and raises
ValueError with what is wanted; the table adds which key it was.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cluster.spelling import nearest

_UNITS = {"": 1, "B": 1} | {
    f"{letter}iB": 1 << shift
    for letter, shift in (("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50))
}
_SIZE = re.compile(r"(\d+)\s*([A-Za-z]*)", re.ASCII)
_LOG_LEVELS = ("debug", "info", "warning", "error")

T = TypeVar("T")


class ConfigError(ValueError):
    """The configuration cannot be used; the text names the file, the key and what is wanted."""


def read_file(path: Path, parse: Callable[[Table], T]) -> T:
    """What ``parse`` makes of the file. Raises ConfigError, which starts with the path."""
    try:
        table = Table(tomllib.loads(path.read_text(encoding="utf-8")))
        parsed = parse(table)
        table.finish()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, not TOML, or a ConfigError
        raise ConfigError(f"{path}: {error}") from error
    return parsed


class Table:
    """A TOML table that is emptied as it is read; what remains is unknown."""

    def __init__(self, values: Mapping[str, Any], place: str = "") -> None:
        self._values = dict(values)
        self._place = place
        self._known: list[str] = []

    def take(self, key: str, read: Callable[[Any], T], default: T | None = None) -> T:
        """The value of the key as its reader returns it; no default means that it must be there."""
        self._known.append(key)
        if key not in self._values:
            if default is None:
                raise ConfigError(f"{self._place}{key} is missing")
            return default
        value = self._values.pop(key)
        try:
            return read(value)
        except ValueError as error:
            raise ConfigError(f"{self._place}{key} = {value!r}: {error}") from error

    def table(self, key: str) -> Table:
        """A sub-table; empty when it is not there. It has to be finished on its own."""
        return Table(self.take(key, _as_table, {}), f"{self._place}{key}.")

    def tables(self, key: str) -> list[Table]:
        """An array of tables; none when it is not there. Each has to be finished on its own."""
        nothing: list[dict[str, Any]] = []
        values = self.take(key, _as_tables, nothing)
        return [Table(value, f"{self._place}{key}[{i}].") for i, value in enumerate(values)]

    def rest(self) -> dict[str, Any]:
        """All that has not been taken, for tables whose keys are the user's."""
        rest, self._values = self._values, {}
        return rest

    def finish(self) -> None:
        """Raises ConfigError for a key that nobody took."""
        for key in self._values:
            raise ConfigError(f"unknown key {self._place}{key}{nearest(key, self._known)}")


def as_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text")
    return value


def as_path(value: Any) -> Path:
    path = Path(as_text(value))
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError("must be an absolute path without '..'")
    return path


def as_address(value: Any) -> str:
    """``host:port``."""
    text = as_text(value)
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("must be host:port")
    return text


def as_optional_address(value: Any) -> str:
    """``host:port``, or the empty text for none."""
    return "" if value == "" else as_address(value)


def as_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def as_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("must be a whole number, 0 or more")
    return value


def as_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError("must be a number")
    return float(value)


def as_seconds(value: Any) -> float:
    number = as_number(value)
    if not 0.1 <= number <= 3600:
        raise ValueError("must be 0.1 to 3600 seconds")
    return number


def as_seconds_or_never(value: Any) -> float:
    """Of something slow. 0 is never."""
    number = as_number(value)
    if number and not 1 <= number <= 366 * 86400:
        raise ValueError("must be 1 second to a year of them, or 0 for never")
    return number


def as_size(value: Any) -> int:
    """Bytes, from a whole number or a text such as ``"20GiB"``."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS or int(match[1]) == 0:
        raise ValueError('must be bytes or a text such as "20GiB" (KiB, MiB, GiB, TiB, PiB)')
    return int(match[1]) * _UNITS[match[2]]


def as_log_level(value: Any) -> str:
    if value not in _LOG_LEVELS:
        raise ValueError(f"one of {', '.join(_LOG_LEVELS)}")
    return str(value)


def _as_table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    return value


def _as_tables(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError("must be an array of tables")
    return value
