"""The data generations of a replica: read from what DRBD prints, and written for a new one."""

from __future__ import annotations

import pytest

from cluster.placement import metadata_bytes
from host.errors import Refused
from replication.generations import generations_of, metadata_dump
from replication.record import Generations

# Captured on DRBD 8.4.11.
SERVING = "1122334455667789:0000000000000000:0C76B9F0BACA2866:0000000000000000:1:1:1:1:0:0:0\n"
FRESH = "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:0:0:0:0\n"
CRASHED = "1122334455667788:0C76B9F0BACA2867:0000000000000000:0000000000000000:1:1:0:1:0:0:1"


def test_generations_are_read_without_the_bit_of_the_primary() -> None:
    current = "1122334455667788"
    assert generations_of(SERVING) == Generations(current, "", ("0c76b9f0baca2866",), True)
    assert generations_of(FRESH) == Generations("0000000000000004")
    assert generations_of(CRASHED) == Generations(current, "0c76b9f0baca2866", (), True)


@pytest.mark.parametrize("text", ["", "1:2", "no:such:thing:at:1:1:1:1:1:1:1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        generations_of(text)


def test_new_metadata_tells_the_size_and_leaves_the_bitmap_alone() -> None:
    dump = metadata_dump("1122334455667788", 65 << 20)

    assert "0x1122334455667788;" in dump
    assert f"la-size-sect {(65 << 20) // 512};" in dump
    assert "times" not in dump


@pytest.mark.parametrize(
    ("generation", "size"),
    [
        ("1122334455667789", 4096),
        ("0000000000000004", 4096),
        ("0000000000000000", 4096),
        ("1122", 4096),
        ("112233445566778g", 4096),
        ("1122334455667788", 0),
        ("1122334455667788", 4095),
    ],
)
def test_what_would_be_no_generation_is_refused(generation: str, size: int) -> None:
    with pytest.raises(ValueError, match="not"):
        metadata_dump(generation, size)


@pytest.mark.parametrize(
    ("size", "needed"),
    [(512, 1 << 20), (40 << 30, 36864 + 512 * 2560), ((40 << 30) + 1, 36864 + 512 * 2561)],
)
def test_metadata_has_room_for_the_whole_bitmap(size: int, needed: int) -> None:
    assert metadata_bytes(size) == needed
