"""The id of the request that a thread works for: in every log line, and passed on to agents.

Apart from the interceptors, so that logs can be had before gRPC is loaded.
"""

from __future__ import annotations

import contextvars
import os

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def current_request_id() -> str:
    """The id of the request that this thread works for; empty outside of any.

    A thread that works for a request of another one has to be started in a copy of its context
    (``contextvars.copy_context().run``).
    """
    return request_id.get()


def new_request_id() -> str:
    return os.urandom(8).hex()
