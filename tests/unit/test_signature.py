"""What blkid says, as captured from blkid 2.38.1."""

from __future__ import annotations

from host.signature import Signature, parse_export

EXT4 = (
    "DEVNAME=/dev/mapper/p\nLABEL=a\\ b=c\\$\nUUID=1f09af2b-84a4-488c-964c-37516beb7b31\n"
    "VERSION=1.0\nBLOCK_SIZE=4096\nTYPE=ext4\nUSAGE=filesystem\n"
)
LVM = (
    "DEVNAME=/dev/mapper/p\nUUID=UK4OoS-2RXk-6vFo-wMrO-w0p8-eVBw-kW0abH\nVERSION=LVM2\\ 001\n"
    "TYPE=LVM2_member\nUSAGE=raid\n"
)
DOS = "DEVNAME=/dev/mapper/p\nPTTYPE=dos\n"


def test_a_file_system_with_its_label() -> None:
    assert parse_export(EXT4) == Signature(
        "ext4", "filesystem", "1f09af2b-84a4-488c-964c-37516beb7b31", "a b=c$"
    )


def test_a_physical_volume() -> None:
    found = parse_export(LVM)
    assert found is not None
    assert (found.kind, found.usage) == ("LVM2_member", "raid")


def test_a_partition_table() -> None:
    assert parse_export(DOS) == Signature("dos")


def test_nothing_in_the_answer_is_nothing_found() -> None:
    assert parse_export("DEVNAME=/dev/mapper/p\n") is None
