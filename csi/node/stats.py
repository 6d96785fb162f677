"""NodeGetVolumeStats and NodeExpandVolume: how large a volume is in its place, and making it so."""

from __future__ import annotations

from cluster.errors import NotFound, OutOfRange, Refused, Unavailable
from cluster.model import AccessType
from csi.node.places import volume_at
from csi.rpc import csi_pb2 as pb
from host import block_device, filesystem, mount
from host.errors import DeviceFailed
from node_agent import health
from node_agent.agent import NodeAgent
from node_agent.inventory import mounts_by_volume
from node_agent.labels import Kind
from node_agent.records import record_of, volume_bytes

_BYTES, _INODES = pb.VolumeUsage.BYTES, pb.VolumeUsage.INODES


def require_place(agent: NodeAgent, volume_id: str, path: str) -> None:
    """Raises NotFound unless the volume is there, and at that path."""
    if volume_at(agent, path) != volume_id:
        agent.logical.require(Kind.VOLUME, volume_id)
        raise NotFound(f"volume {volume_id} is not at {path}")


class Stats:
    def __init__(self, agent: NodeAgent) -> None:
        self._agent = agent

    def usage(self, volume_id: str, path: str) -> list[pb.VolumeUsage]:
        """Bytes and inodes of a file system, bytes of a raw device. Raises NotFound."""
        require_place(self._agent, volume_id, path)
        devices = self._agent.devices
        top = devices.require_top(volume_id)
        target = self._agent.targets.get(path)
        if target is not None and target.block:
            total = block_device.size_of_number(top.major_minor)
            return [pb.VolumeUsage(unit=_BYTES, total=total)]
        used = mount.usage(self._agent.runner, path, resource=devices.path_of(top))
        found = [
            pb.VolumeUsage(
                unit=_BYTES,
                total=used.total_bytes,
                used=used.used_bytes,
                available=used.available_bytes,
            )
        ]
        if used.inodes:
            found.append(
                pb.VolumeUsage(
                    unit=_INODES,
                    total=used.inodes,
                    used=used.inodes_used,
                    available=used.inodes_free,
                )
            )
        return found

    def expand(self, volume_id: str, path: str, required_bytes: int) -> int:
        """Let the devices and the file system have what the logical volume has; returns bytes.

        Raises NotFound, OutOfRange (the volume itself has not grown), Refused, Busy.
        """
        agent = self._agent
        with agent.locks.hold(volume_id, purpose="its expansion"):
            entry = agent.volumes.require_complete(volume_id)
            require_place(agent, volume_id, path)
            record = record_of(entry)
            spec = record.spec
            size = volume_bytes(entry, spec)
            if required_bytes > size:
                raise OutOfRange(
                    f"volume {volume_id} has {size} bytes, not {required_bytes}:"
                    " ControllerExpandVolume comes first"
                )
            if record.replication is not None:
                agent.volumes.require_replicas().require_primary(volume_id)
            agent.devices.grow(entry)
            face = agent.devices.face(volume_id)
            if face is not None and block_device.size_of_number(face.major_minor) < required_bytes:
                raise Unavailable(
                    f"volume {volume_id} has not grown on all of its replicas yet; repeat"
                )
            if spec.access is AccessType.MOUNT:
                self._grow_filesystem(volume_id, spec.filesystem)
            return size

    def _grow_filesystem(self, volume_id: str, kind: str) -> None:
        top = self._agent.devices.require_top(volume_id)
        device = self._agent.devices.path_of(top)
        # The first touch, by a child: a disk that hangs must not hold the agent.
        if problems := health.answers(self._agent.runner, device):
            raise DeviceFailed(health.in_words(problems))
        if not filesystem.needs_growth(device, kind):
            return
        mounts = mounts_by_volume().get(volume_id, [])
        writable = next((one for one in mounts if not one.read_only), None)
        if writable is None:
            raise Refused(
                f"volume {volume_id} is mounted read-only: it grows when it is staged writable"
            )
        filesystem.grow(self._agent.runner, device, writable.path, kind)
