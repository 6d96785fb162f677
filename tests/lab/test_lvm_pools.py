"""Pools on real disks: made, found again, refused, degraded, hung, full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20
PYTHON = ".venv/bin/python"
HEAD = """
import base64, os, subprocess, sys
from pathlib import Path
from host.command import Runner
from host.errors import *
from host.lvm.disks import *
from host.lvm.model import *
from host.lvm.pool_spec import PoolSpec, Share
from host.lvm.pools import Pools

MIB = 1 << 20
runner = Runner(breaker_limit=1)

def pools(*specs, **options):
    options = {"udev": False, "deadline": 60, **options}
    made = Pools(specs, runner, run_directory=Path("/run/xlss"),
                 durable_directory=Path("/run/kept"), **options)
    made.open_due()
    return made

def thin(name="p", group="vg0", devices=("/dev/ubdb",), **options):
    options = {"thin_pool": "thin", "thin_size": Share(size_bytes=128 * MIB), **options}
    return PoolSpec(name, group, devices, **options)

def thick(name="p", group="vg0", devices=("/dev/ubdb",)):
    return PoolSpec(name, group, devices)

def sh(script):
    bash = ["bash", "-euc", script]
    return subprocess.run(bash, check=True, capture_output=True, text=True).stdout

def partition(disk):
    '''A script that makes an MBR with one entry: 4 MiB from sector 2048 on.'''
    table = bytearray(512)
    table[446:462] = bytes.fromhex("00202100 83000000 00080000 00200000")
    table[510:] = b"\\x55\\xaa"
    return (f"echo {base64.b64encode(table).decode()} | base64 -d | dd of={disk} conv=notrunc; "
            f"blockdev --rereadpt {disk}")

def swap_table(name, table):
    sh(f"dmsetup suspend --noflush {name}")
    sh(f"dmsetup load {name} --table '{table}'; dmsetup resume {name}")

def disks_of_tables():
    '''Makes the disks d1 and d2. Below them LVM finds nothing: their labels are elsewhere there.'''
    working, failing = [f"0 200000 {target}" for target in ("linear /dev/ubdb 2048", "error")]
    other = "0 200000 linear /dev/ubdc 2048"
    sh(f"dmsetup create d1 --table '{working}'; dmsetup create d2 --table '{other}'")
    sh("dmsetup mknodes")
    return working, failing, other

def refusal(*specs):
    made = pools(*specs)
    try:
        return made.status(specs[0].name).trouble
    finally:
        made.close()

