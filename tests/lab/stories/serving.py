"""Calls from the host into a lab node's own Python; ``tests/lab/calls.py`` is the other side."""

from __future__ import annotations

import contextlib
import pickle
import socket
from collections.abc import Callable
from typing import Any


def serve(path: str, answer: Callable[..., Any], *failures: type[Exception]) -> None:
    """Answer calls on a unix socket, one a connection: a Python for each would take too long.

    ``answer`` is called with what was sent; what it raises of ``failures`` is told to the caller.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            ended = contextlib.suppress(EOFError, OSError)
            with ended, connection, connection.makefile("rwb") as stream:
                arguments, options = pickle.load(stream)
                try:
                    answered = "", answer(*arguments, **options)
                except failures as error:
                    answered = type(error).__name__, str(error)
                pickle.dump(answered, stream)
