"""The arbiter over gRPC, from a node: whichever of the configured controllers answers.

A stream from one controller brings the node's assignments. As long as it lives that controller is
asked and told; once it is lost there are no assignments, and the next controller's turn comes.
Whatever has been stated is told again there, since it may know nothing of it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cluster.errors import ClusterError, DataLoss, Unavailable
from cluster.membership import Held, Membership
from cluster.model import Replication, from_json, to_json
from node_agent import tls
from node_agent.arbiter import Answer, Assignment
from node_agent.interceptors import Observe, ObservedChannel
from node_agent.rpc import arbiter_pb2 as pb
from node_agent.rpc import arbiter_pb2_grpc as pb_grpc
from replication.actions import Do
from replication.record import Statement

_log = logging.getLogger(__name__)

# A stream brings something every second.
_DEAD_SECONDS = 5.0
_ASK_SECONDS = 10.0
# A node that has said nothing for 3 seconds counts as silent (recovery/failover.py): a call that
# gets no answer has to be given up in time for another one.
_TELL_SECONDS = 1.5
_BEAT_SECONDS = 1.0
_FIRST_RETRY_SECONDS = 0.2
_LAST_RETRY_SECONDS = 2.0
# A request has room for 1 MiB; a statement has some 700 bytes.
_STATEMENTS_A_CALL = 256


@dataclass(frozen=True, eq=False)
class _Link:
    """The way to one controller. Made and closed by the thread that watches, and only by it."""

    address: str
    version: tuple[int, ...]  # of the certificate that it was made with
    channel: ObservedChannel
    stub: Any  # pb_grpc.ArbiterStub


class ArbiterClient:
    """``node_agent.arbiter.Arbiter``. Thread safe."""

    def __init__(
        self,
        node: str,
        addresses: Sequence[str],
        directory: Path,
        *,
        observe: Observe | None = None,
    ) -> None:
        """``addresses`` are host:port, at least one; ``directory`` has the node's certificate."""
        self._node = node
        self._addresses = tuple(addresses)
        self._directory = directory
        self._options: dict[str, Any] = {} if observe is None else {"observe": observe}
        self._changed = threading.Condition()
        self._present: Mapping[str, Assignment] | None = None
        self._link: _Link | None = None  # that of the assignments
        self._stream: Any = None  # the call that is being read
        self._stream_version: tuple[int, ...] = ()
        self._alive_at = 0.0  # time.monotonic() of its last message, or of its beginning
        self._cancelled = ""  # why the guard has ended it
        self._trouble = "none has answered yet"
        self._complaints: dict[str, str] = {}  # by what is done, and where: each is logged once
        self._newest: dict[str, Statement] = {}
        self._due: dict[str, None] = {}  # volumes whose newest statement is to be told
        self._callbacks: list[Callable[[], None]] = []
        self._stopped = False
        self._threads = [
            threading.Thread(target=work, name=f"arbiter-{name}", daemon=True)
            for name, work in (("watch", self._watch), ("guard", self._guard), ("tell", self._tell))
        ]

    def start(self) -> None:
        """Begin to look for a controller. Once; it is not waited for."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all calls. Then there are no assignments, and nobody to ask."""
        with self._changed:
            self._stopped = True
            if self._stream is not None:
                self._stream.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join()

    # node_agent.arbiter.Arbiter

    def assignments(self) -> Mapping[str, Assignment] | None:
        with self._changed:
            return self._present

    def ask(
        self, what: Do, volume_id: str, statement: Statement, noted: Membership | None = None
    ) -> Answer:
        with self._changed:
            link, trouble = self._link, self._trouble
        if link is None:
            raise Unavailable(f"no controller of {', '.join(self._addresses)} answers: {trouble}")
        request = pb.AskRequest(
            node=self._node,
            what=what.value,
            statement=_statement(volume_id, statement),
            noted=to_json(noted) if noted is not None and what is Do.REPORT else "",
        )
        answer = link.stub.Ask(request, timeout=_ASK_SECONDS)
        try:
            record = from_json(Membership, answer.record)
        except DataLoss as error:
            raise Unavailable(f"arbiter {link.address}: its answer: {error}") from error
        return Answer(answer.granted, Held(record, answer.revision), answer.reason)

    def tell(self, volume_id: str, statement: Statement) -> None:
        with self._changed:
            if self._present is not None and volume_id not in self._present:
                return  # gone meanwhile
            if self._newest.get(volume_id) != statement:
                self._newest[volume_id] = statement
                self._due[volume_id] = None
                self._changed.notify_all()

    def notify(self, changed: Callable[[], None]) -> None:
        with self._changed:
            self._callbacks.append(changed)

    # The stream

    def _watch(self) -> None:
        delay = _FIRST_RETRY_SECONDS
        for address in itertools.cycle(self._addresses):
            answered = self._try(address)
            delay = _FIRST_RETRY_SECONDS if answered else min(2 * delay, _LAST_RETRY_SECONDS)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, delay)
                if self._stopped:
                    return

    def _try(self, address: str) -> bool:
        """Follow that controller until it is lost. Returns whether it had told all assignments."""
        try:
            link = self._connect(address)
        except tls.TlsFilesError as error:
            self._lost(address, str(error))
            return False
        except Exception as error:
            _log.exception("arbiter %s cannot be called", address)
            self._lost(address, type(error).__name__)
            return False
        try:
            return self._follow(link)
        finally:
            link.channel.close()

    def _connect(self, address: str) -> _Link:
        """Raises TlsFilesError. Nothing is sent yet."""
        version = tls.version(self._directory)
        channel = ObservedChannel(
            tls.controller_channel(address, self._directory),
            f"arbiter {address}",
            deadline=_ASK_SECONDS,
            **self._options,
        )
        return _Link(address, version, channel, pb_grpc.ArbiterStub(channel))

    def _follow(self, link: _Link) -> bool:
        complete = False
        why = "it has ended the stream: it is stopping, or this node has begun another one"
        found: dict[str, Assignment] = {}
        try:
            stream = link.stub.Watch(pb.WatchRequest(node=self._node))
            with self._changed:
                self._stream, self._stream_version = stream, link.version
                self._alive_at, self._cancelled = time.monotonic(), ""
                if self._stopped:
                    stream.cancel()
                self._changed.notify_all()
            for message in stream:
                found = _changed_by(found, message)
                complete = complete or message.complete
                self._take(link, found if complete else None, changed=not _is_empty(message))
        except grpc.RpcError as error:
            # Of a stream it is also a grpc.Call.
            why = self._cancelled or error.details() or error.code().name
        except Exception as error:
            # Whatever it is, the next stream may go better; without one nothing is decided here.
            _log.exception("arbiter %s: what it told could not be taken", link.address)
            why = type(error).__name__
        finally:
            self._lost(link.address, why)
        return complete

    def _take(self, link: _Link, found: dict[str, Assignment] | None, *, changed: bool) -> None:
        """A message has come; ``found``: all assignments with it, once they are complete."""
        with self._changed:
            self._alive_at = time.monotonic()
            if found is None or not changed:
                return
            if self._link is not link:
                self._link = link
                self._complaints.clear()
                _log.info("arbiter %s: %d volumes are assigned", link.address, len(found))
                # It may be another one than before, or one that has forgotten everything.
                self._newest = {one: s for one, s in self._newest.items() if one in found}
                self._due = dict.fromkeys(self._newest)
            for volume_id in self._newest.keys() - found.keys():
                del self._newest[volume_id]
                self._due.pop(volume_id, None)
            self._present = found
            self._changed.notify_all()
        self._notify()

    def _lost(self, address: str, why: str) -> None:
        with self._changed:
            had = self._present is not None
            self._stream, self._link, self._present = None, None, None
            self._trouble = f"{address}: {why}"
        self._complain(f"arbiter {address}", why)
        if had:
            self._notify()

    def _complain(self, where: str, why: str) -> None:
        with self._changed:
            if self._stopped or self._complaints.get(where) == why:
                return
            self._complaints[where] = why
        _log.warning("%s: %s", where, why)

    def _notify(self) -> None:
        with self._changed:
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback()

    def _guard(self) -> None:
        """Ends a stream that brings nothing any more, or was begun with a former certificate."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._stopped, _BEAT_SECONDS):
                    return
                stream, version = self._stream, self._stream_version
                silent = time.monotonic() - self._alive_at > _DEAD_SECONDS
            if stream is None:
                continue
            if silent:
                self._cancel(stream, f"it has sent nothing for {_DEAD_SECONDS:.0f} seconds")
            elif self._renewed(version):
                self._cancel(stream, "this node's certificate was replaced")

    def _cancel(self, stream: Any, why: str) -> None:
        with self._changed:
            if self._stream is stream:
                self._cancelled = why
                stream.cancel()

    def _renewed(self, version: tuple[int, ...]) -> bool:
        if tls.version(self._directory) == version:
            return False
        try:
            tls.load(self._directory)
        except tls.TlsFilesError:
            return False  # half replaced: the present connection serves on
        return True

    # What is told

    def _tell(self) -> None:
        """Hands statements on, and something every second, by which a controller sees us live."""
        beat_at = 0.0
        size = _STATEMENTS_A_CALL
        failed = False
        while (link := self._wait_to_tell(beat_at, also_before=not failed)) is not None:
            with self._changed:
                # After a failure a heartbeat comes first: whatever was wrong with a statement, the
                # controller hears that the node lives.
                batch = [] if failed else list(itertools.islice(self._due, size))
                statements = [_statement(one, self._newest[one]) for one in batch]
                for volume_id in batch:
                    del self._due[volume_id]
                if not self._due:
                    size = _STATEMENTS_A_CALL
            beat_at = time.monotonic() + _BEAT_SECONDS
            error = self._told(link, statements)
            failed = error is not None
            if failed and batch:
                # One that is refused must not keep others from being told: from now on one by one.
                size = size if isinstance(error, Unavailable) else 1
                with self._changed:
                    again = [one for one in batch if one in self._newest]
                    self._due.update(dict.fromkeys(again))

    def _wait_to_tell(self, beat_at: float, *, also_before: bool) -> _Link | None:
        """Until it is time, or there is something to tell. None at the end."""
        with self._changed:
            while not self._stopped:
                left = beat_at - time.monotonic()
                if self._link is None:
                    self._changed.wait()
                elif left <= 0 or (self._due and also_before):
                    return self._link
                else:
                    self._changed.wait(left)
        return None

    def _told(self, link: _Link, statements: Sequence[pb.Statement]) -> ClusterError | None:
        request = pb.TellRequest(node=self._node, statements=statements)
        try:
            link.stub.Tell(request, timeout=_TELL_SECONDS)
        except ClusterError as error:
            self._complain("what this node sees could not be told", str(error))
            return error
        return None


def _statement(volume_id: str, statement: Statement) -> pb.Statement:
    return pb.Statement(volume_id=volume_id, statement=to_json(statement))


def _is_empty(message: pb.WatchResponse) -> bool:
    return not (message.assignments or message.gone or message.complete)


def _changed_by(former: dict[str, Assignment], message: pb.WatchResponse) -> dict[str, Assignment]:
    """All assignments with what the message brings. One that cannot be understood is left out."""
    if _is_empty(message):
        return former
    found = dict(former)
    for volume_id in message.gone:
        found.pop(volume_id, None)
    for one in message.assignments:
        try:
            found[one.volume_id] = _assignment(one)
        except DataLoss as error:
            found.pop(one.volume_id, None)
            _log.error("volume %s: its assignment is not understood: %s", one.volume_id, error)
    return found


def _assignment(message: pb.Assignment) -> Assignment:
    return Assignment(
        message.volume_id,
        Held(from_json(Membership, message.record), message.revision),
        from_json(Replication, message.replication),
        message.secret,
        from_json(Statement, message.peer) if message.peer else None,
        message.go_alone,
        message.word,
    )
