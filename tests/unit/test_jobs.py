"""Jobs: long work goes on between requests, and every request learns how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from cluster.errors import Unavailable
from node_agent.jobs import Jobs, Report


class Work:
    """Work that goes on when it is told to."""

    def __init__(self) -> None:
        self.half_done = threading.Event()
        self.go_on = threading.Event()
        self.runs = 0

    def __call__(self, report: Report) -> None:
        self.runs += 1
        report(50, 100)
        self.half_done.set()
        self.go_on.wait()
        report(100, 100)


def test_a_request_that_comes_back_joins_the_job() -> None:
    jobs, work = Jobs(), Work()
    with pytest.raises(Unavailable, match="copy of s1"):
        jobs.join("v1", "copy of s1", work, reads=["s1"], wait=0)
    work.half_done.wait()
    with pytest.raises(Unavailable, match="50 % done"):
        jobs.join("v1", "copy of s1", work, wait=0)
    assert "copy of s1" in jobs.reader_of("s1")
    assert jobs.reader_of("s2") == ""

    work.go_on.set()
    assert jobs.rejoin("v1", wait=30)
    assert not jobs.rejoin("v1", wait=30)
    assert work.runs == 1
    assert not jobs.running("v1")
    assert jobs.reader_of("s1") == ""


def test_the_end_of_work_that_does_not_note_it_is_kept_for_the_next_request() -> None:
    jobs, work = Jobs(), Work()
    with pytest.raises(Unavailable):
        jobs.join("v1", "wipe", work, reads=["v1"], keep=True, wait=0)
    work.go_on.set()
    while jobs.reader_of("v1"):
        time.sleep(0.01)
    jobs.join("v1", "wipe", work, keep=True, wait=30)
    assert work.runs == 1
    jobs.join("v1", "wipe", work, keep=True, wait=30)
    assert work.runs == 2


def test_a_failure_reaches_the_next_request_and_the_one_after_starts_anew() -> None:
    jobs = Jobs()
    outcomes: list[Callable[[], None]] = [_fail, _succeed]

    def work(report: Report) -> None:
        outcomes.pop(0)()

    with pytest.raises(OSError, match="disk"):
        jobs.join("v1", "wipe", work, wait=30)
    jobs.join("v1", "wipe", work, wait=30)
    assert outcomes == []


def test_a_cancelled_job_has_ended_when_the_call_returns() -> None:
    jobs, work = Jobs(), Work()
    with pytest.raises(Unavailable):
        jobs.join("v1", "wipe", work, wait=0)
    work.half_done.wait()
    work.go_on.set()
    jobs.cancel("v1")
    assert not jobs.running("v1")
    jobs.cancel("v1")


def test_a_job_beyond_the_limit_waits_for_its_turn() -> None:
    jobs, first = Jobs(at_once=1), Work()
    with pytest.raises(Unavailable):
        jobs.join("v1", "wipe of v1", first, wait=0)
    first.half_done.wait()
    with pytest.raises(Unavailable, match="waiting for its turn"):
        jobs.join("v2", "wipe of v2", lambda report: None, wait=0)
    jobs.cancel("v2")
    with pytest.raises(Unavailable, match="waiting for its turn"):
        jobs.join("v2", "wipe of v2", lambda report: None, wait=0)
    first.go_on.set()
    jobs.join("v2", "wipe of v2", lambda report: None, wait=30)


def _fail() -> None:
    raise OSError("disk")


def _succeed() -> None:
    pass
