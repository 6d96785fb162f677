"""The one place that starts processes.

Every command has a deadline, a fixed small environment (``LC_ALL=C``), a session of its own and
bounded output. Secrets go in by ``input`` only: ``argv`` is logged and ends up in error texts.

``subprocess`` starts children by vfork as long as nothing runs between fork and exec
(``preexec_fn``), so that neither the size nor the threads of this process matter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO

from host.errors import CommandFailed, CommandStuck, Missing
from host.stuck import Breaker, StuckChildren

log = logging.getLogger("xlss.command")

ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}
# Programs whose first argument says what they do: it becomes part of the name in metrics.
_WITH_SUBCOMMAND = frozenset({"btrfs", "cryptsetup", "dmsetup", "lvm", "udevadm"})
_STDERR_LIMIT = 64 << 10
# How long a killed child is given to die before it counts as stuck in the kernel.
_DYING_SECONDS = 1.0

Observer = Callable[[str, str, float], None]
"""Is told of every command: tool ("lvm lvs"), outcome ("ok", "failed" or "stuck"), seconds."""


@dataclass(frozen=True)
class Result:
    stdout: bytes
    stderr: bytes
    exit_code: int


def tool_name(argv: Sequence[str]) -> str:
    """The program without its directory, with its subcommand where it has them."""
    name = PurePath(argv[0]).name
    if name in _WITH_SUBCOMMAND and len(argv) > 1 and not argv[1].startswith("-"):
        return f"{name} {argv[1]}"
    return name


class Child:
    """A process that lives on after it was started. ``stdin`` and ``stdout`` are unbuffered."""

    def __init__(self, argv: tuple[str, ...], process: subprocess.Popen[bytes]) -> None:
        self.argv = argv
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdin(self) -> IO[bytes]:
        if self.process.stdin is None:
            raise ValueError("the child was started without a pipe to its standard input")
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        if self.process.stdout is None:
            raise ValueError("the child was started without a pipe from its standard output")
        return self.process.stdout

    def poll(self) -> int | None:
        """The exit code (negative: the signal), or None while it lives."""
        return self.process.poll()

    def wait(self, seconds: float) -> int | None:
        """Like ``poll``, after waiting ``seconds`` at the most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def kill(self) -> None:
        """SIGKILL to the child and all that it has started."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Runner:
    """Runs commands. Thread safe. ``resource`` names what a command may hang on: a device, a group.

    ``observers`` are told of every command. ``breaker_limit`` deadlines missed in a row on one
    resource make further commands on it fail at once, for ``breaker_seconds``.
    """

    def __init__(
        self,
        *,
        observers: Collection[Observer] = (),
        output_limit: int = 16 << 20,
        breaker_limit: int = 3,
        breaker_seconds: float = 30.0,
    ) -> None:
        self.observers: list[Observer] = list(observers)
        self._output_limit = output_limit
        self._breaker = Breaker(breaker_limit, breaker_seconds)
        self._stuck = StuckChildren(self._breaker.answered)

    @property
    def stuck(self) -> int:
        """How many killed commands the kernel has not let go of."""
        return len(self._stuck.commands())

    def run(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        input: bytes | None = None,
        resource: str | None = None,
        pass_fds: Collection[int] = (),
        ok: Container[int] = (0,),
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run ``argv`` to its end, ``deadline`` seconds at the most.

        ``env`` adds to the environment. Raises ``CommandFailed`` for an exit code that is not in
        ``ok`` or too much output, ``CommandStuck`` after the deadline or while the breaker of
        ``resource`` is open, ``Missing`` where the program is not there.
        """
        command = tuple(argv)
        self.check(resource)
        begun = time.monotonic()
        outcome = "failed"
        try:
            result = self._run(command, deadline, input, resource, pass_fds, env)
            if result.exit_code not in ok:
                raise CommandFailed(command, result.exit_code, _text(result.stderr))
            outcome = "ok"
        except CommandStuck:
            outcome = "stuck"
            raise
        else:
            return result
        finally:
            self.observe(command, outcome, time.monotonic() - begun)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        pass_fds: Collection[int] = (),
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> Child:
        """Start a process that lives on, in a session of its own. Raises ``Missing``.

        The standard streams take what ``subprocess.Popen`` takes: a file descriptor, ``PIPE`` or
        ``DEVNULL``.
        """
        command = tuple(argv)
        process = _start(command, stdin, stdout, stderr, pass_fds, env, cwd)
        log.debug("started %s (pid %d)", " ".join(command), process.pid)
        return Child(command, process)

    def abandon(self, child: Child, resource: str | None = None) -> None:
        """Kill a child for good; if the kernel holds it, it counts as stuck, and so does
        ``resource``."""
        child.kill()
        child.close_pipes()
        if child.wait(_DYING_SECONDS) is None:
            self._stuck.add(child.process, child.argv, resource)

    def check(self, resource: str | None) -> None:
        """Raises ``CommandStuck`` if a command on ``resource`` should not even be tried."""
        if resource is None:
            return
        stuck = self._stuck.holds(resource)
        if stuck is not None:
            raise CommandStuck(
                f"{resource}: {tool_name(stuck.argv)} (pid {stuck.pid}) has been stuck in the "
                f"kernel for {stuck.seconds:.0f} s"
            )
        self._breaker.check(resource)

    def missed_deadline(self, resource: str | None) -> None:
        """Count a missed deadline: for those who speak with a spawned child themselves."""
        if resource is not None:
            self._breaker.missed(resource)

    def answered(self, resource: str | None) -> None:
        """The opposite: whatever was answered, it came in time."""
        if resource is not None:
            self._breaker.answered(resource)

    def observe(self, argv: Sequence[str], outcome: str, seconds: float) -> None:
        log.debug("%s: %s after %.3f s", " ".join(argv), outcome, seconds)
        for observer in self.observers:
            observer(tool_name(argv), outcome, seconds)

    def _run(
        self,
        argv: tuple[str, ...],
        deadline: float,
        input: bytes | None,
        resource: str | None,
        pass_fds: Collection[int],
        env: Mapping[str, str] | None,
    ) -> Result:
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        process = _start(argv, stdin, subprocess.PIPE, subprocess.PIPE, pass_fds, env, "/")
        conversation = _Conversation(process, input or b"", self._output_limit)
        try:
            ended = conversation.until(time.monotonic() + deadline)
        except BaseException:
            self.abandon(Child(argv, process), resource)
            raise
        finally:
            conversation.close()
        if not ended:
            self.missed_deadline(resource)
            self.abandon(Child(argv, process), resource)
            raise CommandStuck(f"{' '.join(argv)}: did not end within {deadline:g} s, killed")
        self.answered(resource)
        if conversation.overflow:
            self.abandon(Child(argv, process), resource)
            raise CommandFailed(argv, -1, f"wrote more than {self._output_limit} bytes, killed")
        return Result(bytes(conversation.stdout), bytes(conversation.stderr), process.wait())


