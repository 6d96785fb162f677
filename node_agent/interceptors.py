"""What surrounds every call of every service of ours: request id, log, metrics and errors.

Services raise domain errors and know nothing of gRPC's codes. The server's interceptor reads and
checks the request, runs the service, and turns what it raises into a code and a text by the table
of ``status_codes.py``. What nobody raised on purpose is logged with its traceback, and the caller
only learns under which id to look for it.

The client's channel passes the id of the request on, gives every call a deadline, and raises the
domain error that the answer stands for. One id thus runs from the CSI call over the agent to
the command.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message

from cluster.errors import InvalidArgument, Unavailable
from node_agent.messages import MAX_STRING_BYTES, check_bounds, loggable
from node_agent.request_id import current_request_id, new_request_id, request_id
from node_agent.status_codes import code_of, error_of

_LOGGER = logging.getLogger(__name__)
_METADATA_KEY = "x-request-id"
_SILENCE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# The status travels in HTTP/2 headers, where a byte can become three ("%C3"). gRPC refuses headers
# of more than 8 KiB, and does so at random up to 16 KiB.
_MAX_ERROR_BYTES = 2000
# Called every few seconds by sidecars, the kubelet and agents, and of no interest afterwards.
_QUIET = frozenset(
    {
        "Probe",
        "GetPluginInfo",
        "GetPluginCapabilities",
        "ControllerGetCapabilities",
        "GroupControllerGetCapabilities",
        "NodeGetCapabilities",
        "NodeGetVolumeStats",
        "GetCapacity",
        "Tell",
    }
)

# Called after each call with service and method ("csi.v1.Node/NodeStageVolume"), the name of the
# code ("OK") and the seconds that it took.
Observe = Callable[[str, str, float], None]
# Raises PeerRefused for a caller that may not call.
Authorize = Callable[[grpc.ServicerContext], None]

_Result = TypeVar("_Result")
_END = object()
_NOTHING_APART: Mapping[str, ThreadPoolExecutor] = MappingProxyType({})


def _observe_nothing(method: str, code: str, seconds: float) -> None:
    """The default of both interceptors: no metrics."""


class _Call:
    """One call under way at the server."""

    def __init__(
        self,
        method: str,
        context: grpc.ServicerContext,
        observe: Observe,
        authorize: Authorize | None,
    ) -> None:
        self._method = method
        self._name = method.rpartition("/")[2]
        self._context = context
        self._observe = observe
        self._authorize = authorize
        self._started = time.monotonic()
        self._variables = contextvars.copy_context()
        self._variables.run(request_id.set, _id_from(context))

    def step(self, work: Callable[[], _Result]) -> _Result:
        """Do a part of the call with its request id; end the call if that raises."""
        try:
            return self._variables.run(work)
        except Exception as error:
            self._variables.run(self._abort, error)

    def authorize(self) -> None:
        if self._authorize:
            self._authorize(self._context)

    def log_request(self, request: Any) -> None:
        level = self._level()
        if _LOGGER.isEnabledFor(level) and isinstance(request, Message):
            fields = {"call": self._method, "arguments": loggable(request)}
            _LOGGER.log(level, "%s begins", self._name, extra=fields)

    def finish(self, code: grpc.StatusCode) -> None:
        """Log and count the end of a call that raised nothing."""
        self._variables.run(self._end, code)

    def _end(self, code: grpc.StatusCode, error: str = "", *, unexpected: bool = False) -> None:
        seconds = time.monotonic() - self._started
        fields: dict[str, Any] = {
            "call": self._method,
            "code": code.name,
            "seconds": round(seconds, 6),
        }
        if error:
            fields["error"] = error
        level = self._level() if code is grpc.StatusCode.OK else logging.INFO
        if unexpected:
            level = logging.ERROR
        text = "%s ends: %s"
        _LOGGER.log(level, text, self._name, code.name, extra=fields, exc_info=unexpected)
        self._observe(self._method, code.name, seconds)

    def _level(self) -> int:
        return logging.DEBUG if self._name in _QUIET else logging.INFO

    def _abort(self, error: Exception) -> NoReturn:
        # So that the caller can tell an answer of ours from one that gRPC gave in our place.
        self._context.set_trailing_metadata(((_METADATA_KEY, current_request_id()),))
        code = code_of(error)
        if code is not None:
            text = _bounded(str(error))
            self._end(code, text)
            self._context.abort(code, text)
        if isinstance(error, NotImplementedError):  # raised by the generated base class
            text = f"{self._name} is not served"
            self._end(grpc.StatusCode.UNIMPLEMENTED, text)
            self._context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
        # Runs while the exception is being handled, so that the log gets its traceback.
        self._end(grpc.StatusCode.INTERNAL, type(error).__name__, unexpected=True)
        self._context.abort(
            grpc.StatusCode.INTERNAL,
            f"an error of the driver itself; its log has it under request {current_request_id()}",
        )


class ServerInterceptor(grpc.ServerInterceptor):
    """The interceptor of all our servers."""

    def __init__(
        self,
        *,
        observe: Observe | None = None,
        authorize: Authorize | None = None,
        string_limit: int = MAX_STRING_BYTES,
        apart: Mapping[str, ThreadPoolExecutor] = _NOTHING_APART,
    ) -> None:
        """``string_limit`` is in bytes, for each text of a request that is not in a map.

        ``apart`` has threads of their own for services ("csi.v1.Identity"): their calls are
        answered however many calls of other services hang.
        """
        self._apart = apart
        self._observe = observe or _observe_nothing
        self._authorize = authorize
        self._string_limit = string_limit

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method.removeprefix("/")
        if handler.response_streaming:
            stream = self._streaming(method, handler)
            if handler.request_streaming:
                return grpc.stream_stream_rpc_method_handler(stream)
            return grpc.unary_stream_rpc_method_handler(stream)
        single: Any = self._single(method, handler)
        if threads := self._apart.get(method.rpartition("/")[0]):
            # What gRPC looks for on a handler before it takes the threads of the whole server.
            single.experimental_thread_pool = threads
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(single)
        return grpc.unary_unary_rpc_method_handler(single)

    def _single(self, method: str, handler: Any) -> Callable[[Any, grpc.ServicerContext], bytes]:
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary

        def answer(raw: Any, context: grpc.ServicerContext) -> bytes:
            call = _Call(method, context, self._observe, self._authorize)

            def work() -> bytes:
                call.authorize()
                return _encode(handler, behaviour(self._request(call, handler, raw), context))

            response = call.step(work)
            call.finish(grpc.StatusCode.OK)
            return response

        return answer

    def _streaming(
        self, method: str, handler: Any
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream

        def answer(raw: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            call = _Call(method, context, self._observe, self._authorize)

            def begin() -> Iterator[Any]:
                call.authorize()
                return iter(behaviour(self._request(call, handler, raw), context))

            responses = call.step(begin)

            def following() -> Any:
                response = next(responses, _END)
                return response if response is _END else _encode(handler, response)

            try:
                while (response := call.step(following)) is not _END:
                    yield cast(bytes, response)
            except GeneratorExit:
                call.finish(grpc.StatusCode.CANCELLED)
                raise
            call.finish(grpc.StatusCode.OK)

        return answer

    def _request(self, call: _Call, handler: Any, raw: Any) -> Any:
        """Read what came over the wire, here rather than in gRPC, which would answer INTERNAL."""

        def read(part: bytes) -> Any:
            try:
                request = handler.request_deserializer(part)
            except (DecodeError, ValueError) as error:
                raise InvalidArgument("the request is not a valid message of its type") from error
            call.log_request(request)
            check_bounds(request, self._string_limit)
            return request

        return map(read, raw) if handler.request_streaming else read(raw)


def _encode(handler: Any, response: Any) -> bytes:
    return cast(bytes, handler.response_serializer(response))


def _id_from(context: grpc.ServicerContext) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == _METADATA_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return new_request_id()


def _bounded(text: str) -> str:
    """Text that can travel in a status: not too long, and without halves of surrogate pairs."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= _MAX_ERROR_BYTES:
        return encoded.decode()
    return f"{encoded[:_MAX_ERROR_BYTES].decode(errors='ignore')}… ({len(encoded)} bytes)"


