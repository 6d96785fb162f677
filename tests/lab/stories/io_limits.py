"""Limits of a pod's I/O: they hold on the face of a volume, also under encryption."""

from __future__ import annotations

import os
from pathlib import Path

from host import io_limits
from host.command import Runner
from host.device_mapper import DeviceMapper
from host.encryption import format_device, open_device
from host.errors import Missing
from host.filesystem import make
from host.linear_device import ensure_linear
from host.mount import make_directory, mount_device
from tests.lab.stories.telling import DISK, MIB, machine, raises, sh

FACE, CRYPT, KEY = "xlss-v1", "xlss-crypt-v1", b"key"


def limits_hold_on_the_face_for_direct_and_buffered_writes_and_change_at_once() -> None:
    root = Path("/sys/fs/cgroup")
    pod = root / "kubepods/burstable/pod6b3c-1"
    for parent in (root / "kubepods", root / "kubepods/burstable", pod, pod / "container"):
        parent.mkdir()
    try:
        with machine() as (runner, mapper, folder):
            _limited(runner, mapper, folder, root, pod)
    finally:
        sh(f"rmdir {pod}/container {pod} {root}/kubepods/burstable {root}/kubepods")


def of_a_cgroup_that_is_just_going_nothing_is_limited() -> None:
    root = Path("/sys/fs/cgroup")
    (root / "cgroup.subtree_control").write_text("+io")
    pod = root / "pod6b3c-2"
    pod.mkdir()
    opened = os.open(pod / "io.max", os.O_RDONLY)
    pod.rmdir()
    with machine() as (_, _, folder):
        # As found before it went, and opened after that.
        Path(folder, "io.max").symlink_to(f"/proc/self/fd/{opened}")
        assert io_limits.limits_of(Path(folder), "254:0") == io_limits.Limits()


def _limited(runner: Runner, mapper: DeviceMapper, folder: Path, root: Path, pod: Path) -> None:
    found = io_limits.find_pod_cgroup(root, "6b3c-1")
    assert found == pod
    sh(f"blkdiscard -z -l {128 * MIB} {DISK}")
    face = str(ensure_linear(mapper, FACE, DISK, 128 * MIB))
    number = mapper.info(FACE).major_minor
    format_device(runner, face, KEY)
    crypt = str(open_device(runner, mapper, face, CRYPT, KEY))
    assert io_limits.limits_of(pod, number) == io_limits.Limits()
    limits = io_limits.Limits(write_bytes=8 * MIB, read_bytes=8 * MIB)
    io_limits.set_limits(root, pod, number, limits)
    assert io_limits.limits_of(pod, number) == limits

    def timed(command: str) -> float:
        return float(
            sh(
                f"TIMEFORMAT=%R; {{ time bash -c 'echo $$ > {pod}/container/cgroup.procs;"
                f" {command}' >/dev/null 2>&1; }} 2>&1"
            ).split()[-1]
        )

    write = f"dd if=/dev/zero of={crypt} bs=1M count=16 oflag=direct"
    read = f"dd if={crypt} of=/dev/null bs=1M count=16 iflag=direct"
    # 16 MiB at 8 MiB/s: two seconds, less what the first slice gives away.
    assert timed(write) > 1.7
    assert timed(read) > 1.7
    make(runner, crypt, "ext4", reads_zero=False, anew=True)
    make_directory(f"{folder}/a")
    mount_device(runner, crypt, f"{folder}/a", "ext4")
    assert timed(f"dd if=/dev/zero of={folder}/a/x bs=1M count=16 conv=fsync") > 1.7
    io_limits.set_limits(root, pod, number, io_limits.Limits(write_iops=20))
    assert timed(f"dd if=/dev/zero of={folder}/a/y bs=4k count=40 oflag=direct") > 1.7
    io_limits.set_limits(root, pod, number, io_limits.Limits())
    assert io_limits.limits_of(pod, number) == io_limits.Limits()
    unlimited = timed(f"dd if=/dev/zero of={folder}/a/x bs=1M count=16 conv=fsync")
    io_limits.set_limits(root, pod, number, limits)
    assert unlimited < timed(f"dd if=/dev/zero of={folder}/a/x bs=1M count=16 conv=fsync")
    raises(Missing, lambda: io_limits.set_limits(root, pod, "254:99", limits))
    raises(Missing, lambda: io_limits.set_limits(root, root / "kubepods/podgone", number, limits))
