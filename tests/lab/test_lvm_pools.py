"""Pools on real disks: made, found again, refused, degraded, hung."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.node import MIB
from tests.lab.pool_stories import STOCK_LVM, story

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node(disks=(512 * MIB, 512 * MIB))


def test_a_pool_is_made_once_and_found_again_after_a_power_off(node: Node) -> None:
    spec = "thin(devices=('/dev/ubdb', '/dev/ubdc'))"
    story(
        node,
        f"""
p = pools({spec})
status = p.status("p")
assert status.trouble == "", status
group = status.state.volume_group
assert group.tags == {{"xlss"}} and group.pv_count == 2
assert group.metadata_bytes >= 3 * MIB
assert status.thin.size_bytes == 128 * MIB and status.thin.active
p.lvm.create_thin("vg0", "thin", "t1", 64 * MIB, tags=["ours"])
p.lvm.create_thick("vg0", "v1", 64 * MIB, tags=["ours"])
for name in ("t1", "v1"):
    fd = os.open(f"/dev/vg0/{{name}}", os.O_RDWR)
    os.pwrite(fd, name.encode() * 256, 0)
    os.fsync(fd)
p.close()
""",
    )
    node.kill()
    node.start()
    story(
        node,
        f"""
p = pools({spec})
status = p.status("p")
assert status.trouble == "" and status.thin.active, status
assert not any(v.active for v in p.lvm.logical_volumes("vg0") if v.name != "thin")
assert p.lvm.activate_tagged("vg0", "ours") == []
for name in ("t1", "v1"):
    fd = os.open(f"/dev/vg0/{{name}}", os.O_RDONLY)
    assert os.pread(fd, 512, 0) == name.encode() * 256
""",
    )


def test_a_disk_that_holds_anything_is_never_taken(blank_node: Node) -> None:
    story(
        blank_node,
        """
both = thick(devices=("/dev/ubdb", "/dev/ubdc"))
for made, undone, said in [
    ("mkfs.ext4 -q /dev/ubdb", "", "/dev/ubdb carries ext4"),
    ("mkswap -q /dev/ubdb", "", "/dev/ubdb carries swap"),
    ("echo x | dd of=/dev/ubdb bs=1 seek=3000000", "", "without a known signature"),
    ("echo x | dd of=/dev/ubdb bs=1M seek=159", "", "without a known signature"),
    ("modprobe ext4; mkfs.ext4 -q /dev/ubdb; mkdir -p /mnt; mount -r /dev/ubdb /mnt", "umount /mnt",
     "/dev/ubdb is mounted at /mnt"),
    ("dmsetup create held --table '0 8 linear /dev/ubdb 0'", "dmsetup remove held",
     "/dev/ubdb is held by dm-"),
    (partition("/dev/ubdb"), "", "/dev/ubdb has partitions: ubdb1"),
]:
    sh(made)
    before = sh("head -c 8M /dev/ubdb | sha256sum")
    trouble = refusal(both)
    assert said in trouble, trouble
    assert sh("head -c 8M /dev/ubdb | sha256sum") == before
    assert sh("blkid -p /dev/ubdc || true") == ""
    ends = "for at in 0 156; do dd if=/dev/zero of=/dev/ubdb bs=1M count=4 seek=$at; done"
    sh(f"{undone}\\n{ends}; blockdev --rereadpt /dev/ubdb")
""",
    )


def test_nothing_is_made_of_a_part_of_the_named_disks(blank_node: Node) -> None:
    trouble = story(blank_node, "print(refusal(thick(devices=('/dev/ubdb', '/dev/ubdz'))))")
    assert "/dev/ubdz not there" in trouble
    assert blank_node.sh("blkid -p /dev/ubdb || true").text == ""


def test_disks_that_a_crash_left_prepared_are_taken(blank_node: Node) -> None:
    blank_node.sh(f"pvcreate {STOCK_LVM} /dev/ubdb")
    story(blank_node, "assert refusal(thick(devices=('/dev/ubdb', '/dev/ubdc'))) == ''")


def test_groups_of_others_are_left_alone(blank_node: Node) -> None:
    blank_node.sh(f"vgcreate {STOCK_LVM} theirs /dev/ubdb")
    trouble = story(blank_node, "print(refusal(thick()))")
    assert "/dev/ubdb belongs to volume group theirs" in trouble
    trouble = story(blank_node, "print(refusal(thick(group='theirs', devices=('/dev/ubdc',))))")
    assert "volume group theirs is on /dev/ubdb, not on /dev/ubdc" in trouble
    assert story(blank_node, "print(refusal(thick(devices=())))").startswith("there is no volume")
    assert story(blank_node, "print(refusal(thick(group='theirs', devices=())))") == ""


def test_of_two_groups_of_one_name_the_named_one_is_used(blank_node: Node) -> None:
    for disk in ("ubdb", "ubdc"):
        only = f'--config \'devices{{use_devicesfile=0 filter=["a|/dev/{disk}|","r|.*|"]}}\''
        blank_node.sh(f"vgcreate {only} vg0 /dev/{disk}")
    trouble = story(blank_node, "print(refusal(thick(devices=())))")
    assert "2 volume groups are named vg0" in trouble
    assert trouble.count(" on /dev/ubd") == 2
    assert "2 volume groups" in story(
        blank_node, "print(refusal(thick(devices=('/dev/ubdb', '/dev/ubdc'))))"
    )
    story(
        blank_node,
        """
