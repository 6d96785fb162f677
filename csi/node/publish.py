"""NodePublishVolume and NodeUnpublishVolume: a staged volume shown to a pod."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cluster.errors import AlreadyExists, Refused
from cluster.model import AccessType
from csi.capability import Capability
from csi.node.paths import pod_uid
from csi.node.places import is_mounted, published, require_parent, volume_at
from csi.node.stage import require_fitting
from host import mount
from host.errors import NotBlank
from host.ownership import apply_group
from node_agent.agent import NodeAgent
from node_agent.records import record_of
from node_agent.targets import Target

_log = logging.getLogger(__name__)
_SINGLE_WRITER = "SINGLE_NODE_SINGLE_WRITER"


class Publisher:
    def __init__(self, agent: NodeAgent) -> None:
        self._agent = agent

    def publish(
        self,
        volume_id: str,
        staging_path: str,
        target_path: str,
        capability: Capability,
        *,
        readonly: bool,
        context: Mapping[str, str],
    ) -> None:
        """Raises NotFound, Refused (not staged, or no second writer), AlreadyExists, Busy."""
        agent = self._agent
        with agent.locks.hold(volume_id, purpose="its publishing"):
            entry = agent.volumes.require_complete(volume_id)
            record = record_of(entry)
            require_fitting(volume_id, record.spec, capability)
            require_parent(target_path)
            target = Target(
                volume_id=volume_id,
                path=target_path,
                access_mode=capability.mode,
                readonly=readonly or capability.read_only,
                block=capability.access is AccessType.BLOCK,
                pod_uid=pod_uid(target_path, context),
            )
            self._require_compatible(target)
            agent.devices.require_top(volume_id)
            agent.targets.put(target)
            try:
                if target.block:
                    self._publish_device(target)
                else:
                    self._publish_directory(target, staging_path, capability.mount_group)
            except BaseException:
                if not is_mounted(target_path):
                    agent.targets.remove(target_path)
                raise
            agent.limiter.publish(volume_id, record.limits)

    def unpublish(self, volume_id: str, target_path: str) -> None:
        """Nothing there is success. Raises Refused for what is not ours, InUse, Busy."""
        agent = self._agent
        with agent.locks.hold(volume_id, purpose="its unpublishing"):
            target = agent.targets.get(target_path)
            if is_mounted(target_path):
                if volume_at(agent, target_path) != volume_id:
                    raise Refused(f"what is mounted at {target_path} is not volume {volume_id}")
                if target is not None:
                    agent.limiter.lift(target)
                mount.unmount(agent.runner, target_path)
            try:
                mount.remove_target(target_path)
            except NotBlank as error:
                # Written there without a mount: it is not ours to delete, and no reason to keep
                # the pod from ending.
                _log.warning("%s", error)
            if target is not None and target.volume_id == volume_id:
                agent.targets.remove(target_path)
            if not any(other.block and other.readonly for other in agent.targets.of(volume_id)):
                agent.devices.remove_read_only(volume_id)

    def _require_compatible(self, target: Target) -> None:
        present = self._agent.targets.get(target.path)
        if present is not None and is_mounted(target.path):
            if present.volume_id != target.volume_id:
                raise AlreadyExists(f"{target.path} shows volume {present.volume_id}")
            if (present.readonly, present.block) != (target.readonly, target.block):
                raise AlreadyExists(
                    f"volume {target.volume_id} is published at {target.path} already, in another"
                    " way"
                )
        others = [
            other for other in published(self._agent, target.volume_id) if other.path != target.path
        ]
        for other in others:
            if _SINGLE_WRITER in (target.access_mode, other.access_mode):
                raise Refused(
                    f"volume {target.volume_id} is published at {other.path}, and {_SINGLE_WRITER}"
                    " permits no second place"
                )

    def _publish_device(self, target: Target) -> None:
        devices = self._agent.devices
        if target.readonly:
            source = devices.ensure_read_only(target.volume_id)
        else:
            source = devices.path_of(devices.require_top(target.volume_id))
        mount.make_file(target.path)
        mount.bind(source, target.path)

    def _publish_directory(self, target: Target, staging_path: str, group: int | None) -> None:
        if volume_at(self._agent, staging_path) != target.volume_id:
            raise Refused(f"volume {target.volume_id} is not staged at {staging_path}")
        if group is not None and not target.readonly:
            devices = self._agent.devices
            device = devices.path_of(devices.require_top(target.volume_id))
            apply_group(self._agent.runner, staging_path, group, resource=device)
        mount.make_directory(target.path)
        mount.bind(staging_path, target.path, read_only=target.readonly)
