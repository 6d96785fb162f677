"""The gRPC servers of both processes, each on a unix socket that only root may open."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from csi.identity import Identity
from csi.rpc import csi_pb2_grpc
from node_agent.interceptors import Observe, ServerInterceptor

# As many calls are worked on at a time; more wait. Threads are made when they are needed.
MAX_WORKERS = 32
# Most of a call's time is waiting for a node, and calls to one that hangs must not use up the
# threads for the others: the sidecars make some 130 calls at a time (the provisioner 100).
CONTROLLER_WORKERS = 160
# Probe decides whether the process is killed, so it has threads of its own.
_IDENTITY_WORKERS = 2
# unix(7): sun_path, with its final NUL.
_MAX_PATH_BYTES = 107

Register = Callable[[grpc.Server], object]


class SocketError(Exception):
    """The socket cannot be served; the text says why."""


class UnixServer:
    """A gRPC server with our interceptor on a unix socket of mode 0600."""

    def __init__(
        self,
        path: Path,
        services: Sequence[Register],
        *,
        observe: Observe | None = None,
        max_workers: int = MAX_WORKERS,
    ) -> None:
        """Bind and start to serve. Raises SocketError, also when another process serves there."""
        self._path = path
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix="csi")
        self._identity_pool = ThreadPoolExecutor(_IDENTITY_WORKERS, thread_name_prefix="identity")
        apart = {"csi.v1.Identity": self._identity_pool}
        interceptor = ServerInterceptor(observe=observe, apart=apart)
        self._server = grpc.server(self._pool, interceptors=[interceptor])
        for register in services:
            register(self._server)
        _make_way(path)
        self._bind()
        self._server.start()

    def _bind(self) -> None:
        # The mode has to be right from the moment of the creation, which is gRPC's own.
        former = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise SocketError(f"{self._path} cannot be bound: {error}") from error
        finally:
            os.umask(former)
        mode = stat.S_IMODE(self._path.stat().st_mode)
        if mode != 0o600:
            raise SocketError(f"{self._path} came out with mode {mode:o}")

    def stop(self, grace: float) -> None:
        """Take no more calls, let those under way end for ``grace`` seconds, then cancel them.

        The socket is gone from the start of this, so that a successor can make its own.
        """
        self._server.stop(grace).wait()
        for pool in (self._pool, self._identity_pool):
            pool.shutdown(wait=False, cancel_futures=True)


def serve_controller(
    path: Path,
    identity: Identity,
    controller: csi_pb2_grpc.ControllerServicer,
    group_controller: csi_pb2_grpc.GroupControllerServicer,
    *,
    others: Sequence[Register] = (),
    observe: Observe | None = None,
    max_workers: int = CONTROLLER_WORKERS,
) -> UnixServer:
    """Serve the controller's part of CSI; ``others`` add further services to the same socket.

    Raises SocketError.
    """
    services: list[Register] = [
        lambda server: csi_pb2_grpc.add_IdentityServicer_to_server(identity, server),
        lambda server: csi_pb2_grpc.add_ControllerServicer_to_server(controller, server),
        lambda server: csi_pb2_grpc.add_GroupControllerServicer_to_server(group_controller, server),
        *others,
    ]
    return UnixServer(path, services, observe=observe, max_workers=max_workers)


def serve_node(
    path: Path,
    identity: Identity,
    node: csi_pb2_grpc.NodeServicer,
    *,
    others: Sequence[Register] = (),
    observe: Observe | None = None,
    max_workers: int = MAX_WORKERS,
) -> UnixServer:
    """Serve the node's part of CSI. Raises SocketError."""
    services: list[Register] = [
        lambda server: csi_pb2_grpc.add_IdentityServicer_to_server(identity, server),
        lambda server: csi_pb2_grpc.add_NodeServicer_to_server(node, server),
        *others,
    ]
    return UnixServer(path, services, observe=observe, max_workers=max_workers)


def _make_way(path: Path) -> None:
    """Remove the socket of a process that is no more, and nothing else."""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise SocketError(f"{path} is longer than {_MAX_PATH_BYTES} bytes, too long for a socket")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"{path} cannot be served: {error}") from error
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path} is there, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SocketError(f"{path} cannot be looked at: {error}") from error
        else:
            raise SocketError(f"{path} is served by another process")
