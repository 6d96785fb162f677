"""How a command of LVM is carried out: one protocol, a persistent shell or a fork each time."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from host.errors import CommandStuck, HostError
from host.lvm.report import Report

log = logging.getLogger("xlss.lvm")

DEADLINE = 120.0
"""Seconds that a command may take, with the wait for those before it."""

# Both ways have to understand an argument alike; the shell of LVM splits lines at blanks and reads
# quotes. Names, tags, sizes and columns need none of those characters.
_ARGUMENT = re.compile(r"[A-Za-z0-9_+.\-/=!:&#,%{}]+")
# The shell takes no line of 64 words (MAX_ARGS in LVM's tools.h), and does not answer it either.
_MAX_ARGUMENTS = 63
_RETRY_SHELL_SECONDS = 60.0


class ShellUnavailable(HostError):
    """The shell of LVM cannot be started here."""


class LvmExecutor(Protocol):
    """Carries out commands of LVM in the world of one volume group, one after the other."""

    def execute(self, argv: Sequence[str], deadline: float = DEADLINE) -> Report:
        """Run ``lvm`` with ``argv`` ("lvs", "-o", …); the report says whether it worked.

        Raises ``CommandStuck`` after ``deadline`` seconds or while the breaker of the group is
        open, ``CommandLost`` when LVM died, ``CommandFailed`` when it gave no report.
        """
        ...

    def hold(self, deadline: float = DEADLINE) -> AbstractContextManager[None]:
        """No command is under way inside of this, nor begun. Raises ``CommandStuck``."""
        ...

    def close(self) -> None: ...


class Turns:
    """One at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def take(self, deadline: float) -> Iterator[None]:
        """Raises ``CommandStuck`` when others do not end within ``deadline`` seconds."""
        if not self._lock.acquire(timeout=deadline):
            raise CommandStuck(f"other commands have kept LVM busy for {deadline:g} s")
        try:
            yield
        finally:
            self._lock.release()


def checked(argv: Sequence[str]) -> tuple[str, ...]:
    """``argv``, if every argument means the same in a shell and in a fork; else ValueError."""
    if len(argv) > _MAX_ARGUMENTS:
        raise ValueError(f"{len(argv)} arguments are too many for LVM")
    for argument in argv:
        if not _ARGUMENT.fullmatch(argument):
            raise ValueError(f"not an argument for LVM: {argument!r}")
    return tuple(argv)


class FallbackExecutor:
    """The shell where it works; a fork for every command where it cannot be started.

    A command that was begun in a shell is never repeated in a fork: it may have taken effect.
    """

    def __init__(
        self,
        shell: LvmExecutor,
        fork: LvmExecutor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shell = shell
        self._fork = fork
        self._clock = clock
        self._shell_again = 0.0

    def execute(self, argv: Sequence[str], deadline: float = DEADLINE) -> Report:
        if self._clock() >= self._shell_again:
            try:
                return self._shell.execute(argv, deadline)
            except ShellUnavailable as error:
                log.warning("forking for each command of LVM: %s", error)
                self._shell_again = self._clock() + _RETRY_SHELL_SECONDS
        return self._fork.execute(argv, deadline)

    @contextmanager
    def hold(self, deadline: float = DEADLINE) -> Iterator[None]:
        with self._shell.hold(deadline), self._fork.hold(deadline):
            yield

    def close(self) -> None:
        self._shell.close()
        self._fork.close()
