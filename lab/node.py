"""One virtual node: a user-mode Linux process, its disks and its place on the network."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lab import faults, network, processors
from lab.client import Client
from lab.errors import BootFailed, CommandFailed, LabError, NodeDown
from lab.faulty_disk import FaultyDisk
from lab.guest_process import GuestProcess
from lab.kernel import kernel_argv
from lab.paths import PROJECT, RUN
from lab.sandbox import start_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.client import Answer

MIB = 1 << 20
BOOT_SECONDS = 60.0
KILL_SECONDS = 20.0
TAIL_LINES = 60
# What each tells comes by itself, and with few forks: a node that is in trouble is slow.
_TROUBLES = {
    "kernel": "dmesg | tail -n 100",
    "timers": """
for _ in 1 2; do
    cat /proc/uptime; grep -E 'TIMER|NET_RX|SCHED' /proc/softirqs
    grep -E '^jiffies|tick_stopped|next_tick|next_timer' /proc/timer_list; sleep 2
done""",
    "connections": "ss -tan | grep -v -e TIME-WAIT -e LISTEN || true",
    "waiting": """
awk '$3 == "D" || $2 ~ "^.drbd_" { sub("/stat$", "", FILENAME); print FILENAME, $2, $3 }' \\
    /proc/[0-9]*/task/*/stat 2>/dev/null |
while read -r folder name state; do echo "$name $state"; cat "$folder/stack"; done; true""",
}
# The kernel's helper processes die with their pid namespace. Its process 1 is a shell: signals
# that process 1 sends itself are lost, and a kernel that panics ends by sending itself SIGABRT.
PID_NAMESPACE = (
    *("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--"),
    *("sh", "-c", '"$@"; exit $?', "sh"),
)
RELAY_FIRST_PORT = 30000  # above DRBD's
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


def tail(text: str) -> str:
    """The last lines of a log."""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


@dataclass(frozen=True)
class Result:
    """A command that ended: its exit code (negative: the signal) and its output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the last newline."""
        return self.stdout.decode().rstrip("\n")


Peer: TypeAlias = "Node | Literal['host']"
"""Whom a node may be cut off from; the host is where the arbiter and the controller are."""


class Node:
    """A node; made by `lab.lab.Lab.add_node`.

    `disks` are the host's image files, sparse, in the order /dev/ubdb, /dev/ubdc, …; None leaves
    a letter out. What they hold survives kill() and start(); the list may be changed between the
    two. Everything else in a node (its root, /run …) begins anew at each start: it sees the host's
    files as they were when it first looked at them.
    """

    def __init__(self, name: str, index: int, *, memory: int, udev: bool) -> None:
        self.name = name
        self.index = index
        self.address = network.data_address(index)
        self.memory = memory
        self.udev = udev
        self.disks: list[Path | None] = []
        self.folder = RUN / "nodes" / name
        self._client = Client(network.command_address(index), lambda: self.running)
        self._process: subprocess.Popen[bytes] | None = None
        self._alive_fd = -1
        self._relays: dict[str, int] = {}
        self._spawned: list[GuestProcess] = []
        self._paused: list[int | str] = []
        self._faulty_disks: dict[str, FaultyDisk] = {}
        self._console_from = 0
        self.boots = 0

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.address}, {'up' if self.running else 'down'})"

    # Power

    @property
    def running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    @property
    def pid(self) -> int | None:
        """The host's process id of what runs the node."""
        process = self._process
        return process.pid if process is not None else None

    @property
    def console_path(self) -> Path:
        return self.folder / "console.log"

    def console(self) -> str:
        """The last lines of the kernel's console, over all boots."""
        with contextlib.suppress(FileNotFoundError):
            return tail(self.console_path.read_text(errors="replace"))
        return ""

    def evidence(self, *, whole: bool = False) -> list[tuple[str, str]]:
        """(title, text) of what tells why something failed: console, logs, what hangs and where."""
        cut = str if whole else tail
        found = [("console", self.console())]
        for name, script in _TROUBLES.items():
            with contextlib.suppress(LabError):
                found.append((name, self.sh(script, timeout=20.0).text))
        for process in self._spawned:
            with contextlib.suppress(LabError, KeyError):
                found.append((process.log_path, cut(process.log(timeout=5.0))))
        return found

    def begin_start(self) -> None:
        """Power on, without waiting: `finish_start` does."""
        if self.running:
            raise LabError(f"{self.name} runs already")
        self.kill()
        shutil.rmtree(self.folder / "uml", ignore_errors=True)
        readable, writable = os.pipe()
        with self.console_path.open("ab") as console:
            self._console_from = console.tell()
            self._process = start_process(
                [*PID_NAMESPACE, *processors.on_one(self.index), *kernel_argv(self)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                pass_fds=(writable,),
                env={"PATH": ENVIRONMENT["PATH"], "HOME": "/root", "TMPDIR": str(RUN)},
            )
        os.close(writable)
        self._alive_fd = readable
        self._spawned.clear()
        self._paused.clear()
        self.boots += 1

    def finish_start(self) -> None:
        """Wait until the node answers; BootFailed if it does not."""
        deadline = time.monotonic() + BOOT_SECONDS
        while b"lab: ready" not in self._console_since_start():
            if not self.running or time.monotonic() > deadline:
                text = self.console()
                self.kill()
                raise BootFailed(f"{self.name} did not boot:\n{text}")
            time.sleep(0.01)
        for path, port in self._relays.items():
            self._client.ask("relay", {"path": path, "port": port})
        for disk in self._faulty_disks.values():
            disk.attach()

    def prefer(self) -> None:
        """Let it have its processor before other nodes, until it is powered off."""
        if self.pid is not None:
            processors.prefer(faults.kernel_pid(self.pid))

    def start(self) -> None:
        """Power on and wait until the node answers; BootFailed if it does not."""
        self.begin_start()
        self.finish_start()

    def kill(self, *, silently: bool = False) -> None:
        """Power-off without warning: SIGKILL. What was fsynced to its disks stays.

        The host's connections to the node are reset, so that its clients notice at once.
        `silently`: not those on the data network, where a dead machine says nothing. (Between
        nodes nothing is ever reset.)
        """
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        # The kernel takes the node's processes down after `unshare`, their parent: wait for the
        # last of them, or a start would find the disks locked.
        poll = select.poll()
        poll.register(self._alive_fd)
        if not poll.poll(KILL_SECONDS * 1000):
            raise LabError(f"{self.name} survived SIGKILL for {KILL_SECONDS} s")
        os.close(self._alive_fd)
        self._process = None
        self._client.hang_up()
        network.drop_connections(self.index, data=not silently)

    def restart(self) -> None:
        """Power-off without warning, and on again."""
        self.kill()
        self.start()

    # Commands

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = 60.0,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str = str(PROJECT),
    ) -> Result:
        """Run a command as root and wait for it, at most `timeout` seconds.

        `env` is added to a small fixed environment. Raises CommandFailed (with `check`),
        CommandTimeout (the command is killed with its process group), NodeDown, and LabError if
        it could not be started.
        """
        request = {"argv": list(argv), "env": ENVIRONMENT | dict(env or {}), "cwd": cwd}
        answer = self.ask("run", request, input, timeout)
        code = answer.result["returncode"]
        result = Result(tuple(argv), code, bytes(answer.stdout), bytes(answer.stderr))
        if check and code != 0:
            raise CommandFailed(self.name, argv, code, result.stdout, result.stderr)
        return result

    def sh(self, script: str, *, timeout: float | None = 60.0, check: bool = True) -> Result:
        """Run a bash script that stops at the first error; see `run`."""
        argv = ["bash", "-euo", "pipefail", "-c", script]
        return self.run(argv, timeout=timeout, check=check)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
        cwd: str = str(PROJECT),
    ) -> GuestProcess:
        """Start a long-running process; `log` (a path in the node) gets its two outputs."""
        environment = ENVIRONMENT | dict(env or {})
        request = {"argv": list(argv), "env": environment, "cwd": cwd, "log": log}
        answer = self.ask("spawn", request)
        process = GuestProcess(self, answer.result["pid"], log)
        self._spawned.append(process)
        return process

    def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file of the node, making its folder."""
        self.ask("put", {"path": path, "mode": mode}, data)

    def get(self, path: str, *, timeout: float = 60.0) -> bytes:
        """Read a file of the node."""
        return bytes(self.ask("get", {"path": path}, timeout=timeout).stdout)

    def grpc_target(self, path: str) -> str:
        """A "host:port" for grpc.insecure_channel that leads to a unix socket of the node.

        Works also while the node is cut off. It stays the same over kill() and start(); the
        socket may come and go: without it, connections are closed at once.
        """
        if path not in self._relays:
            port = RELAY_FIRST_PORT + len(self._relays)
            self.ask("relay", {"path": path, "port": port})
            self._relays[path] = port
        return f"{network.command_address(self.index)}:{self._relays[path]}"

    def ask(
        self,
        do: str,
        request: dict[str, Any],
        body: bytes = b"",
        timeout: float | None = 60.0,
    ) -> Answer:
        """Ask the node's server; see `lab.client.Client.ask`. NodeDown if the node is off."""
        if not self.running:
            raise NodeDown(f"{self.name} is down")
        return self._client.ask(do, request, body, timeout)

    # Network

    def cut(self, direction: network.Direction = "both") -> None:
        """Cut the data network: `out` drops what the node sends, `in` what is sent to it."""
        network.cut(self.index, direction)

    def cut_from(self, peer: Peer, direction: network.Direction = "both") -> None:
        """Cut the data network towards one other node, or towards the host (the arbiter) only."""
        network.cut_from(self.index, _index(peer), direction)

    def join_with(self, peer: Peer) -> None:
        """Undo `cut_from` between the two, whichever of them it was called on."""
        network.join_with(self.index, _index(peer))

    def join(self) -> None:
        """Undo every `cut` and `cut_from` that concerns this node."""
        network.join(self.index)

    def disturb(self, rule: str, direction: network.Direction = "out") -> None:
        """Disturb what the node sends on the data network, or what it gets; "" ends it all.

        `rule` as in tc-netem(8): "delay 20ms", "loss 5%", "delay 20ms 5ms loss 1%" … It adds to
        cuts. Gone after a restart: it is done in the node, since the host may have no netem.
        """
        self.sh(faults.disturb_script(rule, direction))

    # Time and processes

    def pause(self) -> None:
        """Stop the whole machine, as a hypervisor does: it says nothing and is not dead.

        New commands fail with NodeDown after a while; `running` stays true. What it had asked of
        its disks may still be carried out.
        """
        os.kill(self._machine(), signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`: the node goes on where it was, its monotonic clock jumps ahead."""
        os.kill(self._machine(), signal.SIGCONT)

    def shift_clock(self, seconds: float) -> None:
        """Set the node's wall clock this far ahead of the host's (or behind); 0 undoes it.

        The monotonic clock is not touched. Gone after a restart.
        """
        self.run(["date", "-s", f"@{time.time() + seconds:.6f}"])

    def pause_process(self, which: int | str) -> None:
        """SIGSTOP to a process id, or to all whose command line matches (pkill -f).

        CommandFailed if there is none.
        """
        self.run(faults.signal_argv("STOP", which))
        self._paused.append(which)

    def resume_process(self, which: int | str) -> None:
        """Undo `pause_process`."""
        self.run(faults.signal_argv("CONT", which))
        self._paused = [paused for paused in self._paused if paused != which]

    def heal(self) -> None:
        """Undo every fault: cuts, disturbance, clock, pauses, faulty disks. It stays off if off."""
        self.join()
        if not self.running:
            return
        self.resume()
        self.disturb("")
        self.shift_clock(0)
        for which in self._paused:
            self.run(faults.signal_argv("CONT", which), check=False)  # it may have ended since
        self._paused.clear()
        for disk in self._faulty_disks.values():
            disk.recover()

    # Disks

    def add_disk(self, size: int) -> str:
        """Add an empty disk of `size` bytes, seen at the next start; returns its device path."""
        path = self.folder / f"disk{len(self.disks)}.img"
        with path.open("xb") as image:
            image.truncate(size)
        self.disks.append(path)
        return self.device(len(self.disks) - 1)

    @staticmethod
    def device(number: int) -> str:
        """Device path of the disk with this place in `disks`: /dev/ubdb is the first."""
        return f"/dev/ubd{chr(ord('b') + number)}"

    def faulty_disk(self, device: str) -> FaultyDisk:
        """A device over this one (path), which can be made to fail; it comes again at each boot."""
        if device not in self._faulty_disks:
            self._faulty_disks[device] = FaultyDisk(self, device)
        disk = self._faulty_disks[device]
        disk.attach()
        return disk

    def _machine(self) -> int:
        """The host's process id of the kernel itself; NodeDown if there is none."""
        if self.pid is None or not self.running:
            raise NodeDown(f"{self.name} is down")
        return faults.kernel_pid(self.pid)

    def _console_since_start(self) -> bytes:
        with self.console_path.open("rb") as console:
            console.seek(self._console_from)
            return console.read()


def _index(peer: Peer) -> int | None:
    return peer.index if isinstance(peer, Node) else None
