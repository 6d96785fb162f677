"""Structured logs on standard error: one JSON object a line, or text for people.

Every record carries the request that it belongs to (one id from the CSI call over the agent to
the command), without the code that logs having to know of it: a filter adds it. Fields that a
caller gives as ``extra={...}`` become fields of the object.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TextIO

# What every LogRecord has; all other attributes came in with ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request"}


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


def set_up_logging(
    log_format: LogFormat,
    level: str,
    request_id: Callable[[], str],
    stream: TextIO | None = None,
) -> None:
    """Send all logs of this process to ``stream`` (standard error), from ``level`` up.

    ``request_id`` answers the id of the request that the calling thread works for, or "".
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format is LogFormat.JSON else _TextFormatter())

    def add_request(record: logging.LogRecord) -> bool:
        record.request = request_id()
        return True

    handler.addFilter(add_request)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}Z"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if request := getattr(record, "request", ""):
            line["request"] = request
        line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        for key, value in _extra(record).items():
            line.setdefault(key, value)
        return json.dumps(line, ensure_ascii=False, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        request = getattr(record, "request", "")
        fields = "".join(f" {key}={value}" for key, value in _extra(record).items())
        line = (
            f"{_timestamp(record.created)} {record.levelname:<7} {record.name}"
            f"{f' [{request}]' if request else ''} {record.getMessage()}{fields}"
        )
        # What a caller of ours sent may be quoted in a message: it must not forge a line.
        line = line.replace("\n", "\\n")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
