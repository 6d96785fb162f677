"""What somebody wants of the volumes of a chaos run meanwhile: made, and repeated until it is done.

As the sidecars and people do: a call that ends with a code that says so is made again. Any other
code fails the run.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import grpc

from cli import admin_client
from cluster.errors import Busy, Conflict, NoSpace, Refused, Unavailable
from lab.csi_client import ControllerClient
from lab.node import MIB
from lab.replica_states import stored_volume
from tests.chaos_cuts import Cut, Cuts
from tests.chaos_schedule import NODES
from tests.lab.replicated import KUBELET

if TYPE_CHECKING:
    from cli.admin_client import AdminClient
    from lab.deployment import Deployment
    from tests.chaos_schedule import Change
    from tests.chaos_service import Keeper

LARGEST = 128 * MIB
_CALL_SECONDS = 20.0
_PAUSE_SECONDS = 0.3
_PAST = 20  # changes of which a failed run tells
_Code = grpc.StatusCode
# NoSpace: while a node is away, nobody else may have room beside the other replica.
_REPEATED_CODES = (
    _Code.ABORTED,
    _Code.UNAVAILABLE,
    _Code.DEADLINE_EXCEEDED,
    _Code.FAILED_PRECONDITION,
    _Code.RESOURCE_EXHAUSTED,
)
_REPEATED_ERRORS = (Busy, Conflict, Unavailable, Refused, NoSpace)
_T = TypeVar("_T")


class GivenUp(Exception):
    """The run has ended before the change was done."""


class Job(threading.Thread):
    """One change; `failure` once it has failed for good."""

    def __init__(self, change: Change, make: Callable[[Job], None]) -> None:
        super().__init__(name=str(change), daemon=True)
        self.change = change
        self.failure: Exception | None = None
        self.said: list[str] = []
        """What its calls failed with, in order, and when."""
        self.given_up = threading.Event()
        self._make = make
        self._last = ""

    def run(self) -> None:
        try:
            self.pause(self.change.after)
            self._make(self)
            self.say("done")
        except GivenUp:
            pass
        except Exception as error:
            self.say(f"failed: {error!r}")
            self.failure = error

    def say(self, text: str) -> None:
        """Once, however often it is the same in a row."""
        if text != self._last:
            self._last = text
            self.said.append(f"{time.strftime('%H:%M:%S')} {self.change}: {text}")

    def pause(self, seconds: float) -> None:
        """Raises GivenUp."""
        if self.given_up.wait(seconds):
            raise GivenUp

    def repeat(self, what: str, call: Callable[[], _T]) -> _T:
        """A call, until it succeeds. Raises what a caller does not repeat, and GivenUp."""
        while True:
            try:
                result = call()
            except grpc.RpcError as error:
                if error.code() not in _REPEATED_CODES:
                    raise
                self.say(f"cannot {what}: {error.code().name} {error.details()}")
            except _REPEATED_ERRORS as error:
                self.say(f"cannot {what}: {type(error).__name__} {error}")
            else:
                return result
            self.pause(_PAUSE_SECONDS)


class Changes:
    """Made in threads of their own, beside the faults and the services."""

    def __init__(self, cluster: Deployment, keepers: Sequence[Keeper]) -> None:
        self.cuts = Cuts(cluster)
        self.finished_verifies: Counter[bool] = Counter()
        self._cluster = cluster
        self._keepers = keepers
        self._controller = ControllerClient(f"unix:{cluster.socket}", _CALL_SECONDS)
        self._jobs: list[Job] = []
        self._past: deque[Job] = deque(maxlen=_PAST)
        self._verified: set[tuple[str, str, float]] = set()

    def begin(self, changes: Iterable[Change]) -> None:
        makers: dict[str, Callable[[Job, Keeper], None]] = {
            "snapshot": self._cut,
            "replicas-2-1-2": self._one_and_two,
            "move-replica": self._move,
            "verify": self._verify,
            "expand": self._expand,
        }
        self._jobs.clear()
        for change in changes:
            maker, keeper = makers[change.kind], self._keepers[change.volume]
            job = Job(change, lambda job, maker=maker, keeper=keeper: maker(job, keeper))  # type: ignore[misc]
            self._jobs.append(job)
            self._past.append(job)
            job.start()

    def wait(self, until: float) -> None:
        """Until all are done; `until` by time.monotonic(). Raises AssertionError."""
        while True:
            under_way = [job for job in self._jobs if job.is_alive()]
            for job in self._jobs:
                assert job.failure is None, f"{job.change} failed: {job.failure!r}"
                last = job.said[-1] if job.said else "nothing was answered"
                late = job in under_way and time.monotonic() > until
                assert not late, f"{job.change} is not done: {last}"
            if not under_way:
                return
            time.sleep(0.1)

    def told(self) -> str:
        """What the last changes met with."""
        return "\n".join(line for job in self._past for line in job.said)

    def close(self) -> None:
        for job in self._jobs:
            job.given_up.set()
        self._controller.close()

    @contextmanager
    def _admin(self) -> Iterator[AdminClient]:
        with admin_client.connect(self._cluster.socket) as admin:
            yield admin

    # The changes

    def _cut(self, job: Job, keeper: Keeper) -> None:
        service = keeper.service
        for old in self.cuts.superfluous(service.id):
            job.repeat(
                "delete a snapshot", lambda old=old: self._controller.delete_snapshot(old.id)
            )
            self.cuts.forget(old)
        # What was acknowledged before the first attempt: a later one may get what that has cut.
        before = service.records.journal()
        name = f"{service.id}-{len(self.cuts.names)}"
        self.cuts.names.append(name)
        made = job.repeat("cut it", lambda: self._controller.snapshot(service.id, name))
        self.cuts.add(Cut(made.snapshot_id, keeper, before))

    def _one_and_two(self, job: Job, keeper: Keeper) -> None:
        volume_id = keeper.service.id
        job.repeat("have one replica", lambda: self._controller.modify(volume_id, replicas="1"))
        job.say("it has one replica")
        job.pause(float(job.change.arguments[0].removesuffix("s")))
        job.repeat("have two replicas", lambda: self._controller.modify(volume_id, replicas="2"))

    def _move(self, job: Job, keeper: Keeper) -> None:
        """To the node that has none, from the one that does not serve."""
        volume_id = keeper.service.id
        ends: list[str] = []

        def move() -> None:
            nodes = stored_volume(self._cluster, volume_id).nodes
            if not ends:
                if len(nodes) != 2:
                    raise Busy(f"it has one replica now, on {nodes}")
                ends.extend((next(node for node in NODES if node not in nodes), ""))
            to_node = ends[0]
            leaving = [node for node in nodes if node not in (keeper.here, to_node)]
            # The one that has left in a call that was cut off, where there is no other.
            ends[1] = from_node = leaving[0] if leaving else ends[1]
            if not from_node:
                raise Busy(f"the replica that serves is all there is, on {nodes}")
            with self._admin() as admin:
                job.say(admin.move_replica(volume_id, from_node, to_node))

        job.repeat("move a replica", move)

    def _verify(self, job: Job, keeper: Keeper) -> None:
        def verify() -> None:
            with self._admin() as admin:
                job.say(admin.verify(keeper.service.id))

        job.repeat("verify it", verify)

    def _expand(self, job: Job, keeper: Keeper) -> None:
        service = keeper.service
        more = int(job.change.arguments[0].removesuffix("MiB")) * MIB
        size = min(LARGEST, stored_volume(self._cluster, service.id).size_bytes + more)
        answer = job.repeat("expand it", lambda: self._controller.expand(service.id, size))
        job.say(f"it has {answer.capacity_bytes} bytes")

        def grow() -> None:
            with keeper.turn:
                if keeper.is_cut_off or not keeper.runs():
                    raise Busy("the service does not run")
                target = f"{KUBELET}/pod-{service.id}"
                agent = self._cluster.node(keeper.here)
                agent.expand(service.id, target, size, staging=service.staging)

        job.repeat("grow what is on it", grow)

    # What is seen of them when all is healed

    def review(self) -> None:
        """Of volumes that are in sync and served. Raises AssertionError."""
        for keeper in self._keepers:
            with keeper.turn:
                said = keeper.service.why_not_grown(keeper.here)
                assert not said, f"volume {keeper.service.id}: {said}"
            self._review_verify(keeper)
        self.cuts.judge()

    def _review_verify(self, keeper: Keeper) -> None:
        with self._admin() as admin:
            _, nodes, _ = admin.volume(keeper.service.id)
        for one in nodes:
            replica = one.report.replica if one.report is not None else None
            found = replica.verify if replica is not None else None
            if found is None:
                continue
            told = (keeper.service.id, one.node, found.finished_at)
            if told not in self._verified:
                self._verified.add(told)
                self.finished_verifies[not found.trouble] += 1
            assert not found.out_of_sync_bytes, (
                f"a verify on {one.node} found differences: {found}: {keeper.service.state()}"
            )
