"""Which options of mkfs a class may give."""

from __future__ import annotations

import pytest

from host.mkfs_options import split_options, validate_mkfs_options

GOOD = {
    "ext4": [
        "",
        "-m 1",
        "-m0.5 -i 8192 -I 256 -b 4096",
        "-E stride=16,stripe_width=32,lazy_itable_init=0 -O ^has_journal,quota -J size=64",
        "-T largefile4 -N 100000 -G 16 -g 8192 -C 65536",
    ],
    "xfs": [
        "-m reflink=0,rmapbt=1 -i size=1024,sparse=1 -d agcount=4,su=64k,sw=2",
        "-lsize=64m,lazy-count=1 -n size=8192 -s size=4096 -b size=4k",
    ],
    "btrfs": ["-n 16k -m dup -d single -O no-holes,^extref -R free-space-tree -s 4096", "-M"],
}
# (file system, options, what the error has to name)
BAD = [
    ("ext4", "-F", "-F"),
    ("ext4", "-n", "-n"),
    ("ext4", "/dev/sda", "/dev/sda"),
    ("ext4", "-m 1 4096", "4096"),
    ("ext4", "-U random", "-U"),
    ("ext4", "-d /etc", "-d"),
    ("ext4", "-l /etc/passwd", "-l"),
    ("ext4", "-O journal_dev", "journal_dev"),
    ("ext4", "-O has_journal,/etc", "/etc"),
    ("ext4", "-J device=/dev/sda", "device"),
    ("ext4", "-J size", "size"),
    ("ext4", "-E strid=16", "stride"),
    ("ext4", "-E offset=4096", "offset"),
    ("ext4", "-E root_owner=1000:1000", "root_owner"),
    ("ext4", "-b 65536", "65536"),
    ("ext4", "-m", "needs a value"),
    ("ext4", "-m 1;reboot", "1;reboot"),
    ("xfs", "-f", "-f"),
    ("xfs", "-d file=1,name=/etc/x", "file"),
    ("xfs", "-d size=1g", "size"),
    ("xfs", "-l logdev=/dev/sda", "logdev"),
    ("xfs", "-p proto", "-p"),
    ("xfs", "-c options=/etc/x", "-c"),
    ("xfs", "-m uuid=1", "uuid"),
    ("xfs", "-m crc=0", "crc=0"),
    ("btrfs", "--rootdir /etc", "--"),
    ("btrfs", "-r /etc", "-r"),
    ("btrfs", "-b 1g", "-b"),
    ("btrfs", "-m raid1", "raid1"),
    ("btrfs", "-O zoned", "zoned"),
    ("btrfs", "-Mx", "-Mx"),
    ("ntfs", "-Q", "ntfs"),
]


@pytest.mark.parametrize(
    ("filesystem", "options"), [(name, each) for name, cases in GOOD.items() for each in cases]
)
def test_what_shapes_a_file_system_is_allowed(filesystem: str, options: str) -> None:
    validate_mkfs_options(filesystem, tuple(options.split()))


@pytest.mark.parametrize(("filesystem", "options", "named"), BAD)
def test_all_else_is_refused_and_named(filesystem: str, options: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"mkfs|no such file system") as raised:
        validate_mkfs_options(filesystem, tuple(options.split()))
    assert named in str(raised.value)


def test_a_value_is_a_word_of_its_own_or_part_of_its_option() -> None:
    assert split_options("ext4", ("-m1", "-i", "8192")) == [("-m", "1"), ("-i", "8192")]
    assert split_options("btrfs", ("-M", "-n16k")) == [("-M", None), ("-n", "16k")]
