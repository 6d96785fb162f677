"""A private world for LVM, one for each volume group.

LVM run with ``LVM_SYSTEM_DIR`` set to such a directory sees the disks of that group and nothing
else. Foreign groups, groups inside guests' disks, a second group of the same name and dead network
devices stay out, and a disk that hangs holds up its own group only.

Layout of ``<root>/<group>``: ``lvm.conf`` (lvm.conf(5)); ``scan/`` with one link for each disk;
``proc/`` and ``sys/``, see ``_PROC``. All of it is rebuilt at every start.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from host.errors import Refused

_CONFIG = """\
# Written by xlss at every start. What is changed here is lost.
devices {{
    scan = ["{scan}"]
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
    hints = "none"
    sysfs_scan = 0
    md_component_detection = 0
    multipath_component_detection = 0
    scan_lvs = 0
    issue_discards = 0
}}
global {{
    proc = "{proc}"
    event_activation = 0
    use_lvmpolld = 0
    notify_dbus = 0
}}
activation {{
    udev_sync = {udev}
    udev_rules = {udev}
    verify_udev_operations = 0
    monitoring = 0
    # Deactivating a volume that is in use fails at once. Waiting is up to the caller: LVM would do
    # it with the group locked.
    retry_deactivation = 0
    # Locking and reserving memory takes LVM ten times as long as changing the devices. It guards
    # against swapping to a device that is suspended: no volume of ours holds a swap or this
    # program, and host/io_flusher.py keeps the kernel from waiting for write-back.
    mlock_filter = [":"]
    reserved_memory = 0
    reserved_stack = 0
}}
backup {{
    # host/lvm/archive.py keeps archives, not once a command and within bounds.
    backup = 0
    archive = 0
}}
report {{
    output_format = "json"
}}
log {{
    syslog = 0
    report_command_log = 1
    command_log_cols = "log_type,log_context,log_message,log_ret_code"
    command_log_sort = "log_seq_num"
    command_log_selection = "log_type=error || log_type=warn || log_context=shell"
}}
"""

# Every command of a shell builds the whole group in memory and frees it. The C library would give
# that memory back to the kernel, and take it page by page for the next command: with 300 volumes, a
# thousand page faults each (mallopt(3)).
_KEEP_MEMORY: Mapping[str, str] = {
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(1 << 20),
}

# Before every report, LVM looks up all block devices of the machine in sysfs, to see whether
# volumes lie on disks other than their metadata say. That is three quarters of the time of a report
# with 300 volumes, and cannot happen with the disks given in scan/. So LVM is told of an empty
# sysfs.
_PROC: Mapping[str, str] = {"mounts": "sysfs {sys} sysfs rw 0 0\n", "self/maps": ""}


class GroupDirectory:
    """The directory of one group. ``udev``: whether a udevd answers here (host/lvm/udev.py)."""

    def __init__(self, root: Path, group: str, *, udev: bool) -> None:
        self.group = group
        self.path = root / group
        self._scan = self.path / "scan"
        self._udev = udev

    @property
    def resource(self) -> str:
        """What a breaker is keyed by."""
        return f"volume group {self.group}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes ``lvm`` use this directory."""
        variables = {
            "LVM_SYSTEM_DIR": str(self.path),
            "LVM_SUPPRESS_FD_WARNINGS": "1",
            **_KEEP_MEMORY,
        }
        # Without a udevd, libdevmapper has to make the nodes itself.
        return variables if self._udev else {**variables, "DM_DISABLE_UDEV": "1"}

    def write(self, devices: Iterable[str]) -> None:
        """Build the directory anew, with these disks."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._scan.mkdir(parents=True, mode=0o700)
        proc, sys = self.path / "proc", self.path / "sys"
        (sys / "block").mkdir(parents=True)
        for name, text in _PROC.items():
            file = proc / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.format(sys=sys))
        (proc / "devices").symlink_to("/proc/devices")
        config = _CONFIG.format(scan=self._scan, proc=proc, udev=int(self._udev))
        (self.path / "lvm.conf").write_text(config)
        self.set_devices(devices)

    def set_devices(self, devices: Iterable[str]) -> None:
        """Show LVM these disks (paths below /dev; links such as those of by-id are kept)."""
        wanted = {_link_name(device): device for device in devices}
        for link in self._scan.iterdir():
            if wanted.get(link.name) != str(link.readlink()):
                link.unlink()
        for name, device in wanted.items():
            with contextlib.suppress(FileExistsError):
                (self._scan / name).symlink_to(device)

    def devices(self) -> dict[str, str]:
        """The disks by the names that LVM uses for them."""
        return {str(link): str(link.readlink()) for link in self._scan.iterdir()}

    def name_of(self, device: str) -> str:
        """The name that LVM uses for a disk. Refused where it is not shown to LVM."""
        link = self._scan / _link_name(device)
        if not link.is_symlink():
            raise Refused(f"{device} is not among the disks of volume group {self.group}")
        return str(link)


def _link_name(device: str) -> str:
    return device.removeprefix("/dev/").replace("/", "!")
