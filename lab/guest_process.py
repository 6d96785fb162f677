"""Long-running processes in a node."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from lab.errors import CommandTimeout

if TYPE_CHECKING:
    from lab.node import Node


class GuestProcess:
    """A long-running process in a node, started by `Node.spawn`.

    When the node is powered off it counts as ended by SIGKILL.
    """

    def __init__(self, node: Node, pid: int, log_path: str) -> None:
        self._node = node
        self._boot = node.boots
        self.pid = pid
        self.log_path = log_path

    def poll(self) -> int | None:
        """The exit code (negative: the signal), or None while it runs."""
        return self._wait(0.0)

    @property
    def alive(self) -> bool:
        return self.poll() is None

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code; CommandTimeout after `timeout` seconds."""
        code = self._wait(timeout)
        if code is None:
            raise CommandTimeout(f"process {self.pid} still runs after {timeout} s")
        return code

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process, or to its whole group."""
        if not self._powered_off:
            request = {"pid": self.pid, "signal": int(number), "group": group}
            self._node.ask("signal", request)

    def kill(self) -> None:
        """SIGKILL to the process and its group, and wait for its end."""
        self.signal(signal.SIGKILL, group=True)
        self.wait()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def log(self, *, timeout: float = 60.0) -> str:
        """What the process wrote to its two outputs so far."""
        return self._node.get(self.log_path, timeout=timeout).decode(errors="replace")

    @property
    def _powered_off(self) -> bool:
        return self._node.boots != self._boot or not self._node.running

    def _wait(self, timeout: float) -> int | None:
        if self._powered_off:
            return -signal.SIGKILL
        request = {"pid": self.pid, "timeout": timeout}
        answer = self._node.ask("wait", request, timeout=timeout + 30.0)
        code: int | None = answer.result["returncode"]
        return code
