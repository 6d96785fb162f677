"""Giving the files of a volume to a group, as kubelet's fsGroup does (VOLUME_MOUNT_GROUP of CSI).

ext4, xfs and btrfs have no mount option for it. A pod may be writing into the volume meanwhile: no
step follows a symbolic link that it may put in the way.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from host.errors import DeviceFailed, Refused

_FILE_BITS = 0o660
_DIRECTORY_BITS = 0o2770  # the group of a directory goes over to what is made in it


def apply_group(path: str, group: int) -> bool:
    """Give all below ``path`` to ``group``, readable and writable; False where it is so already.

    The directory itself comes last, and only it is looked at first: what a pod has changed since
    stays as it is (fsGroupChangePolicy OnRootMismatch), and an interrupted run is repeated.
    Raises ``Refused`` for a file system that is read-only or full, ``DeviceFailed``.
    """
    try:
        root = Path(path).stat()
        if root.st_gid == group and root.st_mode & _DIRECTORY_BITS == _DIRECTORY_BITS:
            return False
        for _, directories, files, folder in os.fwalk(path, topdown=False, onerror=_raise):
            for name in (*files, *directories):
                _give(name, folder, group)
        _give(path, None, group)
    except OSError as error:
        text = f"cannot give {path} to group {group}: {error.strerror}"
        raise (DeviceFailed if error.errno == 5 else Refused)(text) from error
    return True


def _give(name: str, folder: int | None, group: int) -> None:
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:  # a pod has removed it
        return
    try:
        found = os.fstat(handle)
        link = f"/proc/self/fd/{handle}"
        if stat.S_ISLNK(found.st_mode):
            os.chown(name, -1, group, dir_fd=folder, follow_symlinks=False)
            return
        os.chown(link, -1, group)
        bits = _DIRECTORY_BITS if stat.S_ISDIR(found.st_mode) else _FILE_BITS
        # After the owner: chown takes the setuid and setgid bits away.
        os.chmod(link, stat.S_IMODE(found.st_mode) | bits)  # noqa: PTH101
    finally:
        os.close(handle)


def _raise(error: OSError) -> None:
    raise error
