"""What a machine is found to lack as a storage node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from host.command import Result, Runner
from host.errors import CommandFailed, Missing
from host.preflight import Finding, look

VERSIONS = {
    "lvm": b"  LVM version:     2.03.16(2) (2022-05-18)\n",
    "thin_check": b"0.9.0\n",
    "mkfs.ext4": b"mke2fs 1.47.0 (5-Feb-2023)\n",
}


class Machine(Runner):
    """Answers in place of the programs that it has."""

    def __init__(self, programs: Sequence[str], modules: Sequence[str]) -> None:
        super().__init__()
        self.programs = programs
        self.modules = modules

    def run(self, argv: Sequence[str], **options: object) -> Result:  # type: ignore[override]
        if argv[0] == "modprobe":
            if argv[-1] not in self.modules:
                raise CommandFailed(argv, 1, "")
        elif argv[0] not in self.programs:
            raise Missing(f"the program {argv[0]} is not installed")
        return Result(VERSIONS.get(argv[0], b""), b"", 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "proc/sys/kernel/osrelease": "6.1.176\n",
        "proc/filesystems": "nodev\tsysfs\n\text4\n",
        "sys/module/dm_mod/refcnt": "0\n",
        "lib/modules/6.1.176/modules.builtin": "kernel/drivers/md/dm-crypt.ko\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu io memory\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def found(machine: Machine, root: Path) -> dict[str, Finding]:
    return {finding.subject: finding for finding in look(machine, root)}


def test_tools_are_found_with_their_versions(root: Path) -> None:
    seen = found(Machine(["lvm", "thin_check", "mkfs.ext4", "resize2fs"], []), root)
    assert (seen["lvm"].found, seen["lvm"].detail) == (True, "2.03.16")
    assert seen["thin_check"].detail == "0.9.0"
    assert seen["mkfs.ext4"].detail == "1.47.0"
    assert (seen["resize2fs"].found, seen["resize2fs"].detail) == (True, "")


def test_a_missing_tool_says_what_does_not_work_without_it(root: Path) -> None:
    seen = found(Machine(["lvm"], []), root)
    assert not seen["cryptsetup"].found
    assert seen["cryptsetup"].needed_for == "encryption"
    assert "not installed" in seen["cryptsetup"].detail


def test_kernel_parts_are_found_wherever_they_are(root: Path) -> None:
    seen = found(Machine([], ["dm_thin_pool"]), root)
    details = {name: seen[f"kernel {name}"].detail for name in ("dm_mod", "dm_crypt", "ext4")}
    assert details == {"dm_mod": "loaded", "dm_crypt": "built in", "ext4": "there"}
    assert seen["kernel dm_thin_pool"].detail == "can be loaded"
    assert not seen["kernel xfs"].found
    assert "6.1.176" in seen["kernel xfs"].detail


def test_limits_need_the_io_controller_of_cgroup_v2(root: Path) -> None:
    assert found(Machine([], []), root)["cgroup v2 io"].found
    (root / "sys/fs/cgroup/cgroup.controllers").write_text("cpu iocost memory\n")
    assert not found(Machine([], []), root)["cgroup v2 io"].found
    (root / "sys/fs/cgroup/cgroup.controllers").unlink()
    assert not found(Machine([], []), root)["cgroup v2 io"].found
