"""The end of a volume's use on this node, by force: rule 10 of docs/membership.md.

A node that may serve a volume no more has processes that wait for their writes. They are killed
before any of these writes is let go on: a killed process hears of nothing, also where the kernel
still holds it. As long as I/O is held back below, that is all that can be done (unmounting would
hang); afterwards all is unmounted and the devices are removed.

Each call looks first, ends by deadlines, and may be repeated from any point.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import Refused
from cluster.locks import Locks
from host import loop_devices, mount
from host.command import Runner
from host.device_mapper import DeviceMapper
from host.device_users import Found, UserFinder
from host.errors import CommandFailed, CommandStuck, HostError, InUse
from host.io_limits import find_pod_cgroup
from host.mount_namespaces import Stack
from host.mount_table import all_mounts, canonical, mounts_at
from host.processes import Process, end_cgroup, in_cgroup, is_doomed, kill
from node_agent.devices import Devices, face_name, stack_names
from node_agent.limits import Limiter
from node_agent.targets import Targets
from replication.record import Users

_log = logging.getLogger(__name__)

# After that it takes a reboot; tried again all the same, as often.
_STUCK_SECONDS = 20.0
_KILLING_SECONDS = 5.0
_DYING_SECONDS = 3.0
_UNMOUNT_SECONDS = 30.0
_PAUSE_SECONDS = 0.1
_PURPOSE = "the end of its use on this node"


@dataclass(frozen=True)
class _Attempts:
    """On one volume, on the monotonic clock."""

    frozen: bool
    first: float
    last: float


class Evictor:
    """Thread safe for different volumes; for one volume, one call at a time."""

    def __init__(
        self,
        runner: Runner,
        mapper: DeviceMapper,
        devices: Devices,
        targets: Targets,
        limiter: Limiter,
        locks: Locks,
        cgroup_root: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._mapper = mapper
        self._devices = devices
        self._targets = targets
        self._limiter = limiter
        self._locks = locks
        self._cgroup_root = cgroup_root
        self._clock = clock
        self._finder = UserFinder()
        self._attempts: dict[str, _Attempts] = {}

    def users(self, volume_id: str, *, frozen: bool) -> Users:
        """Whether anybody hears of the volume's writes, or (not ``frozen``) still has it at all.

        ``frozen``: what is below the face holds back I/O; so does a face that is suspended. STUCK
        when 20 s of killing and unmounting have not ended it. Raises host errors.
        """
        face = self._devices.face(volume_id)
        if face is None:
            self._attempts.pop(volume_id, None)
            return Users.NONE
        frozen = frozen or face.suspended
        if frozen:
            found = self._finder.find(self._stack(volume_id))
            if not found.living and not found.unclear and not self._living_in_pods(volume_id):
                return Users.NONE
        tried = self._attempts.get(volume_id)
        if tried is None or tried.frozen != frozen:
            return Users.ALIVE
        is_late = self._clock() - tried.first >= _STUCK_SECONDS
        return Users.STUCK if is_late else Users.ALIVE

    def kill_again(self, volume_id: str, *, frozen: bool) -> None:
        """``kill`` those who are STUCK: the last attempt may be 20 s ago, or nothing is done."""
        tried = self._attempts.get(volume_id)
        if tried is None or self._clock() - tried.last >= _STUCK_SECONDS:
            self.kill(volume_id, frozen=frozen)

    def kill(self, volume_id: str, *, frozen: bool) -> None:
        """Kill all users; where nothing is ``frozen``, unmount it and remove its devices as well.

        Its pods start nothing any more: they have to be deleted. Raises Refused (it is still in
        use: by whom), Busy, host errors.
        """
        face = self._devices.face(volume_id)
        if face is None:
            with self._locks.hold(volume_id, purpose=_PURPOSE):
                self._forget(volume_id)
            return
        frozen = frozen or face.suspended
        self._note_attempt(volume_id, frozen)
        found = self._kill_users(volume_id)
        if found.unclear:
            names = _in_words(found.unclear)
            _log.error("volume %s: cannot tell whether it is used by %s", volume_id, names)
        if frozen:
            return
        with self._locks.hold(volume_id, purpose=_PURPOSE):
            found = self._wait_for_the_dying(volume_id)
            self._unmount(volume_id)
            try:
                self._devices.take_down(volume_id)
            except (Refused, InUse) as error:
                users = _in_words(user.process for user in found.users)
                raise Refused(
                    f"{error}; held by {users or 'no process that can be seen'}. If this does not"
                    " end by itself, the node needs a reboot"
                ) from error
            self._forget(volume_id)
            self._attempts.pop(volume_id, None)

    def _note_attempt(self, volume_id: str, frozen: bool) -> None:
        now = self._clock()
        tried = self._attempts.get(volume_id)
        if tried is None or tried.frozen != frozen:
            tried = _Attempts(frozen, now, now)
        self._attempts[volume_id] = replace(tried, last=now)

    # Processes

    def _kill_users(self, volume_id: str) -> Found:
        """Kill until nobody is left who has not been killed, or for some seconds."""
        stack = self._stack(volume_id)
        end = time.monotonic() + _KILLING_SECONDS
        named: set[Process] = set()
        while True:
            found = self._finder.find(stack)
            living = {*found.living, *self._living_in_pods(volume_id)}
            if living - named:
                _log.warning(
                    "volume %s is not this node's any more: killing %s; its pods start nothing"
                    " from now on and have to be deleted",
                    volume_id,
                    _in_words(living - named),
                )
                named |= living
            for cgroup in self._pods(volume_id):
                end_cgroup(cgroup)
            for process in living:
                kill(process)
            if not living or time.monotonic() > end:
                return found
            time.sleep(_PAUSE_SECONDS)

    def _wait_for_the_dying(self, volume_id: str) -> Found:
        """What was killed has to close its files before anything can be unmounted."""
        stack = self._stack(volume_id)
        end = time.monotonic() + _DYING_SECONDS
        while True:
            found = self._finder.find(stack)
            if not found.users or time.monotonic() > end:
                return found
            time.sleep(_PAUSE_SECONDS)

    def _living_in_pods(self, volume_id: str) -> list[Process]:
        processes = [one for cgroup in self._pods(volume_id) for one in in_cgroup(cgroup)]
        return [process for process in processes if not is_doomed(process)]

    def _pods(self, volume_id: str) -> list[Path]:
        uids = {target.pod_uid for target in self._targets.of(volume_id) if target.pod_uid}
        found = [find_pod_cgroup(self._cgroup_root, uid) for uid in sorted(uids)]
        return [cgroup for cgroup in found if cgroup is not None]

    def _stack(self, volume_id: str) -> Stack:
        names = stack_names(volume_id)
        found = [info for name in names if (info := self._mapper.find(name)) is not None]
        numbers = frozenset(info.device_number for info in found)
        return Stack(numbers, frozenset(names))

    # Mounts

    def _unmount(self, volume_id: str) -> None:
        """All mounts of the volume that this process sees, the innermost first."""
        stack = self._stack(volume_id)
        for target in self._targets.of(volume_id):
            self._limiter.lift(target)
        paths = {one.path for one in all_mounts() if stack.shown_by(one)}
        self._detach_loops(volume_id, stack, paths)
        published = {canonical(target.path) for target in self._targets.of(volume_id)}
        # Published ones before the staging mount, whose end is that of the file system.
        for path in sorted(paths, key=lambda path: (path not in published, -len(path))):
            self._unmount_one(volume_id, path)

    def _unmount_one(self, volume_id: str, path: str) -> None:
        device = str(self._mapper.node(face_name(volume_id)))
        try:
            mount.unmount(self._runner, path, resource=device, deadline=_UNMOUNT_SECONDS)
        except (InUse, CommandFailed, CommandStuck) as error:
            _log.warning("volume %s: %s; it is taken out of sight", volume_id, error)
            mount.unmount(self._runner, path, lazy=True, deadline=_UNMOUNT_SECONDS)

    def _detach_loops(self, volume_id: str, stack: Stack, paths: set[str]) -> None:
        nodes = {f"/dev/mapper/{name}" for name in stack.names}

        def ours(backing: str) -> bool:
            return backing in nodes or any(
                backing == path or backing.startswith(f"{path}/") for path in paths
            )

        for loop in loop_devices.loops_over(ours):
            try:
                loop_devices.detach(self._runner, loop)
            except HostError as error:
                _log.warning("volume %s: %s", volume_id, error)

    def _forget(self, volume_id: str) -> None:
        """The targets that are unmounted: their pods can still be found by them until then."""
        for target in self._targets.of(volume_id):
            if not mounts_at(canonical(target.path)):
                self._targets.remove(target.path)


def _in_words(processes: Iterable[Process]) -> str:
    ordered = sorted(processes, key=lambda process: process.pid)
    return ", ".join(f"{process.pid} ({process.command})" for process in ordered)
