"""NodeStageVolume and NodeUnstageVolume: the devices of a volume, and its file system mounted.

A controller is not needed: all that has to be known is in the tags of the logical volume.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.errors import Refused
from cluster.model import AccessType, VolumeSpec
from csi.capability import Capability
from csi.node.places import is_mounted, published, require_parent, volume_at
from csi.secrets import encryption_key
from host import mount
from node_agent.agent import NodeAgent
from node_agent.preparation import Preparation
from node_agent.records import record_of


def require_fitting(volume_id: str, spec: VolumeSpec, capability: Capability) -> None:
    """Raises Refused for access that the volume was not made for."""
    if capability.access is not spec.access:
        raise Refused(
            f"volume {volume_id} was made for {spec.access} access, not for {capability.access}"
        )
    if capability.filesystem and capability.filesystem != spec.filesystem:
        raise Refused(f"volume {volume_id} carries {spec.filesystem}, not {capability.filesystem}")


class Stager:
    def __init__(self, agent: NodeAgent) -> None:
        self._agent = agent
        self._preparation = Preparation(agent.runner, agent.volumes, agent.devices)

    def stage(
        self, volume_id: str, path: str, capability: Capability, secrets: Mapping[str, str]
    ) -> None:
        """Raises NotFound, Refused, InvalidArgument (no key), Busy, and host errors.

        Unavailable while a replicated volume is not served here: the text says why.
        """
        agent = self._agent
        with agent.locks.hold(volume_id, purpose="its staging"):
            entry = agent.volumes.require_complete(volume_id)
            record = record_of(entry)
            spec = record.spec
            require_fitting(volume_id, spec, capability)
            require_parent(path)
            key = encryption_key(secrets) if spec.encrypted else b""
            if record.replication is not None:
                agent.volumes.require_replicas().require_primary(volume_id)
            entry, device = self._preparation.bring_up(entry, key)
            if spec.access is AccessType.MOUNT:
                self._preparation.mount(
                    entry, device, path, capability.mount_flags, read_only=capability.read_only
                )

    def unstage(self, volume_id: str, path: str) -> None:
        """Nothing there is success. Raises Refused while it is published, Busy, InUse."""
        agent = self._agent
        with agent.locks.hold(volume_id, purpose="its unstaging"):
            if targets := published(agent, volume_id):
                paths = ", ".join(target.path for target in targets)
                raise Refused(f"volume {volume_id} is still published at {paths}")
            if is_mounted(path):
                if volume_at(agent, path) != volume_id:
                    raise Refused(f"what is mounted at {path} is not volume {volume_id}")
                mount.unmount(agent.runner, path, resource=self._device(volume_id))
            if not agent.devices.mounts(volume_id):  # else it is staged at another path as well
                agent.devices.take_down(volume_id)

    def _device(self, volume_id: str) -> str | None:
        top = self._agent.devices.top(volume_id)
        return None if top is None else self._agent.devices.path_of(top)
