"""Calls into a Python that stays in a lab node (``tests/lab/stories/serving.py``)."""

from __future__ import annotations

import pickle
import socket
import time
from typing import TYPE_CHECKING, Any

from lab.paths import PYTHON

if TYPE_CHECKING:
    from lab.node import Node

_STARTING_SECONDS = 60.0
_CALL_SECONDS = 120.0
_REMAINS = "/run/remains.sock"


class Failed(Exception):
    """What a call raised in the node; ``kind``: the name of its class."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {text}")


class Calls:
    """``code`` ends in a call of ``serve`` on the socket; started anew after a boot."""

    def __init__(self, node: Node, code: str, path: str) -> None:
        self._node = node
        self._code = code
        self._path = path
        self._serving = 0

    def call(self, *arguments: object, **options: object) -> Any:
        """Raises Failed."""
        if self._serving != self._node.boots:
            self._serve()
        host, port = self._node.grpc_target(self._path).split(":")
        connection = socket.create_connection((host, int(port)), _CALL_SECONDS)
        with connection, connection.makefile("rwb") as stream:
            pickle.dump((arguments, options), stream)
            stream.flush()
            failure, value = pickle.load(stream)
        if failure:
            raise Failed(failure, value)
        return value

    def _serve(self) -> None:
        self._node.spawn([str(PYTHON), "-c", self._code], log="/run/calls.log")
        until = time.monotonic() + _STARTING_SECONDS
        while self._node.run(["test", "-S", self._path], check=False).returncode != 0:
            assert time.monotonic() < until, self._node.get("/run/calls.log")
            time.sleep(0.1)
        self._serving = self._node.boots


def remains_of(node: Node) -> Calls:
    """Calls that tell what is left in this node, with the volume group vg0 on its disks."""
    disks = [node.device(number) for number, disk in enumerate(node.disks) if disk is not None]
    call = f"serve_remains({_REMAINS!r}, 'vg0', {disks!r})"
    return Calls(node, f"from tests.lab.stories.remains import serve_remains; {call}", _REMAINS)
