"""Locks by identifier: whoever comes second is told at once, and of what."""

from __future__ import annotations

import pytest

from cluster.errors import Busy
from cluster.locks import Locks


def test_the_second_caller_is_told_what_goes_on() -> None:
    locks = Locks()
    with (
        locks.hold("v1", purpose="staging"),
        pytest.raises(Busy, match="v1 is busy: staging"),
        locks.hold("v1", purpose="deletion"),
    ):
        pass
    with locks.hold("v1", purpose="deletion"):
        pass


def test_several_are_taken_together_or_not_at_all() -> None:
    locks = Locks()
    with locks.hold("v2", purpose="expansion"):
        with pytest.raises(Busy, match="v2"):
            locks.acquire(["v1", "v2"], "a cut")
        with locks.hold("v1", purpose="staging"):
            pass


def test_a_failed_operation_leaves_no_lock() -> None:
    locks = Locks()
    with pytest.raises(OSError, match="disk"), locks.hold("v1", "v1", purpose="staging"):
        raise OSError("disk")
    with locks.hold("v1", purpose="staging"):
        pass
