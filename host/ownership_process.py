"""The process behind ``ownership.py``: gives a tree to a group.

    owner <directory> <group>
    -> ends with 0, or with the number of an error (errno) and its text on standard error

A pod may be writing into the tree meanwhile: no step follows a symbolic link that it may put in the
way, and none leaves the tree by a directory that it moves. However deep the tree is, one directory
is open at a time. Runs without site packages.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

_FILE_BITS = 0o660
DIRECTORY_BITS = 0o2770
"""The group of a directory goes over to what is made in it."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What a pod has removed, or put something else in the place of.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def main(arguments: list[str]) -> None:
    path, group = arguments
    try:
        _give_tree(path, int(group))
        _give(path, None, int(group))
    except OSError as error:
        sys.stderr.write(error.strerror or "")
        sys.exit(error.errno)


def _give_tree(path: str, group: int) -> None:
    here = os.open(path, _DIRECTORY)
    # Of each directory from the top down to ``here``: which it is, and those in it still to visit.
    above = [(_identity(here), _give_all_in(here, group))]
    while above:
        directories = above[-1][1]
        if directories:
            inner = _opened(directories.pop(), here)
            if inner is not None:
                os.close(here)
                here = inner
                above.append((_identity(here), _give_all_in(here, group)))
            continue
        above.pop()
        if above:
            outer = os.open("..", _DIRECTORY, dir_fd=here)
            os.close(here)
            here = outer
            if _identity(here) != above[-1][0]:
                raise OSError(errno.ESTALE, "a directory was moved meanwhile")
    os.close(here)


def _give_all_in(folder: int, group: int) -> list[str]:
    """Returns the directories among them."""
    directories = []
    with os.scandir(folder) as entries:
        for entry in entries:
            _give(entry.name, folder, group)
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
    return directories


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
        bits = DIRECTORY_BITS if stat.S_ISDIR(found.st_mode) else _FILE_BITS
        # After the owner: chown takes the setuid and setgid bits away.
        os.chmod(link, stat.S_IMODE(found.st_mode) | bits)  # noqa: PTH101
    finally:
        os.close(handle)


def _opened(name: str, folder: int) -> int | None:
    try:
        return os.open(name, _DIRECTORY, dir_fd=folder)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino
