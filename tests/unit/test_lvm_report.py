"""Reports that LVM 2.03.16 wrote in a lab node (tests/data/lvm), made into values and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from host.errors import (
    AlreadyExists,
    CommandFailed,
    DeviceFailed,
    HostError,
    InUse,
    Missing,
    NoSpace,
    Refused,
)
from host.lvm import report as parse
from host.lvm.failures import failure, only_same_size, without_missing
from host.lvm.model import Kind
from host.lvm.report import Message, Report, parse_report

DATA = Path(__file__).parents[1] / "data" / "lvm"
MIB = 1 << 20


def captured(name: str) -> Report:
    return parse_report((DATA / f"{name}.json").read_bytes())


def saying(*errors: str) -> Report:
    return Report((), tuple(Message("error", text) for text in errors), 5)


def test_every_kind_of_volume_is_told_apart() -> None:
    volumes = {volume.name: volume for volume in parse.logical_volumes(captured("lvs").rows)}
    assert {name: volume.kind for name, volume in volumes.items()} == {
        "c1": Kind.COW_SNAPSHOT,
        "pool": Kind.THIN_POOL,
        "r1": Kind.RAID1,
        "s1": Kind.THIN,
        "st": Kind.STRIPED,
        "t1": Kind.THIN,
        "v1": Kind.LINEAR,
        "v2": Kind.LINEAR,
    }


def test_the_columns_of_a_thin_volume() -> None:
    volumes = {volume.name: volume for volume in parse.logical_volumes(captured("lvs").rows)}
    thin, snapshot = volumes["t1"], volumes["s1"]
    assert (thin.pool, thin.size_bytes) == ("pool", 1 << 30)
    assert (thin.allocated_bytes, thin.data_percent) == (0, 0.0)
    assert thin.tags == {"xlss.id=t1"}
    assert thin.active
    assert thin.device is not None
    assert thin.device[0] == 254
    assert (snapshot.origin, snapshot.read_only, snapshot.active) == ("t1", True, False)
    assert (snapshot.device, snapshot.data_percent) == (None, None)


def test_a_thin_volume_holds_its_share_of_its_size() -> None:
    rows = [dict(row) for row in captured("lvs").rows if row["lv_name"] == "t1"]
    rows[0]["data_percent"] = "12.50"
    (thin,) = parse.logical_volumes(rows)
    assert thin.allocated_bytes == 128 * MIB


def test_a_snapshot_shows_its_origins_size_and_takes_its_own() -> None:
    (snapshot,) = (v for v in parse.logical_volumes(captured("lvs").rows) if v.name == "c1")
    assert (snapshot.size_bytes, snapshot.allocated_bytes) == (16 * MIB, 20 * MIB)
    assert (snapshot.origin, snapshot.data_percent) == ("v1", 0.0)


def test_a_volume_in_two_segments_is_reported_in_two_rows_and_is_one() -> None:
    report = captured("lvs")
    assert [row["lv_name"] for row in report.rows].count("v1") == 2
    names = [volume.name for volume in parse.logical_volumes(report.rows)]
    assert names == ["c1", "pool", "r1", "s1", "st", "t1", "v1", "v2"]


def test_an_open_volume_is_open() -> None:
    volumes = {volume.name: volume for volume in parse.logical_volumes(captured("lvs").rows)}
    assert volumes["v2"].open
    assert not volumes["t1"].open


def test_a_thin_pool_promises_what_its_volumes_are_long() -> None:
    (pool,) = parse.thin_pools(captured("lvs").rows)
    assert (pool.name, pool.size_bytes, pool.chunk_bytes) == ("pool", 256 * MIB, 64 << 10)
    assert pool.virtual_bytes == 2 << 30
    assert (pool.metadata_bytes, pool.data_used) == (4 * MIB, 0.0)
    assert pool.metadata_used == pytest.approx(0.1094)
    assert pool.active
    assert pool.error_when_full
    assert pool.zeroes
    assert not pool.needs_check
    assert pool.health == ""


def test_what_the_kernel_says_of_a_broken_pool_is_its_health() -> None:
    rows = [dict(row) for row in captured("lvs").rows if row["lv_name"] == "pool"]
    rows[0].update(lv_health_status="metadata_read_only", lv_check_needed="check needed")
    (pool,) = parse.thin_pools(rows)
    assert pool.needs_check
    assert pool.health == "metadata read only, metadata has to be checked and repaired"


def test_a_layout_that_we_do_not_make_is_unknown() -> None:
    rows = [{**row, "lv_layout": "raid,raid6,raid6_zr"} for row in captured("lvs").rows]
    assert {volume.kind for volume in parse.logical_volumes(rows[1:2])} == {Kind.UNKNOWN}


def test_the_group_and_its_disks_are_in_one_report() -> None:
    rows = captured("pvs").rows
    (group,) = parse.volume_groups(rows)
    assert (group.name, group.extent_bytes, group.pv_count) == ("vg0", 4 * MIB, 2)
    assert (group.missing_pv_count, group.tags) == (0, {"xlss"})
    names = {row["pv_name"]: f"/dev/{row['pv_name'].rsplit('/', 1)[1]}" for row in rows}
    disks = parse.physical_volumes(rows, names)
    assert [disk.device for disk in disks] == ["/dev/ubdb", "/dev/ubdc"]
    assert sum(disk.free_bytes for disk in disks) == group.free_bytes


def test_a_missing_disk_has_no_device() -> None:
    rows = [
        {**row, "pv_missing": "missing", "pv_name": "[unknown]"} for row in captured("pvs").rows
    ]
    disks = parse.physical_volumes(rows[:1], {})
    assert [(disk.device, disk.missing) for disk in disks] == [(None, True)]


def test_an_empty_group_reports_nothing() -> None:
    report = captured("lvs-empty")
    assert report.ok
    assert report.rows == ()


def test_a_warning_is_no_failure() -> None:
    report = captured("thick")
    assert report.ok
    assert report.errors == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("exists", AlreadyExists),
        ("nospace", NoSpace),
        ("nospace-raid", NoSpace),
        ("many-stripes", Refused),
        ("nogroup", DeviceFailed),
        ("nopool", Missing),
        ("noorigin", Missing),
        ("gone", Missing),
        ("gone-extend", Missing),
        ("cow-extend", Refused),
        ("unknown-command", CommandFailed),
    ],
)
def test_a_failure_has_its_class_and_its_words(name: str, kind: type[HostError]) -> None:
    report = captured(name)
    assert not report.ok
    error = failure(["lvcreate", "-y"], report)
    assert type(error) is kind
    assert report.errors[0] in str(error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Refusing activation of partial LV vg0/v1.  Use '--activationmode partial'", DeviceFailed),
        ("Cannot change VG vg0 while PVs are missing.", DeviceFailed),
        ("Check of pool vg0/pool failed (status:1). Manual repair required!", DeviceFailed),
        ("Error reading device /dev/sdb at 0 length 4096.", DeviceFailed),
        ("Insufficient suitable allocatable extents for logical volume x: 2 required", NoSpace),
        ("VG vg0 metadata on /dev/sdb (600000 bytes) too large for circular buffer", NoSpace),
        (
            "Cannot create new thin volume, free space in thin pool vg0/p reached threshold.",
            NoSpace,
        ),
        ("Logical volume vg0/v1 is used by another device.", InUse),
        ("Logical volume vg0/v1 contains a filesystem in use.", InUse),
        ("Snapshot origin volumes can be resized only while inactive: try lvchange -an.", Refused),
        ("Something that LVM has never said", CommandFailed),
    ],
)
def test_words_from_lvms_source_have_their_class(text: str, kind: type[HostError]) -> None:
    assert type(failure(["lvchange"], saying(text))) is kind


def test_a_lost_disk_explains_what_else_is_lacking() -> None:
    report = saying("Insufficient free space", "Cannot change VG vg0 while PVs are missing.")
    assert type(failure(["lvcreate"], report)) is DeviceFailed


def test_growing_to_the_same_size_is_recognised() -> None:
    assert only_same_size(captured("same-size"))
    assert only_same_size(captured("smaller"))
    assert not only_same_size(captured("nospace"))
    assert not only_same_size(captured("thick"))


def test_removing_what_is_gone_is_a_success_unless_more_went_wrong() -> None:
    assert without_missing(captured("gone")).ok
    assert without_missing(captured("thick")).ok
    both = without_missing(captured("in-use"))
    assert not both.ok
    assert type(failure(["lvremove"], both)) is InUse


def test_a_group_that_is_gone_is_no_success() -> None:
    assert not without_missing(captured("nogroup")).ok


def test_a_silent_failure_stays_a_failure() -> None:
    silent = replace(captured("thick"), return_code=5)
    assert not without_missing(silent).ok
    assert "said nothing" in str(failure(["lvcreate"], silent))


def test_a_forked_command_ends_with_its_exit_code() -> None:
    document = b'{"log": [{"log_type": "error", "log_context": "x", "log_message": "no"}]}'
    assert parse_report(document, 0).ok
    assert parse_report(document, 5).return_code == 5


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"log": []}', b'{"report"'])
def test_half_a_document_is_no_report(document: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_report(document)


def test_columns_that_a_newer_lvm_adds_do_no_harm() -> None:
    document = json.loads((DATA / "lvs.json").read_bytes())
    for row in document["report"][0]["lv"]:
        row["lv_new_column"] = "x"
    document["news"] = {}
    assert len(parse.logical_volumes(parse_report(json.dumps(document).encode()).rows)) == 8
