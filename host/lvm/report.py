"""LVM's JSON reports (lvmreport(7)) made into values.

One document a command: rows of the report, if the command makes one, and the log of its messages.
Columns are named in every request, sizes asked for in bytes without a suffix.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from host.lvm.model import Kind, LogicalVolume, PhysicalVolume, ThinPool, VolumeGroup

Row = Mapping[str, str]

SUCCESS = 1

UNITS = ("--units", "b", "--nosuffix")
LV_COLUMNS = (
    "vg_name,lv_name,lv_uuid,lv_size,lv_tags,lv_layout,lv_role,pool_lv,origin,lv_active,"
    "lv_device_open,lv_suspended,lv_permissions,lv_kernel_major,lv_kernel_minor,data_percent,"
    "metadata_percent,lv_health_status,lv_check_needed,lv_snapshot_invalid,"
    "lv_metadata_size,chunk_size,lv_when_full,zero,origin_size"
)
# A group without volumes still has disks: the report of the disks tells of the group as well.
PV_COLUMNS = (
    "vg_name,vg_uuid,vg_size,vg_free,vg_extent_size,pv_count,vg_missing_pv_count,"
    "vg_mda_size,vg_mda_free,vg_tags,pv_name,pv_uuid,pv_size,pv_free,pv_missing"
)

_PLAIN_KINDS = {
    "linear": Kind.LINEAR,
    "striped": Kind.STRIPED,
    "raid,raid1": Kind.RAID1,
    "thin,sparse": Kind.THIN,
    "thin,pool": Kind.THIN_POOL,
}


@dataclass(frozen=True)
class Message:
    """One line that a command logged: ``kind`` is error, warn, print or status."""

    kind: str
    text: str


@dataclass(frozen=True)
class Report:
    """What a command said. ``return_code`` counts as LVM does: 1 is success."""

    rows: tuple[Row, ...]
    messages: tuple[Message, ...]
    return_code: int

    @property
    def ok(self) -> bool:
        return self.return_code == SUCCESS

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(message.text for message in self.messages if message.kind == "error")


def parse_report(document: bytes, exit_code: int | None = None) -> Report:
    """Read one document; raises ValueError where it is none.

    A shell ends its log with the return code. Else ``exit_code`` tells of it: 0 is success there.
    """
    parsed = json.loads(document)
    if not isinstance(parsed, dict):
        raise ValueError("a report of LVM is a JSON object")
    rows = tuple(row for part in parsed.get("report", ()) for row in _rows_of(part))
    log: Sequence[Mapping[str, str]] = parsed.get("log", ())
    messages = tuple(
        Message(entry.get("log_type", ""), entry.get("log_message", "")) for entry in log
    )
    if exit_code is not None:
        return Report(rows, messages, exit_code or SUCCESS)
    if not log or log[-1].get("log_context") != "shell":
        raise ValueError("the log of LVM's shell does not say how the command ended")
    return Report(rows, messages, int(log[-1]["log_ret_code"]))


def logical_volumes(rows: Iterable[Row]) -> list[LogicalVolume]:
    """One for each volume, in the order of the report.

    A volume in several segments has one row for each: the columns of segments make LVM report so.
    """
    unique = {row["lv_uuid"]: row for row in reversed(list(rows))}
    return [_logical_volume(row) for row in reversed(unique.values())]


def thin_pools(rows: Iterable[Row]) -> list[ThinPool]:
    unique = {row["lv_uuid"]: row for row in rows}
    return [
        _thin_pool(row, unique.values()) for row in unique.values() if _kind(row) is Kind.THIN_POOL
    ]


def volume_groups(rows: Iterable[Row]) -> list[VolumeGroup]:
    """The groups in a report of physical volumes; disks in no group are left out."""
    unique = {row["vg_uuid"]: row for row in rows if row["vg_name"]}
    return [_volume_group(row) for row in unique.values()]


def physical_volumes(rows: Iterable[Row], devices: Mapping[str, str]) -> list[PhysicalVolume]:
    """The disks, with the names of LVM's scan directory turned into those of ``devices``."""
    return [_physical_volume(row, devices) for row in rows if row["vg_name"]]


