"""The membership loop takes over a face that is held, or is just about to be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from host.command import Runner
from host.errors import InTransition
from host.resume_guard import ResumeGuard
from node_agent.holds import Holds

VOLUME = "v1"
_PATIENCE = 10.0


class Face:
    """A device that is suspended or not, and a guard that suspends it when it is let."""

    def __init__(self) -> None:
        self.suspended = False
        self.asked, self.go_on = threading.Event(), threading.Event()
        self._holding = False

    def suspend(self) -> None:
        self.asked.set()
        assert self.go_on.wait(_PATIENCE)
        self.suspended = self._holding = True

    def release(self) -> bool:
        held, self._holding = self._holding, False
        if held:
            self.suspended = False
        return held


@pytest.fixture
def holds(tmp_path: Path) -> Holds:
    return Holds(Runner(), tmp_path)


@contextmanager
def in_background(work: threading.Thread) -> Iterator[None]:
    work.start()
    yield
    work.join(_PATIENCE)
    assert not work.is_alive()


def test_a_hold_that_is_just_beginning_is_over_before_the_loop_suspends(holds: Holds) -> None:
    face = Face()
    guard = cast(ResumeGuard, face)
    lasted: list[bool] = []

    def take_over() -> None:
        with holds.ended(VOLUME):
            face.suspended = True

    def cut() -> None:
        holds.suspend([VOLUME], guard)
        loop.join(_PATIENCE)
        lasted.append(holds.release(guard))

    loop = threading.Thread(target=take_over)
    with in_background(threading.Thread(target=cut)):
        assert face.asked.wait(_PATIENCE)
        loop.start()
        loop.join(0.2)  # time to go wrong: it has to wait for the guard
        face.go_on.set()

    assert (face.suspended, lasted) == (True, [False])
    assert not holds.is_held(VOLUME)


def test_no_hold_begins_while_the_loop_suspends(holds: Holds) -> None:
    face = Face()
    face.go_on.set()
    with holds.ended(VOLUME):
        with pytest.raises(InTransition, match=VOLUME):
            holds.suspend([VOLUME, "v2"], cast(ResumeGuard, face))
        assert not face.suspended
    holds.suspend([VOLUME, "v2"], cast(ResumeGuard, face))
    assert face.suspended
