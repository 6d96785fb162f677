"""Limits of a pod's I/O on one device: ``io.max`` of cgroup v2 (Linux, admin-guide/cgroup-v2).

Tried on Linux 6.1 with bios of device-mapper: the limit holds on whichever device of the stack it
names (face, crypt device above, logical volume below), for direct and for buffered I/O of ext4, xfs
and btrfs, and changes while I/O is running. The face is the one to name: its number stays when its
table is swapped. What a file system writes for itself (its journal) is not counted.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from host.errors import Missing, Refused

_POD_UID = re.compile(r"[A-Za-z0-9-]{1,64}")
# Directories between the root and a pod: kubepods/burstable/pod<uid> (cgroupfs driver),
# kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice (systemd driver), both
# possibly inside the slice of a kubelet that runs in a container itself.
_ON_THE_WAY = re.compile(r"kubepods.*|kubelet.*|burstable|besteffort|.*-kubepods.*")
_DEEPEST = 6
# A cgroup that is just going answers ENODEV to whoever has found its files.
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
_KEYS = {
    "read_bytes": "rbps",
    "write_bytes": "wbps",
    "read_iops": "riops",
    "write_iops": "wiops",
}


@dataclass(frozen=True)
class Limits:
    """Per second; 0 is unlimited."""

    read_iops: int = 0
    write_iops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0


def find_pod_cgroup(root: Path, pod_uid: str) -> Path | None:
    """The cgroup of a pod below ``root`` (``/sys/fs/cgroup``), of either of kubelet's drivers.

    None before kubelet has made it, and after the pod's end. ValueError for an impossible UID.
    """
    if not _POD_UID.fullmatch(pod_uid):
        raise ValueError(f"not the UID of a pod: {pod_uid!r}")
    endings = (f"pod{pod_uid}", f"pod{pod_uid.replace('-', '_')}.slice")
    level = [root]
    for _ in range(_DEEPEST):
        children = [child for parent in level for child in _directories(parent)]
        for child in children:
            if child.name.endswith(endings):
                return child
        level = [child for child in children if _ON_THE_WAY.fullmatch(child.name)]
    return None


def set_limits(root: Path, cgroup: Path, device: str, limits: Limits) -> None:
    """Let the processes of ``cgroup`` have no more than ``limits`` of ``device`` ("254:0").

    Replaces all four limits of that device, at once, while I/O is running. Turns the io controller
    on between ``root`` and ``cgroup`` where it is not. Raises ``Missing`` where the cgroup or the
    device has gone (nothing is left to limit), ``Refused`` where the kernel does not limit I/O.
    """
    values = [f"{key}={getattr(limits, name) or 'max'}" for name, key in _KEYS.items()]
    file = cgroup / "io.max"
    if not file.exists():
        _turn_on(root, cgroup)
    try:
        _write(file, f"{device} {' '.join(values)}\n")
    except OSError as error:
        if error.errno in _GONE:
            gone = f"device {device}" if cgroup.exists() else f"cgroup {cgroup}"
            raise Missing(f"no I/O limits are set: {gone} is gone") from error
        raise Refused(f"cannot limit {device} in {cgroup}: {error.strerror}") from error


def limits_of(cgroup: Path, device: str) -> Limits:
    """What ``set_limits`` has set; all unlimited where nothing is."""
    try:
        text = (cgroup / "io.max").read_text()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return Limits()
    return parse(text).get(device, Limits())


def parse(text: str) -> dict[str, Limits]:
    """The content of an ``io.max`` file, by device."""
    found = {}
    for line in text.splitlines():
        device, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        found[device] = Limits(
            **{name: _number(values.get(key, "max")) for name, key in _KEYS.items()}
        )
    return found


def _number(value: str) -> int:
    return 0 if value == "max" else int(value)


def _write(file: Path, text: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CLOEXEC)  # never makes a file
    try:
        os.write(handle, text.encode("ascii"))
    finally:
        os.close(handle)


def _directories(parent: Path) -> list[Path]:
    try:
        return [entry for entry in parent.iterdir() if entry.is_dir()]
    except OSError:  # it has just gone
        return []


def _turn_on(root: Path, cgroup: Path) -> None:
    between = cgroup.relative_to(root).parts[:-1]
    for depth in range(len(between) + 1):
        parent = root.joinpath(*between[:depth])
        try:
            _write(parent / "cgroup.subtree_control", "+io")
        except FileNotFoundError as error:
            if not cgroup.exists():
                raise Missing(f"cgroup {cgroup} is gone") from error
            raise Refused(f"{parent} is not a cgroup v2, I/O cannot be limited") from error
        except OSError as error:
            raise Refused(
                f"the io controller cannot be turned on in {parent}: {error.strerror}"
            ) from error
