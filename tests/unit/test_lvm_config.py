"""The private directory of a volume group, and which disks are shown in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.errors import Refused
from host.lvm.config import GroupDirectory
from host.lvm.disks import FoundDisk, the_one_group


@pytest.fixture
def directory(tmp_path: Path) -> GroupDirectory:
    made = GroupDirectory(tmp_path, "vg0", udev=False)
    made.write(["/dev/sdb", "/dev/disk/by-id/wwn-1"])
    return made


def test_only_the_given_disks_are_shown(directory: GroupDirectory) -> None:
    assert set(directory.devices().values()) == {"/dev/sdb", "/dev/disk/by-id/wwn-1"}
    scan = directory.path / "scan"
    assert directory.name_of("/dev/disk/by-id/wwn-1") == str(scan / "disk!by-id!wwn-1")
    assert f'scan = ["{scan}"]' in (directory.path / "lvm.conf").read_text()
    with pytest.raises(Refused, match="/dev/sdc"):
        directory.name_of("/dev/sdc")


def test_disks_come_and_go(directory: GroupDirectory) -> None:
    directory.set_devices(["/dev/sdb", "/dev/sdc"])
    assert set(directory.devices().values()) == {"/dev/sdb", "/dev/sdc"}


def test_it_is_built_anew_at_every_start(directory: GroupDirectory) -> None:
    (directory.path / "lvm.conf").write_text("devices { scan = [] }")
    (directory.path / "scan" / "sdz").symlink_to("/dev/sdz")
    directory.write(["/dev/sdb"])
    assert set(directory.devices().values()) == {"/dev/sdb"}
    assert "use_devicesfile = 0" in (directory.path / "lvm.conf").read_text()


def test_without_udevd_lvm_makes_the_nodes(tmp_path: Path) -> None:
    without = GroupDirectory(tmp_path, "without", udev=False)
    with_udev = GroupDirectory(tmp_path, "with", udev=True)
    for directory in (without, with_udev):
        directory.write([])
    assert without.environment["DM_DISABLE_UDEV"] == "1"
    assert "DM_DISABLE_UDEV" not in with_udev.environment
    assert "udev_sync = 0" in (without.path / "lvm.conf").read_text()
    assert "udev_sync = 1" in (with_udev.path / "lvm.conf").read_text()


def test_the_group_is_known_by_its_only_uuid() -> None:
    disks = [
        FoundDisk("/dev/sdb", "p1", "vg0", "u1", 2, free=False),
        FoundDisk("/dev/sdc", "p2", "vg0", "u1", 2, free=False),
        FoundDisk("/dev/sdd", "p3", "other", "u2", 1, free=False),
        FoundDisk("/dev/sde", "p4", "", "", 0, free=True),
    ]
    assert the_one_group("vg0", disks) == "u1"
    assert the_one_group("vg9", disks) is None


def test_two_groups_of_a_name_are_told_apart_for_a_person() -> None:
    disks = [
        FoundDisk("/dev/sdb", "p5", "vg0", "u1", 1, free=False),
        FoundDisk("/dev/sdc", "p6", "vg0", "u2", 1, free=False),
    ]
    with pytest.raises(Refused, match="u1 on /dev/sdb; u2 on /dev/sdc"):
        the_one_group("vg0", disks)