class _Conversation:
    """Feeds a child its input and takes its output until it has ended.

    Its end is its exit, not the end of its pipes: a daemon that it leaves behind may keep those.
    """

    def __init__(self, process: subprocess.Popen[bytes], input: bytes, limit: int) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflow = False
        self._process = process
        self._input = memoryview(input)
        self._limit = limit
        self._selector = selectors.DefaultSelector()
        self._pidfd = os.pidfd_open(process.pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe.fileno(), selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin.fileno(), selectors.EVENT_WRITE)

    def until(self, deadline: float) -> bool:
        """Whether the child ended, or wrote too much, before ``deadline`` (monotonic clock)."""
        while not self.overflow:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            ready = {key.fd for key, _ in self._selector.select(left)}
            self._exchange(ready - {self._pidfd})
            if self._pidfd in ready:
                rest = {key.fd for key in self._selector.get_map().values()}
                self._exchange(rest - {self._pidfd})
                return True
        return True

    def close(self) -> None:
        self._selector.close()
        os.close(self._pidfd)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _exchange(self, descriptors: set[int]) -> None:
        stdin = self._process.stdin
        for descriptor in descriptors:
            if stdin is not None and not stdin.closed and descriptor == stdin.fileno():
                self._feed(descriptor)
            else:
                self._take(descriptor)

    def _feed(self, descriptor: int) -> None:
        try:
            self._input = self._input[os.write(descriptor, self._input[: 64 << 10]) :]
        except BlockingIOError:
            return
        except OSError:  # the child does not want it
            self._input = self._input[:0]
        if not self._input and self._process.stdin is not None:
            self._selector.unregister(descriptor)
            self._process.stdin.close()

    def _take(self, descriptor: int) -> None:
        errors = self._process.stderr is not None and descriptor == self._process.stderr.fileno()
        while True:
            try:
                data = os.read(descriptor, 64 << 10)
            except BlockingIOError:
                return
            if not data:
                self._selector.unregister(descriptor)
                return
            if errors:
                self.stderr += data
                del self.stderr[:-_STDERR_LIMIT]
            else:
                self.stdout += data
                if len(self.stdout) > self._limit:
                    self.overflow = True
                    return


def _start(
    argv: tuple[str, ...],
    stdin: int,
    stdout: int,
    stderr: int,
    pass_fds: Collection[int],
    env: Mapping[str, str] | None,
    cwd: str,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            bufsize=0,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env={**ENVIRONMENT, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Missing(f"the program {argv[0]} is not installed") from error
    except PermissionError as error:
        raise CommandFailed(argv, 126, "may not be executed") from error


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
