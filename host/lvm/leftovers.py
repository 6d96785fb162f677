"""What a command of LVM that was killed midway leaves in the kernel."""

from __future__ import annotations

from host.command import Runner
from host.device_mapper import DeviceMapper
from host.lvm.commands import Lvm
from host.lvm.model import VolumeGroup
from host.lvm.names import mangled

_DEADLINE = 30.0


def resume_left_suspended(runner: Runner, lvm: Lvm, group: VolumeGroup) -> list[str]:
    """Bring back to life what was left suspended; returns the names of the devices.

    First the tables become what the metadata says: the killed command may have loaded others that
    it had not committed. Layers that LVM does not show (that of a thin pool) are resumed as such.
    """
    mapper = DeviceMapper(runner)
    with lvm.hold(group.name):
        left = _suspended(mapper, group)
    if left:
        lvm.refresh_all(group.name)
        with lvm.hold(group.name):
            for name in _suspended(mapper, group):
                mapper.resume(name, deadline=_DEADLINE)
    return left


def _suspended(mapper: DeviceMapper, group: VolumeGroup) -> list[str]:
    # The names of devices of group data-fast begin as those of data do. The UUID tells whose a
    # device is: another group may be in the middle of a command.
    names = mapper.names(mangled(group.name) + "-")
    uuid = f"LVM-{group.uuid.replace('-', '')}"
    devices = [device for name in names if (device := mapper.find(name))]
    return [device.name for device in devices if device.suspended and device.uuid.startswith(uuid)]
