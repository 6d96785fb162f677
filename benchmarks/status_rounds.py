"""In a lab node: looks at all replicated volumes that are served there, round after round.

``python -m benchmarks.status_rounds DATA METADATA ROUNDS COUNT...`` cuts small volumes out of the
two disks, serves them without a peer through real devices, and prints a JSON object for each count.
What looks is the agent's own ``ReplicaSide``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from cluster.locks import Locks
from cluster.membership import Held, Membership
from cluster.model import ReplicaPlace, Replication
from cluster.placement import metadata_bytes
from host.command import Runner
from host.device_mapper import SECTOR, DeviceMapper, Target
from host.linear_device import ensure_linear
from node_agent.arbiter import Assignment
from node_agent.devices import Devices, disk_name, face_name
from node_agent.endless_io import EndlessIo
from node_agent.eviction import Evictor
from node_agent.holds import Holds
from node_agent.limits import Limiter
from node_agent.logical_volumes import LogicalVolumes
from node_agent.replica_side import ReplicaDevices, ReplicaSide
from node_agent.targets import Targets
from replication import fencing
from replication.commands import Commands
from replication.record import Role
from replication.watch import NetlinkObserver

_MIB = 1 << 20
DATA_BYTES, METADATA_BYTES = 4 * _MIB, _MIB
_NODE = "here"
_MODPROBE_SECONDS = 30.0
_CGROUPS = Path("/sys/fs/cgroup")


class _Slices:
    """``Storage`` of replica_side.py: parts of two disks."""

    def __init__(self, mapper: DeviceMapper) -> None:
        self._mapper = mapper

    def make(self, name: str, disk: str, number: int, size: int) -> None:
        sectors = size // SECTOR
        self._mapper.create(name)
        self._mapper.load(name, [Target(0, sectors, "linear", f"{disk} {number * sectors}")])
        self._mapper.activate(name)

    def devices(self, volume_id: str) -> ReplicaDevices:
        data = str(self._mapper.node(disk_name(volume_id)))
        metadata = str(self._mapper.node(f"meta-{volume_id}"))
        return ReplicaDevices(data, metadata, DATA_BYTES)

    def set_up(self, volume_id: str) -> ReplicaDevices:
        return self.devices(volume_id)

    def metadata_made(self, volume_id: str) -> None:
        raise AssertionError("it was made before")

    def is_there(self, volume_id: str) -> bool:
        return self._mapper.find(disk_name(volume_id)) is not None

    def recorded(self, volume_id: str) -> None:
        return None


class _Served:
    """Volumes that are served here and have lost nobody: they never had a peer."""

    def __init__(self, data: str, metadata: str) -> None:
        self._disks = (data, metadata)
        runner = Runner()
        runner.run(["modprobe", "drbd"], deadline=_MODPROBE_SECONDS)
        fencing.install()
        fencing.configure()
        self._mapper = mapper = DeviceMapper(runner)
        self._slices = _Slices(mapper)
        self._commands = Commands(runner, _NODE, NetlinkObserver())
        logical = LogicalVolumes({}, lambda spec: None)
        devices = Devices(runner, mapper, logical)
        targets = Targets(Path("/run/bench-targets"))
        limiter = Limiter(logical, devices, targets, _CGROUPS)
        evictor = Evictor(runner, mapper, devices, targets, limiter, Locks(), _CGROUPS)
        self.side = ReplicaSide(
            _NODE,
            runner,
            mapper,
            self._commands,
            self._slices,
            devices,
            evictor,
            Holds(runner, _CGROUPS),
            EndlessIo(),
            resync_bytes_per_second=100 * _MIB,
        )
        self.assignments: list[Assignment] = []

    def add(self) -> None:
        number = len(self.assignments)
        places = (ReplicaPlace(_NODE, 0, "10.0.0.1"), ReplicaPlace("there", 1, "10.0.0.2"))
        record = Membership((_NODE,), (_NODE, "there"), primary=_NODE, active=_NODE)
        replication = Replication(1 + number, 7001 + number, "1122334455667788", places)
        volume_id = f"bench{number}"
        assignment = Assignment(volume_id, Held(record, 1), replication, "s" * 32)
        data, metadata = self._disks
        self._slices.make(disk_name(volume_id), data, number, DATA_BYTES)
        self._slices.make(f"meta-{volume_id}", metadata, number, METADATA_BYTES)
        resource = self.side.resource(assignment)
        self._commands.create_metadata(resource, anew=True)
        self._commands.attach(resource)
        self._commands.force_promote(resource)
        ensure_linear(self._mapper, face_name(volume_id), resource.device, DATA_BYTES)
        self.assignments.append(assignment)

    def round(self) -> float:
        """Seconds of one look at each."""
        begin = time.perf_counter()
        views = [self.side.view(assignment) for assignment in self.assignments]
        seconds = time.perf_counter() - begin
        if any(view.role is not Role.PRIMARY or not view.generations.current for view in views):
            raise AssertionError("not all of them are served")
        return seconds


def main(data: str, metadata: str, rounds: int, counts: Iterable[int]) -> None:
    assert metadata_bytes(DATA_BYTES) <= METADATA_BYTES
    served = _Served(data, metadata)
    forks: list[str] = []
    sys.addaudithook(lambda event, _: forks.append(event) if event in _FORKS else None)
    for count in counts:
        while len(served.assignments) < count:
            served.add()
        served.round()
        forks.clear()
        seconds = [served.round() for _ in range(rounds)]
        found = {"volumes": count, "seconds": seconds, "forks": len(forks)}
        print(json.dumps(found), flush=True)


_FORKS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system")

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), map(int, sys.argv[4:]))
