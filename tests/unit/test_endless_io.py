"""When writes to a replicated volume count as endless: none ends while one is under way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from host import block_device
from node_agent.endless_io import EndlessIo

NAME, DEVICE, DISK = "vol-1", "147:1000", "253:7"


class Kernel:
    """Counters of the block layer as files, and a clock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.now = 100.0
        self.set(DISK, under_way=0, ended=0)

    def set(self, number: str, *, under_way: int, ended: int, reads: int = 0) -> None:
        words = [0] * 17
        words[0], words[4], words[15] = reads, ended // 2, ended - ended // 2
        (self._folder / number).mkdir(exist_ok=True)
        (self._folder / number / "stat").write_text(" ".join(map(str, words)) + "\n")
        (self._folder / number / "inflight").write_text(f"       0 {under_way:8}\n")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel(tmp_path)
    monkeypatch.setattr(block_device, "_SYS", tmp_path)
    monkeypatch.setattr("node_agent.endless_io.device_number", lambda path: os.makedev(253, 7))
    monkeypatch.setattr("node_agent.endless_io.time.monotonic", lambda: found.now)
    return found


def looked(endless: EndlessIo, kernel: Kernel, seconds: float) -> str:
    """What is found after so many seconds."""
    kernel.now += seconds
    endless.look(NAME, DEVICE, "/dev/mapper/inner")
    found = endless.of(NAME)
    return found.words if found else ""


def test_a_request_that_does_not_end_over_an_idle_disk_is_forgotten(kernel: Kernel) -> None:
    endless = EndlessIo()
    kernel.set(DEVICE, under_way=1, ended=5)
    assert [looked(endless, kernel, 15) for _ in range(2)] == ["", ""]
    assert "no write has ended for 30 s" in looked(endless, kernel, 15)
    found = endless.of(NAME)
    assert found is not None and found.forgotten and "reboot this node" in found.words


def test_reads_that_end_change_nothing(kernel: Kernel) -> None:
    endless = EndlessIo()
    for reads in range(3):
        kernel.set(DEVICE, under_way=1, ended=5, reads=reads)
        found = looked(endless, kernel, 20)
    assert "no write has ended" in found


def test_a_disk_that_is_busy_all_the_time_does_not_answer(kernel: Kernel) -> None:
    endless = EndlessIo()
    kernel.set(DEVICE, under_way=3, ended=5)
    kernel.set(DISK, under_way=3, ended=5)
    looked(endless, kernel, 0)
    assert "its disk does not answer" in looked(endless, kernel, 40)
    found = endless.of(NAME)
    assert found is not None and not found.forgotten


def test_what_ends_or_is_idle_is_well(kernel: Kernel) -> None:
    endless = EndlessIo()
    for ended in range(4):
        kernel.set(DEVICE, under_way=1, ended=ended)
        assert looked(endless, kernel, 40) == ""
    kernel.set(DEVICE, under_way=0, ended=4)
    assert [looked(endless, kernel, 40) for _ in range(2)] == ["", ""]
    kernel.set(DEVICE, under_way=1, ended=4)
    assert looked(endless, kernel, 40) == "", "an idle time does not count"


def test_what_was_found_ends_with_the_request(kernel: Kernel) -> None:
    endless = EndlessIo()
    kernel.set(DEVICE, under_way=1, ended=5)
    looked(endless, kernel, 0)
    assert looked(endless, kernel, 40)
    kernel.set(DEVICE, under_way=0, ended=6)
    assert looked(endless, kernel, 15) == ""
    kernel.set(DEVICE, under_way=1, ended=6)
    looked(endless, kernel, 15)
    assert looked(endless, kernel, 40)
    endless.forget(NAME)
    assert endless.of(NAME) is None


def test_a_device_that_is_gone_has_nothing_endless(kernel: Kernel) -> None:
    endless = EndlessIo()
    kernel.set(DEVICE, under_way=1, ended=5)
    looked(endless, kernel, 0)
    assert looked(endless, kernel, 40)
    endless.look(NAME, "147:9", "/dev/mapper/inner")
    assert endless.of(NAME) is None
