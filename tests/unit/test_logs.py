"""One log line an event, for machines or for people, with the request that it belongs to."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from node_agent.logs import LogFormat, set_up_logging


@pytest.fixture(autouse=True)
def former_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def logged(log_format: LogFormat, level: str = "info", request: str = "") -> io.StringIO:
    stream = io.StringIO()
    set_up_logging(log_format, level, lambda: request, stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_object_with_the_request_and_the_extra_fields() -> None:
    stream = logged(LogFormat.JSON, request="r-1")
    logging.getLogger("host.command").info("ran %s", "lvs", extra={"seconds": 0.5})
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "host.command",
        "request": "r-1",
        "message": "ran lvs",
        "seconds": 0.5,
    }


def test_outside_of_a_request_there_is_no_request_field() -> None:
    stream = logged(LogFormat.JSON)
    logging.getLogger("x").warning("started")
    assert "request" not in lines(stream)[0]


def test_an_extra_field_cannot_replace_one_of_ours() -> None:
    stream = logged(LogFormat.JSON)
    logging.getLogger("x").info("started", extra={"level": "none", "logger": "none"})
    assert lines(stream)[0]["level"] == "info"
    assert lines(stream)[0]["logger"] == "x"


def test_what_is_below_the_level_is_left_out() -> None:
    stream = logged(LogFormat.JSON, level="warning")
    logging.getLogger("x").info("no")
    logging.getLogger("x").error("yes")
    assert [line["message"] for line in lines(stream)] == ["yes"]


def test_an_exception_stays_on_its_line() -> None:
    stream = logged(LogFormat.JSON)
    try:
        raise RuntimeError("first\nsecond")
    except RuntimeError:
        logging.getLogger("x").exception("failed")
    (line,) = lines(stream)
    assert "RuntimeError: first\nsecond" in line["exception"]


def test_text_cannot_be_made_to_forge_a_line() -> None:
    stream = logged(LogFormat.TEXT, request="r-1")
    logging.getLogger("x").info("name %s", "a\n2026 INFO forged", extra={"volume": "v\n1"})
    (line,) = stream.getvalue().splitlines()
    assert " INFO    x [r-1] name a\\n2026 INFO forged volume=v\\n1" in line
