"""What a machine can do about replication, from the files that say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.command import Runner
from host.preflight import Finding
from replication import preflight

PROC_DRBD = "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: 059B1B470318F053F5077D5 \n"
HELPER = "/var/lib/xlss/fence_helper"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that has everything."""
    put(tmp_path, "proc/sys/kernel/osrelease", "6.1.0-42\n")
    put(tmp_path, "proc/drbd", PROC_DRBD)
    put(tmp_path, "sys/module/drbd/parameters/usermode_helper", HELPER + "\n")
    for program in ("drbdadm", "drbdsetup", "drbdmeta"):
        put(tmp_path, f"usr/sbin/{program}", "")
    return tmp_path


def put(root: Path, path: str, text: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root / path


def look(root: Path) -> dict[str, Finding]:
    return {finding.subject: finding for finding in preflight.look(Runner(), root)}


def test_a_machine_that_has_everything(root: Path) -> None:
    found = look(root)
    assert all(finding.found for finding in found.values())
    assert found["kernel drbd"].detail == "8.4.11, loaded"
    assert HELPER in found["drbd usermode_helper"].detail


def test_a_disabled_helper_is_said(root: Path) -> None:
    parameter = root / "sys/module/drbd/parameters/usermode_helper"
    parameter.write_text("disabled\n")
    assert not look(root)["drbd usermode_helper"].found
    parameter.write_text(HELPER)
    put(root, "boot/config-6.1.0-42", "CONFIG_STATIC_USERMODEHELPER=y\n")
    finding = look(root)["drbd usermode_helper"]
    assert not finding.found
    assert "CONFIG_STATIC_USERMODEHELPER" in finding.detail


def test_a_helper_that_cannot_be_set_is_said(root: Path) -> None:
    (root / "sys/module/drbd/parameters/usermode_helper").chmod(0o444)
    assert not look(root)["drbd usermode_helper"].found


def test_a_module_that_is_not_driven_is_said(root: Path) -> None:
    put(root, "proc/drbd", PROC_DRBD.replace("8.4.11", "9.2.18"))
    finding = look(root)["kernel drbd"]
    assert not finding.found
    assert finding.detail == "version 9.2.18, loaded: only 8.4 is driven so far"


def test_what_is_not_installed_is_said(root: Path) -> None:
    (root / "usr/sbin/drbdmeta").unlink()
    finding = look(root)["drbdmeta"]
    assert not finding.found
    assert "drbd-utils" in finding.detail


def test_a_service_that_would_start_volumes_at_boot_is_said(root: Path) -> None:
    put(root, "etc/systemd/system/multi-user.target.wants/drbd.service", "")
    assert not look(root)["drbd.service"].found
    (root / "etc/systemd/system/drbd.service").symlink_to("/dev/null")
    assert look(root)["drbd.service"].found


@pytest.mark.parametrize(
    ("version", "dialect"), [("8.4.11", "8.4"), ("9.2.18", "9"), ("8.3.16", None), ("", None)]
)
def test_versions_and_dialects(version: str, dialect: str | None) -> None:
    assert preflight.dialect_of(version) == dialect


def test_disks_with_volatile_caches_are_said(root: Path) -> None:
    for disk, cache in (("sda", "write back"), ("nvme0n1", "write through")):
        put(root, f"sys/block/{disk}/queue/write_cache", f"{cache}\n")
        put(root, f"sys/block/{disk}/device/model", "a disk\n")
    put(root, "sys/block/dm-0/queue/write_cache", "write back\n")  # lies on one of them
    finding = look(root)["write caches"]
    assert not finding.found
    assert finding.detail.startswith("volatile: sda: ")
