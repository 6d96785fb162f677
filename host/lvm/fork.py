"""LVM, one process a command."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from host.command import Runner
from host.errors import CommandFailed, CommandLost
from host.lvm.config import GroupDirectory
from host.lvm.executor import DEADLINE, Turns, checked
from host.lvm.report import Message, Report, parse_report

# Where the last line of the log is left out, LVM 2.03.16 writes invalid JSON. A shell's last line
# always counts; here nothing may be left out.
_WHOLE_LOG = ("--config", 'log/command_log_selection="all"')


class ForkExecutor:
    """Forks ``lvm`` for every command.

    It can be asked no question: where LVM wants a confirmation that was not given by ``-y``, the
    command fails.
    """

    def __init__(self, runner: Runner, directory: GroupDirectory) -> None:
        self._runner = runner
        self._directory = directory
        self._turns = Turns()

    def execute(self, argv: Sequence[str], deadline: float = DEADLINE) -> Report:
        arguments = checked(argv)
        until = time.monotonic() + deadline
        with self._turns.take(deadline):
            return self._execute(arguments, until - time.monotonic())

    def hold(self, deadline: float = DEADLINE) -> AbstractContextManager[None]:
        return self._turns.take(deadline)

    def close(self) -> None:
        """Nothing lives on."""

    def _execute(self, arguments: tuple[str, ...], deadline: float) -> Report:
        descriptor = os.memfd_create("lvm-report", os.MFD_CLOEXEC)
        failed: CommandFailed | None = None
        try:
            self._runner.run(
                ("lvm", *arguments, *_WHOLE_LOG),
                deadline=deadline,
                resource=self._directory.resource,
                pass_fds=(descriptor,),
                env={**self._directory.environment, "LVM_REPORT_FD": str(descriptor)},
            )
        except CommandFailed as error:
            failed = error
        finally:
            document = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.close(descriptor)
        return _report(arguments, document, failed)


def _report(argv: Sequence[str], document: bytes, failed: CommandFailed | None) -> Report:
    if failed and failed.exit_code < 0:
        raise CommandLost(f"lvm {' '.join(argv)}: killed") from failed
    try:
        return parse_report(document, failed.exit_code if failed else 0)
    except ValueError as error:
        if failed is None:
            raise CommandFailed(("lvm", *argv), 0, "LVM gave no report") from error
    # What goes wrong before LVM comes to processing is not in the report.
    lines = failed.stderr.splitlines()
    return Report((), tuple(Message("error", line.strip()) for line in lines), failed.exit_code)
