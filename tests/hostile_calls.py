"""Send hostile requests through a real channel, and judge the answers alike everywhere."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given

from node_agent.logs import LogFormat, set_up_logging
from node_agent.request_id import current_request_id
from tests.hostile_messages import SECRET, Vocabulary, examples, requests, swept

CALL_SECONDS = 30.0
# Codes that say "this was not foreseen" or "this takes for ever", on a cluster where all is well.
FORBIDDEN = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


@dataclass(frozen=True)
class Answer:
    code: grpc.StatusCode
    text: str = ""
    message: Any = None

    @property
    def ok(self) -> bool:
        return self.code is grpc.StatusCode.OK


def send(channel: grpc.Channel, method: MethodDescriptor, request: Message | bytes) -> Answer:
    """Make a call; bytes are sent as they are, whether or not they are a message.

    Of a stream the first message is the answer.
    """
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=bytes,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        message = call(raw, timeout=CALL_SECONDS)
        if method.server_streaming:
            stream, message = message, next(message)
            stream.cancel()
        return Answer(grpc.StatusCode.OK, message=message)
    except grpc.RpcError as error:
        failed = cast(grpc.Call, error)
        return Answer(failed.code(), failed.details() or "")


def hold_against_drawn(
    method: MethodDescriptor,
    vocabulary: Vocabulary,
    good: Sequence[Message],
    count: int,
    hold_against: Callable[[Message], object],
) -> None:
    """So many requests of a call, made up or bent from good ones."""
    assert not method.input_type.fields or good, "a call without a good request"

    @examples(count)
    @given(requests(method, vocabulary, good))
    def hold(request: Message) -> None:
        hold_against(request)

    hold()


def hold_against_swept(
    good: Callable[[], Sequence[Message]], hold_against: Callable[[Message], object]
) -> None:
    """Each good request with each of its parts made hostile.

    ``good`` is asked anew each time: identifiers change when something was deleted.
    """
    for number in range(len(good())):
        for request in swept(good()[number]):
            hold_against(request)


def judge(answer: Answer, *meant: grpc.StatusCode) -> None:
    """An answer that was meant, in words for people, and that gives no secret away.

    ``meant``: codes that are forbidden elsewhere.
    """
    assert answer.code not in FORBIDDEN.difference(meant), f"{answer.code}: {answer.text}"
    shown = f"{answer.text} {answer.message or ''}"
    assert SECRET not in shown
    assert "Traceback" not in shown
    if not answer.ok:
        assert answer.text.strip(), f"{answer.code} says nothing"
        # gRPC's own complaints about a message or a header that is too long for it.
        assert "metadata size exceeds" not in answer.text
        assert "larger than max" not in answer.text


@contextmanager
def whole_log() -> Iterator[io.StringIO]:
    """All that this process logs, as the driver writes it, from the lowest level up."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    set_up_logging(LogFormat.JSON, "debug", current_request_id, stream)
    yield stream
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def judge_log(log: str) -> None:
    """Nothing surprised the driver, and no secret was logged."""
    assert SECRET not in log, _around(log, SECRET)
    assert "Traceback" not in log, _around(log, "Traceback", 2000)


def _around(log: str, word: str, after: int = 200) -> str:
    place = log.index(word)
    return log[max(place - 600, 0) : place + after]
