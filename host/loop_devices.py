"""Loop devices over other devices: kubelet keeps one over each raw volume of a pod."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from host.command import Runner

_BLOCK = Path("/sys/block")
_DEADLINE = 20.0


def loops_over(wanted: Callable[[str], bool]) -> list[str]:
    """The nodes of loop devices whose backing file's path is ``wanted``; no file is looked at."""
    found = []
    for loop in _BLOCK.glob("loop*"):
        try:
            backing = (loop / "loop/backing_file").read_text().removesuffix("\n")
        except OSError:  # not set up
            continue
        if wanted(backing.removesuffix(" (deleted)")):
            found.append(f"/dev/{loop.name}")
    return found


def detach(runner: Runner, loop: str, *, resource: str | None = None) -> None:
    """Let go of what is below it, at once or when its last user closes it.

    Raises ``CommandFailed``, ``CommandStuck``.
    """
    argv = ["losetup", "--detach", loop]
    runner.run(argv, deadline=_DEADLINE, resource=resource)
