"""Whether a udevd answers the events of device-mapper."""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from host.command import Runner
from host.device_mapper import DeviceMapper
from host.errors import CommandFailed, CommandStuck, Missing
from host.file_replacement import replace_file

log = logging.getLogger("xlss.lvm")

_CONTROL = Path("/run/udev/control")
_IPC_NAMESPACE = Path("/proc/self/ns/ipc")
_DEADLINE = 20.0
_PROBES = "xlss-udev-probe-"
# In a container, every agent has the same process id.
_OF_THIS_PROCESS = f"{_PROBES}{secrets.token_hex(4)}-"


def udev_answers(runner: Runner, remembered: Path) -> bool:
    """Try it with a device of our own.

    LVM waits on a semaphore that udevd posts. In a container with an IPC namespace of its own, the
    host's udevd cannot reach that semaphore, and LVM would wait for ever: then LVM has to make the
    nodes itself. The answer does not change while udevd and this process live. That it does answer
    is kept in the file ``remembered``, for the next start of the agent: a trial takes a while.
    """
    try:
        known = f"{_CONTROL.stat().st_ino} {_IPC_NAMESPACE.readlink()}\n"
    except OSError:
        return False
    with suppress(OSError):
        if remembered.read_text() == known:
            return True
    answers = _try(runner)
    if answers:
        remembered.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(remembered, known.encode(), 0o600, durable=False)
    return answers


def _try(runner: Runner) -> bool:
    # Several pools may be opened at once, each by a thread of its own.
    name = f"{_OF_THIS_PROCESS}{threading.get_native_id()}"
    try:
        _remove_left_behind(runner)
        runner.run(("dmsetup", "create", name, "--table", "0 8 error"), deadline=_DEADLINE)
    except CommandStuck:
        log.warning("udevd does not answer events of device-mapper: LVM makes device nodes itself")
        answers = False
    except (CommandFailed, Missing) as error:
        log.warning("cannot tell whether udevd answers: %s", error)
        return False
    else:
        answers = True
    wait = () if answers else ("--noudevsync",)
    runner.run(("dmsetup", "remove", "--retry", *wait, name), deadline=_DEADLINE, ok=(0, 1))
    return answers


def _remove_left_behind(runner: Runner) -> None:
    """The devices of agents that were killed over their trial."""
    for name in DeviceMapper(runner).names(_PROBES):
        if not name.startswith(_OF_THIS_PROCESS):
            remove = ("dmsetup", "remove", "--retry", "--noudevsync", name)
            runner.run(remove, deadline=_DEADLINE, ok=(0, 1))
