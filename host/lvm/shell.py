"""LVM, one shell that stays (lvm(8), "lvm shell"): no exec, no reading of the configuration again.

The shell reads a command a line and writes one JSON document a command to the descriptor that
``LVM_REPORT_FD`` names. It prompts on no terminal, so the end of the document is the end of the
command.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from host.command import Child, Runner
from host.errors import CommandLost, CommandStuck, Missing
from host.io_flusher import io_flusher
from host.lvm.config import GroupDirectory
from host.lvm.executor import DEADLINE, ShellUnavailable, Turns, checked
from host.lvm.report import Report, parse_report

_STARTING_SECONDS = 20.0
_CLOSING_SECONDS = 5.0
# What changes nothing may be asked again when the shell died over it.
_REPEATABLE = frozenset({"lvs", "pvs", "vgs"})


@dataclass
class _Shell:
    child: Child
    reports: int  # our end of the pipe

    def close(self) -> None:
        self.child.close_pipes()
        os.close(self.reports)


class ShellExecutor:
    """Sends every command to one ``lvm`` shell, started when needed and again after its end.

    A shell that misses a deadline is killed and given up; if the kernel holds it, it counts as
    stuck, and commands for this group fail at once until it is gone.
    """

    def __init__(self, runner: Runner, directory: GroupDirectory) -> None:
        self._runner = runner
        self._directory = directory
        self._shell: _Shell | None = None
        self._turns = Turns()

    @property
    def pid(self) -> int | None:
        """The process of the shell, while there is one."""
        shell = self._shell
        return shell.child.pid if shell else None

    def execute(self, argv: Sequence[str], deadline: float = DEADLINE) -> Report:
        arguments = checked(argv)
        until = time.monotonic() + deadline
        with self._turns.take(deadline):
            self._runner.check(self._directory.resource)
            try:
                return self._observed(arguments, until)
            except CommandLost:
                if arguments[0] not in _REPEATABLE:
                    raise
                return self._observed(arguments, until)

    def hold(self, deadline: float = DEADLINE) -> AbstractContextManager[None]:
        return self._turns.take(deadline)

    def close(self) -> None:
        """End the shell. A command that is under way is killed after a moment."""
        try:
            with self._turns.take(_CLOSING_SECONDS):
                self._give_up()
        except CommandStuck:
            if (shell := self._shell) is not None:
                shell.child.kill()

    def _observed(self, argv: tuple[str, ...], until: float) -> Report:
        outcome, begun = "failed", time.monotonic()
        try:
            report = self._ask(self._running(), argv, until)
            self._runner.answered(self._directory.resource)
            outcome = "ok" if report.ok else "failed"
        except CommandStuck:
            outcome = "stuck"
            raise
        else:
            return report
        finally:
            self._runner.observe(("lvm", *argv), outcome, time.monotonic() - begun)

    def _running(self) -> _Shell:
        """The shell, started if it is not there, and known to answer."""
        if self._shell and (self._shell.child.poll() is not None or _readable(self._shell)):
            self._give_up()  # it died, or said what nobody had asked
        if self._shell is None:
            self._shell = self._start()
            try:
                self._ask(self._shell, ("version",), time.monotonic() + _STARTING_SECONDS)
            except CommandLost as error:
                raise ShellUnavailable(f"the shell of LVM does not work: {error}") from error
        return self._shell

    def _start(self) -> _Shell:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            with io_flusher():
                child = self._runner.spawn(
                    ("lvm",),
                    stdin=subprocess.PIPE,
                    pass_fds=(theirs,),
                    env={**self._directory.environment, "LVM_REPORT_FD": str(theirs)},
                )
        except Missing as error:
            os.close(ours)
            raise ShellUnavailable(str(error)) from error
        finally:
            os.close(theirs)
        return _Shell(child, ours)

    def _ask(self, shell: _Shell, argv: tuple[str, ...], until: float) -> Report:
        line = " ".join(argv).encode() + b"\n"
        try:
            shell.child.stdin.write(line)
            return self._answer(shell, until)
        except TimeoutError as error:
            self._runner.missed_deadline(self._directory.resource)
            self._give_up()
            raise CommandStuck(f"lvm {' '.join(argv)}: no answer in time, killed") from error
        except (EOFError, OSError) as error:
            self._give_up()
            raise CommandLost(f"lvm {' '.join(argv)}: LVM ended without an answer") from error
        except BaseException:
            self._give_up()  # nobody would read the answer
            raise

    def _answer(self, shell: _Shell, until: float) -> Report:
        document = bytearray()
        while True:
            if not select.select([shell.reports], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(shell.reports, 1 << 16)
            if not part:
                raise EOFError
            document += part
            if document.rstrip().endswith(b"}"):
                with contextlib.suppress(ValueError):  # an inner brace ended this part
                    return parse_report(bytes(document))

    def _give_up(self) -> None:
        shell, self._shell = self._shell, None
        if shell is not None:
            self._runner.abandon(shell.child, self._directory.resource)
            shell.close()


def _readable(shell: _Shell) -> bool:
    return bool(select.select([shell.reports], [], [], 0)[0])
