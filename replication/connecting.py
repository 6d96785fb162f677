"""The netlink requests that make a connection: sent by a child, its input holds the secret.

drbdadm and drbdsetup would put the shared secret into arguments, which every process of the machine
can read. And the kernel may hold a request for long: a child can be given up, a thread cannot.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from host.command import Runner
from replication import addresses
from replication.model import Dialect, Replica, Resource
from replication.netlink import attribute, nest, pack_u32
from replication.resource_file import (
    CONNECT_SECONDS,
    HMAC_ALGORITHM,
    PING_SECONDS,
    PING_TIMEOUT_TENTHS,
    TIMEOUT_TENTHS,
)

_PACKAGES = str(Path(__file__).resolve().parent.parent)
_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from replication import netlink; netlink.carry_out(sys.stdin.read())"
)

# linux/drbd_genl.h: commands, top-level attributes, fields.
_CONNECT, _NEW_PEER, _NEW_PATH = 10, 44, 45
_CONTEXT, _NET_CONF, _PATH = 2, 5, 28
_RESOURCE_NAME, _MY_ADDRESS, _PEER_ADDRESS, _PEER_NODE_ID = 2, 3, 4, 6
_SECRET, _HMAC, _VERIFY, _CSUMS = 1, 2, 4, 5
_PROTOCOL, _CONNECT_INT, _TIMEOUT, _PING_INT, _PING_TIMEOUT = 6, 7, 8, 9, 10
_KO_COUNT, _FENCING, _PEER_NAME = 13, 30, 31
_AFTER_SB = (17, 18, 19)
_RR_CONFLICT = 20
_PROTOCOL_C, _DISCONNECT, _RESOURCE_AND_STONITH = 3, 0, 2


@dataclass(frozen=True)
class Request:
    """One administrative command. ``settled``: results that say that it is so already."""

    command: int
    payload: bytes
    settled: tuple[int, ...] = ()


# enum drbd_ret_code of linux/drbd.h
_NET_CONFIGURED, _ALREADY_EXISTS = 125, 174


def requests(resource: Resource, local: Replica, peer: Replica) -> Iterator[Request]:
    """What makes the connection from ``local`` to ``peer``, in its order."""
    name = attribute(_RESOURCE_NAME, resource.name.encode() + b"\0")
    mine = addresses.pack(local.address, resource.port)
    theirs = addresses.pack(peer.address, resource.port)
    if resource.dialect is Dialect.V84:
        ends = attribute(_MY_ADDRESS, mine) + attribute(_PEER_ADDRESS, theirs)
        yield Request(_CONNECT, nest(_CONTEXT, name, ends) + _net_conf(resource, peer))
        return
    context = nest(_CONTEXT, attribute(_PEER_NODE_ID, pack_u32(peer.node_id)), name)
    settled = (_NET_CONFIGURED, _ALREADY_EXISTS)
    yield Request(_NEW_PEER, context + _net_conf(resource, peer), settled)
    path = nest(_PATH, attribute(1, mine), attribute(2, theirs))
    yield Request(_NEW_PATH, context + path, settled)
    yield Request(_CONNECT, context, settled)


def connect(
    runner: Runner, resource: Resource, local: Replica, peer: Replica, *, deadline: float
) -> None:
    """Send the requests. Raises ``CommandFailed`` with the module's result in its text.

    InUse and Missing where DRBD could not listen.
    """
    if resource.dialect is Dialect.V84:  # DRBD 9 listens once for all connections of a resource
        addresses.require_free(local.address, resource.port)
    made = [
        {"command": one.command, "payload": one.payload.hex(), "settled": one.settled}
        for one in requests(resource, local, peer)
    ]
    argv = [sys.executable, "-I", "-S", "-c", _CHILD, _PACKAGES]
    runner.run(argv, deadline=deadline, input=json.dumps(made).encode(), resource=resource.device)


def _net_conf(resource: Resource, peer: Replica) -> bytes:
    numbers = {
        _PROTOCOL: _PROTOCOL_C,
        _CONNECT_INT: CONNECT_SECONDS,
        _TIMEOUT: TIMEOUT_TENTHS,
        _PING_INT: PING_SECONDS,
        _PING_TIMEOUT: PING_TIMEOUT_TENTHS,
        _KO_COUNT: resource.tuning.ko_count,
        **dict.fromkeys((*_AFTER_SB, _RR_CONFLICT), _DISCONNECT),
    }
    texts = {
        _SECRET: resource.secret,
        _HMAC: HMAC_ALGORITHM,
        _VERIFY: resource.tuning.verify_algorithm,
        _CSUMS: resource.tuning.csums_algorithm,
    }
    if resource.dialect is Dialect.V9:
        numbers[_FENCING] = _RESOURCE_AND_STONITH
        texts[_PEER_NAME] = peer.node
    return nest(
        _NET_CONF,
        *(attribute(number, pack_u32(value)) for number, value in numbers.items()),
        *(attribute(number, value.encode() + b"\0") for number, value in texts.items()),
    )
