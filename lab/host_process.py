"""Long-running processes beside the nodes: on the host, in the lab's network."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

from lab.errors import CommandTimeout
from lab.sandbox import start_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class HostProcess:
    """A process that dies with this one; the same interface as `lab.node.GuestProcess`."""

    def __init__(
        self, argv: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path
    ) -> None:
        self.log_path = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = start_process(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(env),
                cwd=cwd,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code (negative: the signal), or None while it runs."""
        return self._process.poll()

    @property
    def alive(self) -> bool:
        return self.poll() is None

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code; CommandTimeout after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeout(f"process {self.pid} still runs after {timeout} s") from None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def log(self) -> str:
        """What the process wrote to its two outputs so far."""
        return self.log_path.read_text(errors="replace")
