"""What Kubernetes does around a volume, over CSI: calls that are repeated until they succeed.

For the demo and the benchmarks; the volumes are raw devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import grpc

from csi.rpc import csi_pb2 as pb
from lab.csi_client import block, on
from lab.errors import LabError
from lab.replica_states import membership

if TYPE_CHECKING:
    from lab.deployment import Deployment
    from lab.node import Node

_FOLDER = "/var/lib/kubelet"
_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.05
_T = TypeVar("_T")


class Orchestrator:
    """Over one cluster. What does not succeed in two minutes raises the last error."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.controller = deployment.controller()

    def node(self, name: str) -> Node:
        return self.deployment.nodes[name]

    def create(self, name: str, size: int, *, at: str = "", **parameters: str) -> pb.Volume:
        """`size` in bytes, `parameters` of the class; `at`: the node that its pod is meant for."""
        preferred = [on(at)] if at else []
        return _repeat(
            lambda: self.controller.create(
                name, size, capability=block(), parameters=parameters, preferred=preferred
            )
        )

    def serve(self, volume: pb.Volume, name: str) -> str:
        """Publish, stage and publish it on that node; returns the path of its device there."""
        staging, target = _paths(volume)
        self.node(name).run(["mkdir", "-p", _FOLDER])
        agent = self.deployment.node(name)
        _repeat(lambda: self.controller.publish(volume.volume_id, name, block()))
        _repeat(lambda: agent.stage(volume, staging, block()))
        _repeat(lambda: agent.publish(volume, staging, target, block()))
        return target

    def withdraw(self, volume: pb.Volume, name: str) -> None:
        """The orderly end of `serve`."""
        staging, target = _paths(volume)
        agent = self.deployment.node(name)
        _repeat(lambda: agent.unpublish(volume.volume_id, target))
        _repeat(lambda: agent.unstage(volume.volume_id, staging))
        _repeat(lambda: self.controller.unpublish(volume.volume_id, name))

    def fail_over(self, volume: pb.Volume, dead: str, name: str) -> str:
        """`dead` is taken for dead: the volume is served on `name`. As `serve` otherwise."""
        _repeat(lambda: self.controller.unpublish(volume.volume_id, dead))
        return self.serve(volume, name)

    def delete(self, volume: pb.Volume) -> None:
        _repeat(lambda: self.controller.delete(volume.volume_id))

    def until_in_sync(self, volume: pb.Volume) -> None:
        """Until both replicas are in the in-sync set. Raises LabError."""

        def why_not() -> str:
            members = membership(self.deployment, volume.volume_id).members
            return f"only {members} is in sync" if len(members) < 2 else ""

        until(why_not)


def until(why_not: Callable[[], str]) -> None:
    """Until there is no reason any more. Raises LabError with the last one."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while reason := why_not():
        if time.monotonic() > deadline:
            raise LabError(f"{reason} after {_PATIENCE_SECONDS:g} s")
        time.sleep(0.1)


def _paths(volume: pb.Volume) -> tuple[str, str]:
    return f"{_FOLDER}/staging-{volume.volume_id}", f"{_FOLDER}/pod-{volume.volume_id}"


def _repeat(call: Callable[[], _T]) -> _T:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call()
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