class ObservedChannel:
    """A channel for the generated stubs whose calls return their answer or raise a ClusterError.

    It stands in for ``grpc.intercept_channel``, which asks the channel for a handle at each call
    and with that crashes the process (grpcio 1.85) when the channel was closed in between.
    Calls with streams are left to whoever makes them.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        peer: str,
        *,
        deadline: float,
        observe: Observe | None = None,
        silent: Callable[[], None] = lambda: None,
    ) -> None:
        """``peer`` is what error texts call the other side.

        ``deadline``, in seconds, is for the calls that are made without a timeout. ``silent`` is
        called after each call that the peer itself has not answered.
        """
        self._channel = channel
        self._peer = peer
        self._deadline = deadline
        self._observe = observe or _observe_nothing
        self._silent = silent

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
        """What a stub asks for each method; named and called as that of ``grpc.Channel``."""
        call = self._channel.unary_unary(method, *arguments, **options)
        return functools.partial(self._call, method.removeprefix("/"), call)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
        """That of the channel: its errors are gRPC's own, and it has no deadline."""
        return cast(Callable[..., Any], self._channel.unary_stream(method, *arguments, **options))

    def close(self) -> None:
        self._channel.close()

    def _call(
        self, method: str, call: Callable[..., Any], request: Any, timeout: float | None = None
    ) -> Any:
        """Raises the errors of ``cluster/errors.py``; Unavailable when there was no answer."""
        started = time.monotonic()
        code = grpc.StatusCode.OK
        try:
            return call(
                request,
                timeout=self._deadline if timeout is None else timeout,
                metadata=[(_METADATA_KEY, current_request_id() or new_request_id())],
            )
        except grpc.RpcError as error:
            # What a call raises is also a grpc.Call, which its declared type does not say.
            answer = cast(grpc.Call, error)
            code = answer.code()
            if code in _SILENCE and _METADATA_KEY not in dict(answer.trailing_metadata() or ()):
                self._silent()
            raise error_of(code, f"{self._peer}: {answer.details() or code.name}") from error
        except ValueError as error:  # the channel was closed
            code = grpc.StatusCode.CANCELLED
            raise Unavailable(f"{self._peer}: {error}") from error
        finally:
            seconds = time.monotonic() - started
            self._observe(method, code.name, seconds)
            fields = {
                "call": method,
                "peer": self._peer,
                "code": code.name,
                "seconds": round(seconds, 6),
            }
            name = method.rpartition("/")[2]
            _LOGGER.debug("%s called: %s", name, code.name, extra=fields)
