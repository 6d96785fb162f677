"""What a command of LVM that was killed midway leaves in the kernel."""

from __future__ import annotations

from host.command import Runner
from host.device_mapper import DeviceMapper
from host.lvm.commands import Lvm

_DEADLINE = 30.0
_OF_LVM = "LVM-"


def resume_left_suspended(runner: Runner, lvm: Lvm, group: str) -> list[str]:
    """Bring back to life what was left suspended; returns the names of the devices.

    First the tables become what the metadata says: the killed command may have loaded others that
    it had not committed. Layers that LVM does not show (that of a thin pool) are resumed as such.
    """
    mapper = DeviceMapper(runner)
    with lvm.hold(group):
        left = _suspended(mapper, group)
    if left:
        lvm.refresh_all(group)
        with lvm.hold(group):
            for name in _suspended(mapper, group):
                mapper.resume(name, deadline=_DEADLINE)
    return left


def _suspended(mapper: DeviceMapper, group: str) -> list[str]:
    # A hyphen in a group's name is doubled in those of its devices (lvm(8), "Device names").
    names = mapper.names(group.replace("-", "--") + "-")
    devices = [device for name in names if (device := mapper.find(name))]
    return [
        device.name for device in devices if device.suspended and device.uuid.startswith(_OF_LVM)
    ]
