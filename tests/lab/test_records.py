"""The record writer and its checker on real disks: they see what is lost, and only that."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandTimeout, LabError
from lab.record_verdict import Written
from lab.records import Records, differing, hashes

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20
DISK = "/dev/ubdb"
FILE = "/mnt/data/records"


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(64 * MIB, 64 * MIB), memory=256 * MIB)


def overwrite(node: Node, data: bytes, offset: int) -> None:
    """Put bytes on the disk, whole sectors."""
    node.run(
        ["dd", f"of={DISK}", "bs=512", f"seek={offset // 512}", "oflag=direct", "status=none"],
        input=data,
    )


def read(node: Node, offset: int, size: int) -> bytes:
    argv = ["dd", f"if={DISK}", "bs=512", f"skip={offset // 512}", f"count={size // 512}"]
    return node.run([*argv, "iflag=direct", "status=none"]).stdout


@pytest.mark.parametrize("dsync", [False, True])
def test_a_ring_on_a_raw_device_goes_round(node: Node, dsync: bool) -> None:
    records = Records(size=1 * MIB, offset=3 * MIB + 512, record_size=512 if dsync else 4096)
    before = read(node, 3 * MIB, 512) + read(node, 4 * MIB + 512, 512)
    writer = records.start(node, DISK, dsync=dsync)
    assert writer.found == 0
    writer.wait_for(600)
    assert writer.stop().stopped
    verdict = records.check(node, DISK)
    assert verdict.ok, verdict
    assert verdict.highest == writer.last >= 600
    assert 0 < writer.longest_pause <= records.longest_silence() + 60
    assert read(node, 3 * MIB, 512) + read(node, 4 * MIB + 512, 512) == before


def test_the_next_writer_goes_on_in_the_same_file(node: Node) -> None:
    node.sh("mkfs.ext4 -q /dev/ubdc; mkdir -p /mnt/data; mount /dev/ubdc /mnt/data")
    records = Records(size=4 * MIB)
    first = records.start(node, FILE)
    first.wait_for(50)
    first.kill()
    assert first.ending is not None
    assert not first.ending.stopped
    second = records.start(node, FILE, interval=0.001)
    assert second.found >= first.last >= 50
    second.wait_for(50)
    second.stop()
    verdict = records.check(node, FILE)
    assert verdict.ok, verdict
    assert verdict.highest == second.last
    node.sh("umount /mnt/data")


def test_what_was_acknowledged_survives_power_cuts(make_node: Callable[..., Node]) -> None:
    node = make_node(disks=(64 * MIB,), memory=256 * MIB)
    node.sh(f"mkfs.ext4 -q {DISK}")
    records = Records(size=4 * MIB)
    for _ in range(3):
        node.sh(f"mkdir -p /mnt/data; mount {DISK} /mnt/data")
        writer = records.start(node, FILE)
        writer.wait_for(100)
        node.kill()
        assert writer.wait_ended().errno == 0
        node.start()
    node.sh(f"mkdir -p /mnt/data; mount {DISK} /mnt/data")
    verdict = records.check(node, FILE)
    assert verdict.ok, verdict
    assert verdict.highest >= records.writers[-1].last >= 300


def test_a_disk_that_lies_is_found_out(node: Node) -> None:
    disk = node.faulty_disk(DISK)
    records = Records(size=2 * MIB)
    writer = records.start(node, disk.path)
    writer.wait_for(50)
    disk.lose_writes()
    since = writer.last
    writer.wait_for(20)
    writer.stop()
    disk.recover()
    verdict = records.check(node, DISK)
    lost = {written.number for written in verdict.lost}
    assert max(lost) == writer.last
    assert since + 1 in lost or since + 20 in lost
    assert min(lost) > 40


def test_a_frozen_disk_makes_a_pause_and_nothing_else(node: Node) -> None:
    disk = node.faulty_disk(DISK)
    records = Records(size=2 * MIB)
    writer = records.start(node, disk.path)
    writer.wait_for(50)
    disk.hang()
    with pytest.raises(CommandTimeout):
        writer.wait_for(1 << 30, timeout=2.0)
    with pytest.raises(CommandTimeout):
        writer.stop(timeout=0.5)
    disk.recover()
    assert writer.wait_ended().stopped, "it was told to stop while it hung"
    assert writer.longest_pause > 2.0
    assert records.longest_silence() > 2.0
    assert records.check(node, DISK).ok


def test_a_frozen_disk_that_thaws_goes_on(node: Node) -> None:
    disk = node.faulty_disk(DISK)
    records = Records(size=2 * MIB)
    writer = records.start(node, disk.path)
    writer.wait_for(50)
    disk.hang()
    time.sleep(0.5)
    held = writer.last
    time.sleep(0.5)
    assert writer.last == held
    disk.recover()
    writer.wait_for(50)
    writer.stop()
    assert records.check(node, DISK).ok


@pytest.mark.parametrize("fault", ["fail", "fail_writes"])
def test_an_io_error_ends_the_writer_and_is_told(node: Node, fault: str) -> None:
    disk = node.faulty_disk(DISK)
    records = Records(size=2 * MIB)
    writer = records.start(node, disk.path)
    writer.wait_for(50)
    getattr(disk, fault)()
    ending = writer.wait_ended()
    assert (ending.errno, ending.stopped) == (errno.EIO, False)
    if fault == "fail":
        with pytest.raises(LabError, match="Input/output error"):
            records.start(node, disk.path)
    disk.recover()
    verdict = records.check(node, DISK)
    assert verdict.ok, verdict
    assert verdict.highest in (writer.last, writer.last + 1)


def test_spoiled_stale_and_misplaced_records_are_told_apart(node: Node) -> None:
    records = Records(size=256 * 1024)  # 64 places
    first = records.start(node, DISK, interval=0.01)
    first.wait_for(5)
    first.stop()
    assert first.last < 64
    stale = read(node, 0, 4096)  # record 1, whose place others will take
    writer = records.start(node, DISK)
    writer.wait_for(200)
    writer.stop()
    good = read(node, 0, 256 * 1024)
    last = writer.last

    def place(number: int) -> int:
        return (number - 1) % 64

    def offset(number: int) -> int:
        return place(number) * 4096

    overwrite(node, bytes(512), offset(last) + 1024)
    verdict = records.check(node, DISK)
    assert (verdict.damaged, verdict.lost) == ((place(last),), (Written(2, last),))
    overwrite(node, good, 0)
    assert records.check(node, DISK).ok
    overwrite(node, stale, 0)
    (lost,) = records.check(node, DISK).lost
    assert place(lost.number) == 0
    overwrite(node, good, 0)
    overwrite(node, stale, 4096)
    verdict = records.check(node, DISK)
    assert verdict.impossible == (Written(1, 1),)
    assert len(verdict.lost) == 1


def test_two_sides_that_both_acknowledge_are_seen(make_nodes: Callable[..., list[Node]]) -> None:
    one, two = make_nodes(2, disks=(64 * MIB,), memory=256 * MIB)
    records = Records(size=4 * MIB)
    first = records.start(one, DISK, interval=0.01)
    first.wait_for(20)
    second = records.start(two, DISK, interval=0.01)  # a copy that holds nothing
    first.wait_for(20)
    second.wait_for(20)
    first.stop()
    second.stop()
    verdict = records.check(two, DISK)
    assert verdict.both_sides
    assert verdict.lost
    assert all(written.epoch == 1 for written in (*verdict.both_sides, *verdict.lost))


def test_copies_are_compared_piece_by_piece(node: Node) -> None:
    node.sh("dd if=/dev/ubdb of=/dev/ubdc bs=1M oflag=direct status=none")
    assert hashes(node, "/dev/ubdb") == hashes(node, "/dev/ubdc")
    assert len(hashes(node, "/dev/ubdb")) == 64
    overwrite(node, b"\xa5" * 512, 5 * MIB + 1024)
    assert differing(hashes(node, "/dev/ubdb"), hashes(node, "/dev/ubdc")) == [5 * MIB]


def test_a_missing_device_is_not_made_into_a_file(node: Node) -> None:
    with pytest.raises(LabError, match="No such file"):
        Records(size=MIB).start(node, "/dev/none")
