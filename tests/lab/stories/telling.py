"""Stories about the local machine, told in a lab node: plain functions that raise if they fail.

They run in the node's own Python, on its kernel. Each leaves the node as it found it.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from host.command import Runner
from host.device_mapper import DeviceMapper

if TYPE_CHECKING:
    from lab.node import Node

MIB = 1 << 20
DISK, OTHER_DISK = "/dev/ubdb", "/dev/ubdc"


def stories_of(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
        if not name.startswith("_")
    ]


def tell(node: Node, module: ModuleType, story: str) -> None:
    """Run one story in the node. Raises what the lab raises, with the story's traceback."""
    code = f"from {module.__name__} import {story}; {story}()"
    node.run([".venv/bin/python", "-c", code], timeout=120)


def sh(script: str) -> str:
    """Run a script; its output, without the last newline."""
    argv = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{script}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def raises(error: type[Exception], call: Callable[[], object]) -> str:
    """The text of the error that the call has to raise."""
    try:
        call()
    except error as raised:
        return str(raised)
    raise AssertionError(f"did not raise {error.__name__}")


def wait_until(happened: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise AssertionError("did not happen")
        time.sleep(0.01)


@contextlib.contextmanager
def machine() -> Iterator[tuple[Runner, DeviceMapper, Path]]:
    """A runner, the device-mapper, and an empty folder; afterwards mounts and devices are gone."""
    folder = Path("/tmp/story")
    folder.mkdir(exist_ok=True)
    runner = Runner()
    try:
        yield runner, DeviceMapper(runner), folder
    finally:
        sh(
            "names() { dmsetup ls | grep -v '^No dev' | cut -f1; };"
            "for d in $(names); do dmsetup resume $d; done;"
            "for m in $(tac /proc/self/mounts | grep ' /tmp/story/' | cut -d' ' -f2);"
            " do umount -l $m || true; done;"
            'while [ -n "$(names)" ]; do dmsetup remove_all; done;'
            f"rm -rf --one-file-system {folder};"
            f"for d in {DISK} {OTHER_DISK};"
            " do dd if=/dev/zero of=$d bs=1M count=4 oflag=direct status=none; done"
        )
