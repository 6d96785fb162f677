"""I/O limits of published volumes, kept in the cgroups of their pods.

A limit belongs to a pod and a device. It is set when the volume is published, when the limits
change, and again from time to time: kubelet may make the pod's cgroup after it has published, and
an agent that starts anew has to trust nothing.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from cluster.errors import DataLoss
from cluster.model import IoLimits
from host import io_limits
from host.errors import HostError, Missing
from node_agent.devices import Devices
from node_agent.labels import Kind
from node_agent.logical_volumes import LogicalVolumes
from node_agent.records import record_of
from node_agent.targets import Target, Targets

_log = logging.getLogger(__name__)
_UNLIMITED = io_limits.Limits()
# A pod's cgroup comes a moment before or after its volumes.
_SOON_SECONDS = 1.0
_LATER_SECONDS = 30.0


class Limiter:
    def __init__(
        self, volumes: LogicalVolumes, devices: Devices, targets: Targets, cgroup_root: Path
    ) -> None:
        self._volumes = volumes
        self._devices = devices
        self._targets = targets
        self._root = cgroup_root
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="limits", daemon=True)

    def start(self) -> None:
        """Apply all limits from now on, again and again."""
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def publish(self, volume_id: str, limits: IoLimits) -> None:
        """Limit a pod that is about to have the volume; as soon as it can be."""
        try:
            done = limits == IoLimits() or self.apply(volume_id, limits)
        except HostError as error:
            _log.error("volume %s is used without its I/O limits: %s", volume_id, error)
        else:
            if not done:
                self._wake.set()

    def apply(self, volume_id: str, limits: IoLimits) -> bool:
        """Limit all pods that have the volume. False when a pod has no cgroup yet.

        Raises Refused where the kernel does not limit I/O.
        """
        wanted = io_limits.Limits(
            limits.read_iops, limits.write_iops, limits.read_bytes, limits.write_bytes
        )
        applied = [self._apply(target, wanted) for target in self._targets.of(volume_id)]
        return all(applied)

    def apply_all(self) -> bool:
        """Limit whatever is published and has limits. False when something is left to do."""
        done = True
        for entry in self._volumes.entries(Kind.VOLUME):
            if not self._targets.of(entry.label.id):
                continue
            try:
                limits = record_of(entry).limits
                if limits != IoLimits():
                    done = self.apply(entry.label.id, limits) and done
            except (HostError, DataLoss) as error:
                _log.warning("I/O limits of volume %s: %s", entry.label.id, error)
        return done

    def lift(self, target: Target) -> None:
        """Before a target goes: the pod's next device may get the same number."""
        try:
            self._apply(target, _UNLIMITED)
        except HostError as error:
            _log.warning("I/O limits of volume %s: %s", target.volume_id, error)

    def _run(self) -> None:
        while not self._stopped:
            try:
                done = self.apply_all()
            except Exception:
                _log.exception("I/O limits are not looked after")
                done = True
            # Woken up for a new pod: its cgroup is waited for at a quicker pace.
            if self._wake.wait(_LATER_SECONDS if done else _SOON_SECONDS):
                self._wake.clear()

    def _apply(self, target: Target, wanted: io_limits.Limits) -> bool:
        face = self._devices.face(target.volume_id)
        if not target.pod_uid or face is None:
            return True
        cgroup = io_limits.find_pod_cgroup(self._root, target.pod_uid)
        if cgroup is None:
            return wanted == _UNLIMITED
        try:
            if io_limits.limits_of(cgroup, face.major_minor) != wanted:
                io_limits.set_limits(self._root, cgroup, face.major_minor, wanted)
        except Missing:
            pass  # the pod has just ended
        return True
