"""Lines of mountinfo, and the options of a mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from host import mount_table
from host.mount_options import parse_mount_options
from host.mount_table import canonical, mounts_at, mounts_from, mounts_of, parse

TABLE = rb"""28 1 0:25 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/,upperdir=/mnt/up
32 28 254:1 / /p/a\040b\011c\012d\134\043 ro,noatime shared:15 master:2 - ext4 /dev/mapper/v1 rw
33 28 254:1 /sub /pods/b rw - ext4 /dev/mapper/xlss-v1 rw,discard
34 28 254:11 / /pods/c rw,relatime shared:16 - xfs /dev/mapper/xlss-v2 rw,nouuid
35 28 0:31 / /pods/c rw,relatime - btrfs @DEVICE@ rw,ssd,subvol=/
36 28 0:40 / /pods/a\040-\040b rw - tmpfs none rw
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_bytes(TABLE.replace(b"@DEVICE@", b"/dev/null"))
    monkeypatch.setattr(mount_table, "_MOUNTINFO", tmp_path / "mountinfo")


def test_a_line_with_all_that_can_be_in_it() -> None:
    mount = parse(TABLE.splitlines()[1])
    assert mount.path == "/p/a b\tc\nd\\#"
    assert (mount.device, mount.root, mount.filesystem) == ("254:1", "/", "ext4")
    assert mount.source == "/dev/mapper/v1"
    assert mount.options == {"ro", "noatime"}
    assert mount.super_options == {"rw"}
    assert mount.read_only


@pytest.mark.usefixtures("table")
def test_mounts_of_a_path_whatever_it_is_called() -> None:
    assert [m.mount_id for m in mounts_at("/p/a b\tc\nd\\#")] == [32]
    assert [m.mount_id for m in mounts_at("/pods/c")] == [34, 35]
    assert [m.mount_id for m in mounts_at("/pods/a - b")] == [36]
    assert mounts_at("/pods") == []


@pytest.mark.usefixtures("table")
def test_mounts_of_a_device_are_not_those_of_a_similar_number() -> None:
    assert [m.mount_id for m in mounts_of(os.makedev(254, 1))] == [32, 33]
    assert [m.mount_id for m in mounts_of(os.makedev(54, 1))] == []
    assert [m.mount_id for m in mounts_of(Path("/dev/null").stat().st_rdev)] == [35]


@pytest.mark.usefixtures("table")
def test_mounts_of_sources_by_how_their_names_begin() -> None:
    assert [m.mount_id for m in mounts_from("/dev/mapper/xlss-")] == [33, 34]


def test_only_the_parents_of_a_path_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "last").symlink_to("/etc")
    base = os.path.realpath(tmp_path)
    assert canonical(f"{tmp_path}/link/last") == f"{base}/real/last"
    assert canonical(f"{tmp_path}/link//none/../x/") == f"{base}/real/x"


def test_mount_options_are_split_and_kept_in_order() -> None:
    given = ["noatime,discard", "data=ordered", "noatime", ""]
    assert parse_mount_options(given) == ("noatime", "discard", "data=ordered")


def test_the_label_of_a_pod_keeps_its_commas() -> None:
    label = 'context="system_u:object_r:container_file_t:s0:c1,c2"'
    assert parse_mount_options([f"noatime,{label},discard"]) == ("noatime", label, "discard")


@pytest.mark.parametrize(
    "option",
    [
        *("bind", "remount", "ro", "rw", "loop", "loop=/dev/loop0", "offset=4096", "x-systemd.a"),
        *("X-mount.mkdir", "helper=x", "user", "make-shared", "rslave", "nofail", "MOVE"),
        *("a b", "a\nb", '"', "$(x)", "=x", "context=x y", "-o", "data=ordered\\"),
    ],
)
def test_what_does_more_than_mount_is_refused_and_named(option: str) -> None:
    with pytest.raises(ValueError, match="not a mount option"):
        parse_mount_options(["noatime", option])
