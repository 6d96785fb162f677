"""Services behind a real gRPC server and channel on a real unix socket, for the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from node_agent.interceptors import ServerInterceptor


@contextmanager
def serving(
    directory: Path,
    *register: Callable[[grpc.Server], Any],
    interceptor: ServerInterceptor | None = None,
) -> Iterator[grpc.Channel]:
    """A channel to a server with these services, behind our interceptor."""
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, interceptors=[interceptor or ServerInterceptor()])
        for add in register:
            add(server)
        address = f"unix:{directory / 'test.sock'}"
        server.add_insecure_port(address)
        server.start()
        try:
            with grpc.insecure_channel(address) as channel:
                yield channel
        finally:
            server.stop(None).wait()


def refusal(call: Callable[[Any], Any], request: Any) -> tuple[grpc.StatusCode, str]:
    """The code and the text with which a call is refused."""
    try:
        answer = call(request)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"was not refused, but answered {answer}")
