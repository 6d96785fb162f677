"""Giving the files of a volume to a group, as kubelet's fsGroup does (VOLUME_MOUNT_GROUP of CSI).

ext4, xfs and btrfs have no mount option for it. All of a pod's tree is walked, on a disk that may
hang: ``ownership_process.py`` does it, a process of its own.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from host.errors import CommandFailed, DeviceFailed, InTransition, Refused
from host.ownership_process import DIRECTORY_BITS

if TYPE_CHECKING:
    from host.command import Runner

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from host.ownership_process import main; main(sys.argv[2:])"
)
_PACKAGES = str(Path(__file__).resolve().parent.parent)
_DEADLINE = 3600.0  # some trees have millions of files


def apply_group(runner: Runner, path: str, group: int, *, resource: str | None = None) -> bool:
    """Give all below ``path`` to ``group``, readable and writable; False where it is so already.

    The directory itself comes last, and only it is looked at first: what a pod has changed since
    stays as it is (fsGroupChangePolicy OnRootMismatch), and an interrupted run is repeated.
    ``resource``: the device below. Raises ``Refused`` for a file system that is read-only or full,
    ``InTransition`` where a pod moves directories meanwhile, ``DeviceFailed``, ``CommandStuck``.
    """
    root = Path(path).stat()  # in memory, as it is mounted
    if root.st_gid == group and root.st_mode & DIRECTORY_BITS == DIRECTORY_BITS:
        return False
    argv = [sys.executable, "-I", "-S", "-c", _BOOT, _PACKAGES, path, str(group)]
    try:
        runner.run(argv, deadline=_DEADLINE, resource=resource)
    except CommandFailed as error:
        text = f"cannot give {path} to group {group}: {error.stderr.strip()[-300:]}"
        kinds = {errno.EIO: DeviceFailed, errno.ESTALE: InTransition}
        raise kinds.get(error.exit_code, Refused)(text) from error
    return True
