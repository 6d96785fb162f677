"""The upkeep of pools on real disks: full, killed in the middle, archived, beside udevd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.node import MIB
from tests.lab.pool_stories import story

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab


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
