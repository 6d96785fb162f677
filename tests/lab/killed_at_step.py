"""Run an XLSS process that is killed, with SIGKILL, right before or right after its n-th step.

    python -m tests.lab.killed_at_step FOLDER node|controller --config FILE

A step is whatever changes something outside the process: an external command, an LVM command, a
device-mapper ioctl, a mount, a block that is wiped, a write to the store, a call to an agent.
Nothing of it is listed by operation: the functions through which everything goes are wrapped, and
what passes is counted. What only reads is left out: dying before or after it is the same as dying
after the step before it or before the next.

The process is a child of this one and started again as soon as it is killed, as a supervisor
would; what it imports is loaded before, so that this takes no time. ``FOLDER/deaths`` counts.

``FOLDER/arm`` holds nothing, or a number that is new each time and "N before", "N after" or
"0 trace". From then on steps are counted, and written to ``FOLDER/steps`` after that number.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

# (module, class or "", function): all ways out of each process. Missing ones are an error, so that
# a renamed function cannot silently escape the test.
NODE_STEPS = (
    ("host.command", "Runner", "run"),
    ("host.lvm.shell", "ShellExecutor", "execute"),
    ("host.dm_ioctl", "", "call"),
    ("host.mount", "", "_syscall"),
    ("host.mount", "", "make_directory"),
    ("host.mount", "", "make_file"),
    ("host.mount", "", "remove_target"),
    ("host.block_device", "", "_zero"),
    ("host.block_device", "", "write_exclusively"),
    ("host.block_device", "", "copy"),
    ("node_agent.targets", "Targets", "put"),
    ("node_agent.targets", "Targets", "remove"),
    ("node_agent.notes", "NoteBook", "keep"),
    ("node_agent.notes", "NoteBook", "remove"),
    ("replication.fencing", "", "grant"),
    ("replication.fencing", "", "revoke"),
    ("node_agent.arbiter_client", "ArbiterClient", "ask"),
)
_PR_SET_PDEATHSIG = 1
_READING = {"lvs", "vgs", "pvs", "version", "blkid", "stat", "fullreport"}
_READING_OF_DRBD = {"get-gi", "show-gi", "dump-md", "status", "events2"}
_READING_IOCTLS = {"DEV_STATUS", "TABLE_STATUS", "LIST_DEVICES"}
CONTROLLER_STEPS = (
    ("cluster.sqlite_store", "SqliteStore", "create"),
    ("cluster.sqlite_store", "SqliteStore", "update"),
    ("cluster.sqlite_store", "SqliteStore", "delete"),
    ("node_agent.client", "GrpcAgent", "create_volume"),
    ("node_agent.client", "GrpcAgent", "delete_volume"),
    ("node_agent.client", "GrpcAgent", "expand_volume"),
    ("node_agent.client", "GrpcAgent", "update_volume"),
    ("node_agent.client", "GrpcAgent", "set_limits"),
    ("node_agent.client", "GrpcAgent", "suspend_volumes"),
    ("node_agent.client", "GrpcAgent", "resume_volumes"),
    ("node_agent.client", "GrpcAgent", "create_snapshots"),
    ("node_agent.client", "GrpcAgent", "delete_snapshots"),
)


class Steps:
    """Counts the steps of the process and ends it at the chosen one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._count = 0
        self._armed = ""

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def step(*arguments: Any, **options: Any) -> Any:
            # A step inside a step (LVM falling back to a command) is one step.
            if (
                getattr(self._inside, "step", False)
                or _only_reads(name, arguments)
                or not (armed := self._arm())
            ):
                return function(*arguments, **options)
            with self._lock:
                self._count += 1
                number = self._count
                with (self._folder / "steps").open("a") as log:
                    log.write(f"{armed.split()[0]} {number} {name} {_words(arguments)}\n")
            self._kill_if(armed, number, "before")
            self._inside.step = True
            try:
                return function(*arguments, **options)
            finally:
                self._inside.step = False
                self._kill_if(armed, number, "after")

        return step

    def _arm(self) -> str:
        armed = (self._folder / "arm").read_text()
        if armed != self._armed:
            self._count, self._armed = 0, armed
        return armed

    def _kill_if(self, armed: str, number: int, when: str) -> None:
        if armed.split()[1:] == [str(number), when]:
            (self._folder / "arm").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)


def _only_reads(name: str, arguments: tuple[Any, ...]) -> bool:
    if name == "host.dm_ioctl.call":
        dm_ioctl = importlib.import_module("host.dm_ioctl")
        return arguments[0] in {getattr(dm_ioctl, reading) for reading in _READING_IOCTLS}
    lists = [argument for argument in arguments[:2] if isinstance(argument, (list, tuple))]
    commands = [words for words in lists if words and isinstance(words[0], str)]
    return any(
        command[0] in _READING
        or (command[0].startswith("drbd") and not _READING_OF_DRBD.isdisjoint(command))
        for command in commands
    )


def _words(arguments: tuple[Any, ...]) -> str:
    return " ".join(
        " ".join(map(str, argument)) if isinstance(argument, (list, tuple)) else str(argument)
        for argument in arguments[:3]
        if isinstance(argument, (str, int, list, tuple))
    )[:200]


def main() -> int:
    folder, process = Path(sys.argv[1]), sys.argv[2]
    steps = Steps(folder)
    importlib.import_module(f"csi.{process}.main")
    for module_name, class_name, function in NODE_STEPS if process == "node" else CONTROLLER_STEPS:
        module = importlib.import_module(module_name)
        owner = getattr(module, class_name) if class_name else module
        name = f"{class_name or module_name}.{function}"
        setattr(owner, function, steps.wrap(name, getattr(owner, function)))
    sys.argv = ["xlss", *sys.argv[2:]]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("arm", "steps", "deaths"):
        (folder / name).touch()
    while True:
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            return int(importlib.import_module("cli.main").main())
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            return os.waitstatus_to_exitcode(status)
        with (folder / "deaths").open("a") as deaths:
            deaths.write("killed\n")


if __name__ == "__main__":
    sys.exit(main())
