"""The kernels that nodes can run, and the command line of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import network
from lab.paths import CACHE, PROJECT, SHARE

if TYPE_CHECKING:
    from lab.node import Node


@dataclass(frozen=True)
class Kernel:
    """User-mode Linux; `modules` has a folder for its release."""

    program: Path
    modules: Path

    @property
    def release(self) -> str:
        """The newest that there are modules of, like 6.1.176."""
        return max((folder.name for folder in self.modules.iterdir()), default="unknown")

    def link_modules(self) -> None:
        """Let modprobe in the nodes find them: /lib/modules/<release>."""
        for folder in self.modules.iterdir():
            link = Path("/lib/modules") / folder.name
            if not link.exists():  # also one to a folder that is gone
                link.parent.mkdir(exist_ok=True)
                new = link.with_name(f".{folder.name}.{os.getpid()}")
                new.symlink_to(folder)
                new.replace(link)


STABLE = Kernel(Path("/usr/bin/linux.uml"), Path("/usr/lib/uml/modules"))
"""Debian's own for this release."""

NEWER = Kernel(CACHE / "lab-kernel" / "linux.uml", CACHE / "lab-kernel" / "modules")
"""That of the next Debian, twice as fast, where scripts/setup.sh could have it."""


def default_kernel() -> Kernel:
    """The newer one if it is there; XLSS_LAB_KERNEL=stable insists on the other."""
    stable = os.environ.get("XLSS_LAB_KERNEL") == "stable" or not NEWER.program.exists()
    return STABLE if stable else NEWER


# What the kernel measures at each boot, for nearly a second, to find its fastest parity of RAID 5
# and 6: nothing here has any. (The second is the name before Linux 7.)
_MEASUREMENTS = ("raid6_init", "raid6_select_algo", "calibrate_xor_blocks")


def kernel_argv(node: Node) -> list[str]:
    """The command that is this node: user-mode Linux with its disks and taps."""
    data, command = network.data_tap(node.index), network.command_tap(node.index)
    device = "transport=tap,depth=128,gro=1"
    disks = [f"ubd{number}={path}" for number, path in enumerate(node.disks, 1) if path is not None]
    return [
        str(default_kernel().program),
        f"mem={node.memory >> 20}M",
        "seccomp=auto",  # of no meaning to a kernel before 6.16
        f"uml_dir={node.folder}/uml",
        f"umid={node.name}",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "init=/usr/bin/python3",
        f"initcall_blacklist={','.join(_MEASUREMENTS)}",
        *disks,
        f"vec0:{device},ifname={data},mac={network.mac_address('data', node.index)}",
        f"vec1:{device},ifname={command},mac={network.mac_address('command', node.index)}",
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        "quiet",
        f"NODE={node.name}",
        f"INDEX={node.index}",
        f"SHARE={SHARE}",
        f"PROJECT={PROJECT}",
        f"CACHE={CACHE}",
        f"UDEV={int(node.udev)}",
        "--",
        "-IS",
        str(PROJECT / "lab" / "guest_init.py"),
    ]
