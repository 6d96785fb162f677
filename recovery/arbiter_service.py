"""The arbiter's gRPC service: messages in, calls of the arbiter, messages out.

A node speaks for itself only: who it is, its certificate says. Whatever a request holds is read
whole before anything is done with it. Errors are raised as they come; the interceptor of
``node_agent/interceptors.py`` maps them to codes.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import grpc

from cluster.errors import DataLoss, InvalidArgument, Unavailable
from cluster.identifiers import Kind, is_id
from cluster.membership import Membership, bare
from cluster.model import from_json, to_json, to_object
from node_agent import tls
from node_agent.arbiter import Assignment
from node_agent.interceptors import Observe, ServerInterceptor
from node_agent.rpc import arbiter_pb2 as pb
from node_agent.rpc import arbiter_pb2_grpc as pb_grpc
from recovery.arbiter import QUESTIONS, Arbiter
from recovery.followed import Subscription
from replication.actions import Do
from replication.record import Statement

_HEARTBEAT_SECONDS = 1.0
# Of the first assignments, of which a node may have thousands.
_ASSIGNMENTS_A_MESSAGE = 256
_MAX_TEXT_BYTES = 64 << 10
# Besides the streams, each of which takes a thread for as long as it lives.
_WORKERS = 16

_T = TypeVar("_T")


class ArbiterServer:
    """Serves the arbiter over mutual TLS to the nodes of the configuration."""

    def __init__(
        self,
        arbiter: Arbiter,
        nodes: Collection[str],
        address: str,
        directory: Path,
        *,
        observe: Observe | None = None,
    ) -> None:
        """``address`` is host:port, ``directory`` has the controller's certificate.

        Raises TlsFilesError, OSError when the address cannot be served.
        """
        # A node that comes back has a second stream until the end of its first one is noticed.
        workers = 2 * len(nodes) + _WORKERS
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="arbiter")
        self._service = ArbiterService(arbiter, nodes)
        self._server = grpc.server(
            self._pool,
            interceptors=[ServerInterceptor(observe=observe, string_limit=_MAX_TEXT_BYTES)],
            options=tls.ARBITER_SERVER_OPTIONS,
        )
        pb_grpc.add_ArbiterServicer_to_server(self._service, self._server)
        credentials = tls.server_credentials(directory)
        try:
            self.port: int = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"arbiter_listen: {address} cannot be served: {error}") from error
        self._server.start()

    def stop(self, grace: float) -> None:
        """End all streams; let the calls under way end for ``grace`` seconds, then cancel them.

        Before the arbiter is stopped.
        """
        stopping = self._server.stop(grace)
        self._service.end_streams()
        stopping.wait()
        self._pool.shutdown(wait=False, cancel_futures=True)


class ArbiterService(pb_grpc.ArbiterServicer):
    def __init__(self, arbiter: Arbiter, nodes: Collection[str]) -> None:
        self._arbiter = arbiter
        self._nodes = frozenset(nodes)
        self._lock = threading.Lock()
        self._streams: set[Subscription] = set()
        self._ended = False

    def Watch(
        self, request: pb.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchResponse]:
        self._require_speaker(request.node, context)
        with self._subscribe(request.node) as subscription:
            try:
                yield from _told(subscription)
            finally:
                with self._lock:
                    self._streams.discard(subscription)

    def Ask(self, request: pb.AskRequest, context: grpc.ServicerContext) -> pb.AskResponse:
        self._require_speaker(request.node, context)
        what = _question(request.what)
        volume_id, statement = _stated(request.statement, request.node)
        noted = None
        if request.noted:
            if what is not Do.REPORT:
                raise InvalidArgument(f"noted is for {Do.REPORT} only, not for {what}")
            noted = bare(_read(Membership, request.noted, "noted"))
        answer = self._arbiter.ask(what, volume_id, statement, noted)
        return pb.AskResponse(
            granted=answer.granted,
            record=to_json(answer.held.record),
            revision=answer.held.revision,
            reason=answer.reason,
        )

    def Tell(self, request: pb.TellRequest, context: grpc.ServicerContext) -> pb.TellResponse:
        self._require_speaker(request.node, context)
        statements = dict(_stated(one, request.node) for one in request.statements)
        self._arbiter.tell(request.node, statements)
        return pb.TellResponse()

    def end_streams(self) -> None:
        """Those that are there, and any that still comes."""
        with self._lock:
            self._ended = True
            streams, self._streams = self._streams, set()
        for subscription in streams:
            subscription.end()

    def _subscribe(self, node: str) -> Subscription:
        with self._lock:
            if self._ended:
                raise Unavailable("this controller is stopping: ask another one")
            subscription = self._arbiter.followed.subscribe(node)
            self._streams.add(subscription)
            return subscription

    def _require_speaker(self, node: str, context: grpc.ServicerContext) -> None:
        """Raises PeerRefused unless the caller is that node, InvalidArgument for a strange one."""
        try:
            tls.require_node(context, node)
        except ValueError as error:
            raise InvalidArgument(f"node: {error}") from error
        if node not in self._nodes:
            raise InvalidArgument(
                f"node {node} is not in this controller's [nodes]: put it there, or take the "
                "controller out of the node's arbiters"
            )


def _told(subscription: Subscription) -> Iterator[pb.WatchResponse]:
    first = next(subscription.changes(0.0), None)
    if first is None:
        return
    assignments, gone = first
    begin = 0
    while len(assignments) - begin > _ASSIGNMENTS_A_MESSAGE:
        end = begin + _ASSIGNMENTS_A_MESSAGE
        yield _message(assignments[begin:end])
        begin = end
    yield _message(assignments[begin:], gone, complete=True)
    for assignments, gone in subscription.changes(_HEARTBEAT_SECONDS):
        yield _message(assignments, gone)


def _message(
    assignments: Sequence[Assignment], gone: Sequence[str] = (), *, complete: bool = False
) -> pb.WatchResponse:
    return pb.WatchResponse(assignments=map(_assignment, assignments), gone=gone, complete=complete)


def _assignment(assignment: Assignment) -> pb.Assignment:
    return pb.Assignment(
        volume_id=assignment.volume_id,
        record=to_json(assignment.held.record),
        revision=assignment.held.revision,
        replication=to_json(assignment.replication),
        secret=assignment.secret,
        peer="" if assignment.peer is None else to_json(assignment.peer),
        go_alone=assignment.go_alone,
        word=assignment.word,
    )


def _question(what: str) -> Do:
    try:
        found = Do(what)
    except ValueError:
        found = Do.WAIT
    if found not in QUESTIONS:
        known = ", ".join(sorted(QUESTIONS))
        raise InvalidArgument(f"what: {what[:64]!r} is no question to an arbiter ({known})")
    return found


def _stated(message: pb.Statement, node: str) -> tuple[str, Statement]:
    if not is_id(Kind.VOLUME, message.volume_id):
        shown = message.volume_id[:64]
        raise InvalidArgument(f"volume_id {shown!r} is not an identifier of this driver")
    statement = _read(Statement, message.statement, "statement")
    if statement.view.node != node:
        raise tls.PeerRefused(
            f"a node speaks for itself only: {node} states what {statement.view.node[:64]!r} sees"
        )
    return message.volume_id, statement


def _read(cls: type[_T], text: str, field: str) -> _T:
    try:
        record = from_json(cls, text)
        _require_plain(to_object(record))
    except (DataLoss, ValueError) as error:
        raise InvalidArgument(f"{field}: {str(error)[:256]}") from error
    return record


def _require_plain(value: Any) -> None:
    """Raises ValueError for texts that could not be stored, answered or shown as they are."""
    if isinstance(value, dict):
        for part in value.values():
            _require_plain(part)
    elif isinstance(value, list):
        for part in value:
            _require_plain(part)
    elif isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{value[:64]!a} has characters that cannot be printed")
