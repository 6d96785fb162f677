"""The admin service: what people's commands ask a running controller.

It shows the store as it is, half-made volumes included, and asks the nodes themselves for their
state, all at the same time and none for longer than a person waits. What it changes is only what a
person decides about replicated volumes: csi/controller/admin_changes.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import grpc

from cluster.agents import Agents, Inventory, VolumeReport
from cluster.errors import ClusterError, NotFound, Unavailable
from cluster.identifiers import Kind, is_id, key_of_id, key_of_name
from cluster.memberships import Memberships
from cluster.model import Phase, Volume, to_json, volume_from_object
from cluster.reconcile import Reconciler
from cluster.replicated_state import ReplicatedState, explain, judge, summary
from cluster.store import JsonObject, Record, RecordKind, Store
from csi.controller.admin_changes import AdminChanges, ReplicationParts
from csi.rpc import admin_pb2 as pb
from node_agent.version import VERSION
from node_agent.wire import health_to_wire, pool_to_wire, volume_to_wire

_ANSWER_SECONDS = 5.0
_NODES_AT_A_TIME = 32
_LONGEST_PAGE = 1000
_GONE = "it does not have the volume"

_Answer = TypeVar("_Answer")


class AdminService(AdminChanges):
    def __init__(
        self,
        store: Store,
        agents: Agents,
        addresses: Mapping[str, str],
        reconciler: Reconciler,
        replication: ReplicationParts | None = None,
    ) -> None:
        """``replication``: None where no volume has replicas."""
        super().__init__(replication)
        self._store = store
        self._memberships = Memberships(store)
        self._agents = agents
        self._addresses = addresses
        self._reconciler = reconciler
        self._askers = ThreadPoolExecutor(_NODES_AT_A_TIME, thread_name_prefix="admin")

    def close(self) -> None:
        self._askers.shutdown(wait=False, cancel_futures=True)

    def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetStatusResponse:
        inventories = self._ask(self._agents.names(), self._inventory)
        asked = [
            (name, None if found is None else self._node(name, found), trouble)
            for name, found, trouble in inventories
        ]
        return pb.GetStatusResponse(
            version=VERSION,
            nodes=[
                answer or pb.Node(name=name, address=self._addresses[name], trouble=trouble)
                for name, answer, trouble in asked
            ],
            counts=self._counts(),
            differences=[
                pb.Difference(
                    kind=one.kind,
                    node=one.node,
                    object=one.object_id,
                    text=one.text,
                    mended=one.mended,
                )
                for one in self._reconciler.differences
            ],
            compared_seconds_ago=self._reconciler.compared_seconds_ago(),
            replicated=self._replicated(self._volumes(), inventories),
        )

    def ListVolumes(
        self, request: pb.ListVolumesRequest, context: grpc.ServicerContext
    ) -> pb.ListVolumesResponse:
        limit = _page(request.limit)
        records, _ = self._store.list(RecordKind.VOLUME, after=request.after, limit=limit)
        volumes = [volume_from_object(record.value) for record in records]
        nodes = {
            one for volume in volumes if volume.replication is not None for one in volume.nodes
        }
        return pb.ListVolumesResponse(
            volumes=[_text(record.value) for record in records],
            next=_next(records, limit),
            replicated=self._replicated(volumes, self._ask(nodes, self._inventory)),
        )

    def GetVolume(
        self, request: pb.GetVolumeRequest, context: grpc.ServicerContext
    ) -> pb.GetVolumeResponse:
        record = self._volume_record(request.volume)
        volume = volume_from_object(record.value)
        asked = self._ask(volume.nodes, lambda node: self._report(node, volume.id))
        nodes = [
            pb.NodeVolume(
                node=name,
                trouble=trouble,
                volume=None if answer is None else volume_to_wire(answer),
            )
            for name, answer, trouble in asked
        ]
        replication = None
        if volume.replication is not None:
            answers = {name: answer or trouble for name, answer, trouble in asked}
            replication = self._replication(volume, answers)
        return pb.GetVolumeResponse(
            volume=_text(record.value), nodes=nodes, replication=replication
        )

    def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.ListSnapshotsResponse:
        limit = _page(request.limit)
        records, _ = self._store.list(RecordKind.SNAPSHOT, after=request.after, limit=limit)
        wanted = [
            record for record in records if request.volume_id in ("", record.value.get("volume_id"))
        ]
        return pb.ListSnapshotsResponse(
            snapshots=[_text(record.value) for record in wanted], next=_next(records, limit)
        )

    def _volume_record(self, name_or_id: str) -> Record:
        if is_id(Kind.VOLUME, name_or_id):
            record = self._store.get(RecordKind.VOLUME, key_of_id(name_or_id))
            if record.value.get("id") == name_or_id:
                return record
        try:
            return self._store.get(RecordKind.VOLUME, key_of_name(Kind.VOLUME, name_or_id))
        except NotFound:
            raise NotFound(f"there is no volume {name_or_id[:128]!r}") from None

    def _counts(self) -> list[pb.Count]:
        found: Counter[tuple[str, str]] = Counter()
        for kind in RecordKind:
            records, _ = self._store.list(kind)
            found.update((kind.value, str(record.value.get("phase", ""))) for record in records)
        return [
            pb.Count(kind=kind, phase=phase, count=count) for (kind, phase), count in found.items()
        ]

    def _volumes(self) -> Iterator[Volume]:
        for record in self._store.list(RecordKind.VOLUME)[0]:
            yield volume_from_object(record.value)

    def _volume_id(self, name_or_id: str) -> str:
        return str(self._volume_record(name_or_id).value.get("id", ""))

    def _replicated(
        self, volumes: Iterable[Volume], asked: Iterable[tuple[str, Inventory | None, str]]
    ) -> list[pb.Replicated]:
        """The replicated ones of these in a few words each, by their nodes' inventories."""
        answers: dict[str, dict[str, VolumeReport] | str] = {
            name: trouble if found is None else {report.id: report for report in found.volumes}
            for name, found, trouble in asked
        }
        found = []
        for volume in volumes:
            if volume.replication is None or volume.phase is not Phase.READY:
                continue
            told: dict[str, VolumeReport | str] = {}
            for node in volume.nodes:
                of_node = answers.get(node, f"node {node} is not configured")
                there = of_node if isinstance(of_node, str) else of_node.get(volume.id)
                told[node] = _GONE if there is None else there
            found.append(_in_short(self._state(volume, told)))
        return found

    def _replication(
        self, volume: Volume, answers: Mapping[str, VolumeReport | str]
    ) -> pb.Replication:
        state = self._state(volume, answers)
        return pb.Replication(
            membership="" if state.record is None else to_json(state.record),
            state=_in_short(state),
            explanation=explain(state),
            decision=state.decision,
        )

    def _state(self, volume: Volume, answers: Mapping[str, VolumeReport | str]) -> ReplicatedState:
        held = self._memberships.find(volume.id)
        return ReplicatedState(
            volume,
            held.record if held is not None else None,
            {node: _or_error(answer) for node, answer in answers.items()},
            self._word(volume.id),
        )

    def _report(self, node: str, volume_id: str) -> VolumeReport:
        agent = self._agents.agent(node)
        try:
            return agent.get_volume(volume_id)
        except NotFound:
            raise NotFound(f"node {node}: {_GONE}") from None

    def _inventory(self, name: str) -> Inventory:
        return self._agents.agent(name).inventory()

    def _node(self, name: str, inventory: Inventory) -> pb.Node:
        return pb.Node(
            name=name,
            address=self._addresses[name],
            boot_id=inventory.boot_id,
            version=inventory.version,
            topology=dict(inventory.topology),
            pools=[pool_to_wire(pool) for pool in inventory.pools],
            stuck_commands=inventory.stuck_commands,
            volumes=len(inventory.volumes),
            snapshots=len(inventory.snapshots),
            replication_trouble=inventory.replication_trouble,
        )

    def _ask(
        self, nodes: Iterable[str], question: Callable[[str], _Answer]
    ) -> list[tuple[str, _Answer | None, str]]:
        """Ask nodes at the same time: (node, its answer or None, why there is none)."""
        asked: dict[str, Future[_Answer]] = {
            node: self._askers.submit(question, node) for node in nodes
        }
        wait(asked.values(), timeout=_ANSWER_SECONDS)
        answers: list[tuple[str, _Answer | None, str]] = []
        for node, future in asked.items():
            try:
                answers.append((node, future.result(timeout=0), ""))
            except TimeoutError:
                future.cancel()
                text = f"node {node}: no answer within {_ANSWER_SECONDS:g} s"
                answers.append((node, None, text))
            except ClusterError as error:
                answers.append((node, None, str(error)))
        return answers


def _or_error(answer: VolumeReport | str) -> VolumeReport | ClusterError:
    if isinstance(answer, str):
        return NotFound(answer) if _GONE in answer else Unavailable(answer)
    return answer


def _in_short(state: ReplicatedState) -> pb.Replicated:
    return pb.Replicated(
        id=state.volume.id,
        name=state.volume.name,
        summary=summary(state),
        health=health_to_wire(judge(state)[0]),
    )


def _page(limit: int) -> int:
    return min(limit or _LONGEST_PAGE, _LONGEST_PAGE)


def _next(records: list[Record], limit: int) -> str:
    return records[-1].key if len(records) == limit else ""


def _text(value: JsonObject) -> str:
    return json.dumps(value, ensure_ascii=False)