def _rows_of(part: Mapping[str, Any]) -> Iterable[Row]:
    for rows in part.values():
        yield from rows


def _kind(row: Row) -> Kind:
    if "thicksnapshot" in row["lv_role"].split(","):
        return Kind.COW_SNAPSHOT
    return _PLAIN_KINDS.get(row["lv_layout"], Kind.UNKNOWN)


def _logical_volume(row: Row) -> LogicalVolume:
    kind = _kind(row)
    major, minor = int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])
    return LogicalVolume(
        vg=row["vg_name"],
        name=row["lv_name"],
        uuid=row["lv_uuid"],
        size_bytes=int(row["origin_size"] if kind is Kind.COW_SNAPSHOT else row["lv_size"]),
        allocated_bytes=_allocated(row, kind),
        tags=_tags(row["lv_tags"]),
        kind=kind,
        pool=row["pool_lv"] or None,
        origin=row["origin"] or None,
        active=row["lv_active"] == "active",
        open=row["lv_device_open"] == "open",
        suspended=row["lv_suspended"] == "suspended",
        read_only=row["lv_permissions"].startswith("read-only"),
        device=(major, minor) if major >= 0 and minor >= 0 else None,
        data_percent=_percent(row["data_percent"]),
        metadata_percent=_percent(row["metadata_percent"]),
        health=_health(row),
    )


def _allocated(row: Row, kind: Kind) -> int:
    share = (_percent(row["data_percent"]) or 0.0) / 100 if kind is Kind.THIN else 1.0
    return round(int(row["lv_size"]) * share)


def _thin_pool(row: Row, all_rows: Iterable[Row]) -> ThinPool:
    return ThinPool(
        vg=row["vg_name"],
        name=row["lv_name"],
        size_bytes=int(row["lv_size"]),
        data_used=(_percent(row["data_percent"]) or 0.0) / 100,
        metadata_bytes=int(row["lv_metadata_size"] or 0),
        metadata_used=(_percent(row["metadata_percent"]) or 0.0) / 100,
        chunk_bytes=int(row["chunk_size"]),
        virtual_bytes=sum(
            int(other["lv_size"])
            for other in all_rows
            if other["pool_lv"] == row["lv_name"] and other["vg_name"] == row["vg_name"]
        ),
        error_when_full=row["lv_when_full"] == "error",
        zeroes=row["zero"] == "zero",
        active=row["lv_active"] == "active",
        needs_check=row["lv_check_needed"] == "check needed",
        health=_health(row),
    )


def _health(row: Row) -> str:
    said = [row["lv_health_status"].replace("_", " ")]
    if row["lv_check_needed"] == "check needed":
        said.append("metadata has to be checked and repaired")
    if row["lv_snapshot_invalid"] == "snapshot invalid":
        said.append("snapshot invalid")
    return ", ".join(text for text in said if text)


def _volume_group(row: Row) -> VolumeGroup:
    return VolumeGroup(
        name=row["vg_name"],
        uuid=row["vg_uuid"],
        size_bytes=int(row["vg_size"]),
        free_bytes=int(row["vg_free"]),
        extent_bytes=int(row["vg_extent_size"]),
        pv_count=int(row["pv_count"]),
        missing_pv_count=int(row["vg_missing_pv_count"]),
        metadata_bytes=int(row["vg_mda_size"]),
        metadata_free_bytes=int(row["vg_mda_free"]),
        tags=_tags(row["vg_tags"]),
    )


def _physical_volume(row: Row, devices: Mapping[str, str]) -> PhysicalVolume:
    missing = row["pv_missing"] == "missing"
    return PhysicalVolume(
        uuid=row["pv_uuid"],
        device=None if missing else devices.get(row["pv_name"], row["pv_name"]),
        size_bytes=int(row["pv_size"]),
        free_bytes=int(row["pv_free"]),
        missing=missing,
    )


def _tags(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()


def _percent(text: str) -> float | None:
    return float(text) if text else None
