"""What this machine can do as a storage node: tools, kernel modules, file systems, cgroups.

Looks only: no module is loaded, no device is touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from host.command import Runner
from host.errors import HostError

_DEADLINE_SECONDS = 10.0
# Program, option that prints its version, what is lost without it; "" means that nothing works.
_TOOLS = (
    ("lvm", "version", ""),
    ("dmsetup", "--version", ""),
    ("blkid", "--version", ""),
    ("blkdiscard", "--version", ""),
    ("setpriv", "--version", ""),
    ("thin_check", "--version", "thin volumes"),
    ("mkfs.ext4", "-V", "ext4"),
    ("resize2fs", "", "growing ext4"),
    ("mkfs.xfs", "-V", "xfs"),
    ("xfs_growfs", "-V", "growing xfs"),
    ("mkfs.btrfs", "--version", "btrfs"),
    ("cryptsetup", "--version", "encryption"),
)
# Module, what is lost without it.
_MODULES = (
    ("dm_mod", ""),
    ("dm_thin_pool", "thin volumes"),
    ("dm_snapshot", "snapshots of thick volumes"),
    ("dm_raid", "layout raid1"),
    ("dm_crypt", "encryption"),
    ("ext4", "ext4"),
    ("xfs", "xfs"),
    ("btrfs", "btrfs"),
)
_VERSION = re.compile(r"\d+\.\d+(?:[.\d]*\d)?")


@dataclass(frozen=True)
class Finding:
    subject: str
    found: bool
    detail: str  # a version, or where it was looked for
    needed_for: str  # what does not work without it; "" for everything


def look(runner: Runner, root: Path = Path("/")) -> Iterator[Finding]:
    """Everything that a storage node needs, in the order in which it needs it."""
    release = (root / "proc/sys/kernel/osrelease").read_text().strip()
    for program, option, use in _TOOLS:
        yield _tool(runner, program, option, use)
    for module, use in _MODULES:
        yield _module(runner, root, module, release, use)
    yield _io_limits(root)


def _tool(runner: Runner, program: str, option: str, use: str) -> Finding:
    try:
        # Some print their version, then complain that they were given nothing to do.
        result = runner.run(
            [program, option] if option else [program],
            deadline=_DEADLINE_SECONDS,
            ok=range(256),
        )
    except HostError as error:
        return Finding(program, False, str(error), use)
    version = _VERSION.search((result.stdout + result.stderr).decode(errors="replace"))
    return Finding(program, True, version[0] if version else "", use)


def _module(runner: Runner, root: Path, module: str, release: str, use: str) -> Finding:
    subject = f"kernel {module}"
    if (root / "sys/module" / module).exists():
        return Finding(subject, True, "loaded", use)
    if module in (root / "proc/filesystems").read_text().split():
        return Finding(subject, True, "there", use)
    builtin = root / "lib/modules" / release / "modules.builtin"
    if builtin.exists() and f"/{module.replace('_', '-')}.ko" in builtin.read_text():
        return Finding(subject, True, "built in", use)
    try:
        runner.run(["modprobe", "-n", "-q", module], deadline=_DEADLINE_SECONDS)
    except HostError:
        return Finding(subject, False, f"not in the kernel {release}", use)
    return Finding(subject, True, "can be loaded", use)


def _io_limits(root: Path) -> Finding:
    controllers = root / "sys/fs/cgroup/cgroup.controllers"
    found = controllers.exists() and "io" in controllers.read_text().split()
    detail = str(controllers) if found else f"no io in {controllers}"
    return Finding("cgroup v2 io", found, detail, "I/O limits")
