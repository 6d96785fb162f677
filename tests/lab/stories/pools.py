"""What stories of pools are told with, in a lab node: `from tests.lab.stories.pools import *`."""

from __future__ import annotations

import base64
import os  # noqa: F401 - for the stories
import subprocess
import sys  # noqa: F401
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from host.command import Runner
from host.errors import *  # noqa: F403
from host.lvm.disks import *  # noqa: F403
from host.lvm.model import *  # noqa: F403
from host.lvm.pool_spec import PoolSpec, Share
from host.lvm.pools import Pools

MIB = 1 << 20
runner = Runner(breaker_limit=1)


def pools(*specs: PoolSpec, **options: Any) -> Pools:
    """All of these pools, opened."""
    options = {"udev": False, "deadline": 60, **options}
    run, kept = Path("/run/xlss"), Path("/run/kept")
    made = Pools(specs, runner, run_directory=run, durable_directory=kept, **options)
    made.open_due()
    return made


def thin(
    name: str = "p", group: str = "vg0", devices: Sequence[str] = ("/dev/ubdb",), **options: Any
) -> PoolSpec:
    options = {"thin_pool": "thin", "thin_size": Share(size_bytes=128 * MIB), **options}
    return PoolSpec(name, group, tuple(devices), **options)


def thick(name: str = "p", group: str = "vg0", devices: Sequence[str] = ("/dev/ubdb",)) -> PoolSpec:
    return PoolSpec(name, group, tuple(devices))


def sh(script: str) -> str:
    bash = ["bash", "-euc", script]
    return subprocess.run(bash, check=True, capture_output=True, text=True).stdout


def partition(disk: str) -> str:
    """A script that makes an MBR with one entry: 4 MiB from sector 2048 on."""
    table = bytearray(512)
    table[446:462] = bytes.fromhex("00202100 83000000 00080000 00200000")
    table[510:] = b"\x55\xaa"
    return (
        f"echo {base64.b64encode(table).decode()} | base64 -d | dd of={disk} conv=notrunc; "
        f"blockdev --rereadpt {disk}"
    )


def swap_table(name: str, table: str) -> None:
    sh(f"dmsetup suspend --noflush {name}")
    sh(f"dmsetup load {name} --table '{table}'; dmsetup resume {name}")


def disks_of_tables() -> tuple[str, str, str]:
    """Makes the disks d1 and d2. Below them LVM finds nothing: their labels are elsewhere there."""
    working, failing = [f"0 200000 {target}" for target in ("linear /dev/ubdb 2048", "error")]
    other = "0 200000 linear /dev/ubdc 2048"
    sh(f"dmsetup create d1 --table '{working}'; dmsetup create d2 --table '{other}'")
    sh("dmsetup mknodes")
    return working, failing, other


def refusal(*specs: PoolSpec) -> str:
    """Why the first is not usable."""
    made = pools(*specs)
    try:
        return made.status(specs[0].name).trouble
    finally:
        made.close()


def expect(error: type[BaseException], call: Callable[..., object], *arguments: Any) -> str:
    """What it says."""
    try:
        call(*arguments)
    except error as caught:
        return str(caught)
    raise AssertionError(f"no {error.__name__}")
