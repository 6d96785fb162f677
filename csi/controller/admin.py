"""The admin service: what people's commands ask a running controller. Read-only.

It shows the store as it is, half-made volumes included, and asks the nodes themselves for their
state, all at the same time and none for longer than a person waits.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import grpc

from cluster.agents import Agents
from cluster.errors import ClusterError, NotFound
from cluster.identifiers import Kind, is_id, key_of_id, key_of_name
from cluster.model import volume_from_object
from cluster.reconcile import Reconciler
from cluster.store import JsonObject, Record, RecordKind, Store
from csi.rpc import admin_pb2 as pb
from csi.rpc import admin_pb2_grpc
from node_agent.version import VERSION
from node_agent.wire import pool_to_wire, volume_to_wire

_ANSWER_SECONDS = 5.0
_NODES_AT_A_TIME = 32
_LONGEST_PAGE = 1000

_Answer = TypeVar("_Answer")


class AdminService(admin_pb2_grpc.AdminServicer):
    def __init__(
        self,
        store: Store,
        agents: Agents,
        addresses: Mapping[str, str],
        reconciler: Reconciler,
    ) -> None:
        self._store = store
        self._agents = agents
        self._addresses = addresses
        self._reconciler = reconciler
        self._askers = ThreadPoolExecutor(_NODES_AT_A_TIME, thread_name_prefix="admin")

    def close(self) -> None:
        self._askers.shutdown(wait=False, cancel_futures=True)

    def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetStatusResponse:
        asked = self._ask(self._agents.names(), self._node)
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
        )

    def ListVolumes(
        self, request: pb.ListVolumesRequest, context: grpc.ServicerContext
    ) -> pb.ListVolumesResponse:
        limit = _page(request.limit)
        records, _ = self._store.list(RecordKind.VOLUME, after=request.after, limit=limit)
        return pb.ListVolumesResponse(
            volumes=[_text(record.value) for record in records], next=_next(records, limit)
        )

    def GetVolume(
        self, request: pb.GetVolumeRequest, context: grpc.ServicerContext
    ) -> pb.GetVolumeResponse:
        record = self._volume_record(request.volume)
        volume = volume_from_object(record.value)
        nodes = [
            pb.NodeVolume(node=name, trouble=trouble, volume=answer)
            for name, answer, trouble in self._ask(
                volume.nodes,
                lambda node: volume_to_wire(self._agents.agent(node).get_volume(volume.id)),
            )
        ]
        return pb.GetVolumeResponse(volume=_text(record.value), nodes=nodes)

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

    def _node(self, name: str) -> pb.Node:
        inventory = self._agents.agent(name).inventory()
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


def _page(limit: int) -> int:
    return min(limit or _LONGEST_PAGE, _LONGEST_PAGE)


def _next(records: list[Record], limit: int) -> str:
    return records[-1].key if len(records) == limit else ""


def _text(value: JsonObject) -> str:
    return json.dumps(value, ensure_ascii=False)