p = pools(thick(devices=("/dev/ubdc",)))
p.lvm.create_thick("vg0", "v1", 8 * MIB)
status = p.status("p")
assert status.trouble == "" and status.state.volume_group.pv_count == 1
p.lvm.remove("vg0", "v1")
""",
    )


def test_a_group_that_a_pod_has_made_in_its_raw_volume_is_left_alone(blank_node: Node) -> None:
    only = '--config \'devices{use_devicesfile=0 filter=["a|/dev/loop0|","r|.*|"]}\''
    story(
        blank_node,
        f"""
p = pools(thick())
p.lvm.create_thick("vg0", "raw", 32 * MIB)
p.close()
sh("modprobe loop; losetup /dev/loop0 /dev/mapper/vg0-raw; rm -r /dev/vg0")
try:
    sh({f"vgcreate {only} vg0 /dev/loop0"!r})
    assert refusal(thick(devices=())) == ""
finally:
    sh("losetup -d /dev/loop0")
""",
    )


def test_a_lost_disk_takes_only_its_own_volumes(node: Node) -> None:
    specs = "thick(devices=('/dev/ubdb', '/dev/ubdc'))"
    story(
        node,
        f"""
p = pools({specs})
p.lvm.create_thick("vg0", "whole", 400 * MIB)
p.lvm.create_thick("vg0", "lost", 400 * MIB)
""",
    )
    node.kill()
    lost = node.disks[1]
    node.disks[1] = None
    node.start()
    story(
        node,
        f"""
p = pools({specs})
status = p.status("p")
assert "1 of 2 disks missing" in status.trouble, status.trouble
p.lvm.activate("vg0", "whole")
Path("/dev/vg0/whole").open("rb").read(4096)
said = expect(DeviceFailed, p.lvm.activate, "vg0", "lost")
volumes = {{volume.name: volume for volume in p.lvm.logical_volumes("vg0")}}
assert volumes["lost"].health == "partial" and volumes["whole"].health == ""
expect(DeviceFailed, p.lvm.create_thick, "vg0", "new", 8 * MIB)
""",
    )
    node.kill()
    node.disks[1] = lost
    node.start()
    story(
        node,
        f"""
p = pools({specs})
assert p.status("p").trouble == "", p.status("p").trouble
p.lvm.activate("vg0", "lost")
""",
    )


def test_a_disk_that_cannot_be_read_for_a_while_stays_in_its_group(blank_node: Node) -> None:
    story(
        blank_node,
        """
working, failing, _ = disks_of_tables()
spec = thick(devices=("/dev/mapper/d1", "/dev/mapper/d2"))
for readable_at_first in (True, False):
    if not readable_at_first:
        swap_table("d1", failing)
    p = pools(spec)
    if readable_at_first:
        swap_table("d1", failing)
    status = p.status("p")
    assert "1 of 2 disks missing" in status.trouble, status.trouble
    assert p.tend(status)
    swap_table("d1", working)
    assert p.status("p").trouble == "", p.status("p").trouble
    p.close()
""",
    )


def test_a_search_for_a_lost_disk_that_failed_is_repeated(blank_node: Node) -> None:
    story(
        blank_node,
        """
import time
from host.lvm import disks
_, _, other = disks_of_tables()
p = pools(thick(devices=("/dev/mapper/d1", "/dev/mapper/d2")))
sh(f"dmsetup create d3 --table '{other}'; dmsetup remove --retry d2")
# A disk that is nobody's hangs.
sh("dmsetup create hung --table '0 8192 linear /dev/ubdc 250000'")
sh("dmsetup mknodes; dmsetup suspend hung")
disks._DEADLINE = 2
assert p.tend(p.status("p"))
assert runner.stuck == 1
sh("dmsetup resume hung")
while runner.stuck:
    time.sleep(0.1)
disks._DEADLINE = 60
assert p.tend(p.status("p"))
assert p.status("p").trouble == "", p.status("p").trouble
p.close()
""",
    )


def test_a_disk_that_hangs_or_fails_holds_up_its_own_group_only(node: Node) -> None:
    story(
        node,
        """
size = int(sh("blockdev --getsz /dev/ubdb"))
sh(f"dmsetup create disk --table '0 {size} linear /dev/ubdb 0'; dmsetup mknodes")
p = pools(thick("a", "vga", ("/dev/mapper/disk",)), thick("b", "vgb", ("/dev/ubdc",)), deadline=12)
assert [p.status(name).trouble for name in "ab"] == ["", ""]
p.lvm.create_thick("vga", "v1", 8 * MIB)

sh("dmsetup suspend --noflush disk")
expect(CommandStuck, p.lvm.create_thick, "vga", "v2", 8 * MIB)
assert runner.stuck == 1
said = expect(CommandStuck, p.lvm.logical_volumes, "vga")
assert "stuck in the kernel" in said, said
assert "stuck in the kernel" in p.status("a").trouble
p.lvm.create_thick("vgb", "v1", 8 * MIB)
assert p.status("b").trouble == ""

sh("dmsetup resume disk")
import time
while runner.stuck:
    time.sleep(0.1)
assert {v.name for v in p.lvm.logical_volumes("vga")} >= {"v1"}

swap_table("disk", f"0 {size} error")
expect(DeviceFailed, p.lvm.remove, "vga", "v1")
assert p.status("a").trouble != ""
p.lvm.create_thick("vgb", "v2", 8 * MIB)
swap_table("disk", f"0 {size} linear /dev/ubdb 0")
assert p.status("a").trouble == "", p.status("a").trouble
p.close()
sh("dmsetup remove --retry vga-v1; dmsetup remove --retry disk")
""",
    )