def expect(error, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except error as caught:
        return str(caught)
    raise AssertionError(f"no {error.__name__}")
"""
STOCK_LVM = (
    "--config 'devices{use_devicesfile=0 hints=\"none\"} activation{udev_sync=0 udev_rules=0}'"
)

BLANK_AGAIN = """
set +e
umount -q /mnt
pkill -x lvm
dmsetup remove_all --force
rm -rf /run/xlss /run/kept /dev/vg0 /dev/theirs
for disk in /dev/ubdb /dev/ubdc; do
  dd if=/dev/zero of=$disk bs=1M count=160 status=none
  blockdev --rereadpt $disk
done
true
"""


def story(node: Node, code: str) -> str:
    result = node.run([PYTHON, "-c", HEAD + code], check=False, timeout=200)
    assert result.returncode == 0, result.stderr.decode()
    return result.text.strip()


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node(disks=(512 * MIB, 512 * MIB))


@pytest.fixture(scope="module")
def shared_node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(160 * MIB, 160 * MIB))


@pytest.fixture
def blank_node(shared_node: Node) -> Iterator[Node]:
    """Two blank disks, blank again for the next test whatever this one leaves behind."""
    yield shared_node
    shared_node.sh(BLANK_AGAIN)


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


@pytest.mark.parametrize("error_when_full", [True, False])
def test_a_full_thin_pool_grows_and_nothing_that_was_written_is_lost(
    blank_node: Node, error_when_full: bool
) -> None:
    story(
        blank_node,
        f"""
import hashlib, threading
p = pools(thin(error_when_full={error_when_full}, thin_size=Share(size_bytes=64 * MIB)))
assert p.status("p").thin.error_when_full is {error_when_full}
p.lvm.create_thick("vg0", "neighbour", 16 * MIB)
p.lvm.create_thin("vg0", "thin", "t1", 128 * MIB)
block = os.urandom(MIB)
fd = os.open("/dev/vg0/t1", os.O_RDWR | os.O_DSYNC)
def fill(count):
    for at in range(count):
        os.pwrite(fd, block, at * MIB)
fill(60)
if {error_when_full}:
    expect(OSError, fill, 80)
else:
    writer = threading.Thread(target=fill, args=(80,))
    writer.start()
    writer.join(2)
    assert writer.is_alive()
status = p.status("p")
assert "100% of its data used" in status.trouble, status
neighbour = os.open("/dev/vg0/neighbour", os.O_RDWR | os.O_DSYNC)
os.pwrite(neighbour, block, 0)
done = p.grow_if_needed("p")
assert len(done) == 1, done
assert p.status("p").thin.size_bytes == 80 * MIB, p.status("p").thin  # by a fifth, in whole extents
p.grow_if_needed("p")
if {error_when_full}:
    fill(80)
else:
    writer.join(60)
    assert not writer.is_alive()
assert all(os.pread(fd, MIB, at * MIB) == block for at in range(80))
status = p.status("p")
assert not status.thin.health and not status.thin.needs_check, status.thin
os.close(fd)
os.close(neighbour)
p.lvm.remove("vg0", "t1", "neighbour", "thin")
p.close()
""",
    )


def test_a_thin_pool_that_shows_what_was_in_its_blocks_takes_nothing_new(blank_node: Node) -> None:
    story(
        blank_node,
        """
from node_agent.pool_report import pool_report
p = pools(thin())
environment = {**os.environ, "LVM_SYSTEM_DIR": "/run/xlss/lvm/vg0", "DM_DISABLE_UDEV": "1"}
for zero, limit in [("n", 0), ("y", 128 * MIB)]:
    subprocess.run(["lvchange", "--zero", zero, "vg0/thin"], check=True, env=environment)
    status = p.status("p")
    assert ("lvchange --zero y vg0/thin" in status.trouble) is (zero == "n"), status.trouble
    assert pool_report(status).thin.virtual_limit_bytes == limit
p.lvm.remove("vg0", "thin")
p.close()
""",
    )


def test_a_killed_shell_is_started_again(blank_node: Node) -> None:
    story(
        blank_node,
        """
import signal
p = pools(thick())
p.lvm.create_thick("vg0", "v1", 8 * MIB)
shells = [int(pid) for pid in sh("pgrep -x lvm").split()]
assert len(shells) == 1
os.kill(shells[0], signal.SIGKILL)
assert [v.name for v in p.lvm.logical_volumes("vg0")] == ["v1"]
assert [int(pid) for pid in sh("pgrep -x lvm").split()] != shells
p.lvm.remove("vg0", "v1")
p.close()
assert subprocess.run(["pgrep", "-x", "lvm"]).returncode == 1
""",
    )


def test_volumes_that_a_killed_command_left_suspended_are_resumed(blank_node: Node) -> None:
    story(
        blank_node,
        """
p = pools(thin())
p.lvm.create_thick("vg0", "v1", 8 * MIB)
p.lvm.create_thin("vg0", "thin", "t1", 8 * MIB)
for device in ("vg0-v1", "vg0-thin-tpool"):
    for again in (False, True):
        status = p.status("p")
        sh(f"dmsetup suspend {device}")
        if again:
            p.close()
            p = pools(thin())
        else:
            assert p.tend(status)
        assert "SUSPENDED" not in sh("dmsetup info")
        for name in ("v1", "t1"):
            fd = os.open(f"/dev/vg0/{name}", os.O_RDWR | os.O_DSYNC)
            os.pwrite(fd, b"x" * 4096, 0)
            os.close(fd)
p.lvm.remove("vg0", "v1", "t1", "thin")
p.close()
""",
    )


def test_what_another_group_holds_suspended_is_left_alone(blank_node: Node) -> None:
    story(
        blank_node,
        """
p = pools(thick())
# One of group vg0-fast; one of a group vg0 whose disks are not ours.
for name in ("vg0--fast-v1", "vg0-v1"):
    sh(f"dmsetup create {name} --uuid LVM-{'x' * 64} --table '0 8 error'; dmsetup suspend {name}")
    assert not p.tend(p.status("p"))
    assert "SUSPENDED" in sh(f"dmsetup info {name}")
    sh(f"dmsetup resume {name}; dmsetup remove {name}")
p.close()
""",
    )


def test_a_removed_volume_comes_back_from_the_archive(blank_node: Node) -> None:
    story(
        blank_node,
        """
p = pools(thick())
p.lvm.create_thick("vg0", "v1", 8 * MIB)
fd = os.open("/dev/vg0/v1", os.O_RDWR | os.O_DSYNC)
os.pwrite(fd, b"x" * 4096, 0)
os.close(fd)
p.lvm.close()
# Killed before it came to archive anything: the next one does, once.
assert not Path("/run/kept/archive").exists()
for _ in range(2):
    p = pools(thick())
    p.archive()
    p.lvm.close()
p = pools(thick())
p.lvm.remove("vg0", "v1")
p.archive()
p.archive()
archives = sorted(Path("/run/kept/archive").iterdir())
assert len(archives) == 2, archives
environment = {**os.environ, "LVM_SYSTEM_DIR": "/run/xlss/lvm/vg0", "DM_DISABLE_UDEV": "1"}
subprocess.run(["vgcfgrestore", "-f", archives[0], "vg0"], check=True, env=environment)
p.lvm.activate("vg0", "v1")
assert Path("/dev/vg0/v1").open("rb").read(4096) == b"x" * 4096
p.lvm.remove("vg0", "v1")
p.close()
""",
    )


def test_udevd_is_waited_for_where_one_answers(make_node: Callable[..., Node]) -> None:
    node = make_node(disks=(256 * MIB,), udev=True)
    story(
        node,
        """
from host.lvm.udev import udev_answers
remembered = Path("/run/xlss/remembered")
sh("dmsetup create xlss-udev-probe-1-1 --table '0 8 error'")  # left by an agent that was killed
assert udev_answers(runner, remembered)
assert remembered.exists()
assert "xlss-udev-probe" not in sh("dmsetup ls")
p = pools(thin(), udev=None)
assert "udev_sync = 1" in Path("/run/xlss/lvm/vg0/lvm.conf").read_text()
p.lvm.create_thin("vg0", "thin", "t1", 8 * MIB)
p.lvm.create_thick("vg0", "v1", 8 * MIB)
assert all(Path("/dev/vg0", name).is_block_device() for name in ("t1", "v1"))
p.lvm.remove("vg0", "t1", "v1")
assert not any(Path("/dev/vg0", name).exists() for name in ("t1", "v1"))
""",
    )
    story(
        node,
        """
import signal
from host.lvm.udev import udev_answers
(udevd,) = (int(pid) for pid in sh("pgrep -x systemd-udevd").split())
os.kill(udevd, signal.SIGSTOP)
import host.lvm.udev as udev
udev._DEADLINE = 3
assert not udev_answers(runner, Path("/run/xlss/never-asked"))
os.kill(udevd, signal.SIGCONT)
""",
    )
