"""What a replicated volume is to DRBD: one model for both of its dialects.

The checks here are the only ones: whatever became a ``Resource`` may be written into a resource
file, an argument or a netlink message without quoting.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1 << 20

MAX_MINOR = (1 << 20) - 1
"""A device number has 20 bits for the minor."""

# DRBD_NODE_ID_MAX of drbd.h (DRBD 9); 8.4 has two nodes and no ids.
_MAX_NODE_ID = 31
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_DEVICE = re.compile(r"/dev/[A-Za-z0-9/._+-]{1,120}")
_ALGORITHM = re.compile(r"[a-z0-9-]{1,32}")
# SHARED_SECRET_MAX of drbd.h is 64, with the byte that ends it.
_SECRET = re.compile(r"[A-Za-z0-9+/=_-]{16,63}")


class Dialect(StrEnum):
    """The two families of DRBD that cannot read each other's files, nor talk to each other."""

    V84 = "8.4"
    V9 = "9"


@dataclass(frozen=True)
class Replica:
    """One copy: its node, its address on the replication network, its data and metadata device.

    ``node_id`` belongs to the replica for as long as the volume lives (DRBD 9 keeps it in the
    metadata of all peers).
    """

    node: str
    node_id: int
    address: str
    disk: str
    metadata_disk: str

    def __post_init__(self) -> None:
        _require(bool(_NODE.fullmatch(self.node)), "name of a node", self.node)
        _require(0 <= self.node_id <= _MAX_NODE_ID, "id of a node", self.node_id)
        _require(bool(_DEVICE.fullmatch(self.disk)), "path of a device", self.disk)
        _require(bool(_DEVICE.fullmatch(self.metadata_disk)), "path of a device", self.disk)
        _require(self.disk != self.metadata_disk, "device for metadata", self.metadata_disk)
        ipaddress.ip_address(self.address)

    @property
    def is_ipv6(self) -> bool:
        return ipaddress.ip_address(self.address).version == 6


@dataclass(frozen=True)
class Tuning:
    """What may be changed without changing what the volume is.

    ``csums_algorithm`` decides whether a block is sent at all in a resync: two different blocks
    with one digest would stay different, so it is a cryptographic one, not a checksum.
    ``discard_granularity_bytes`` is the chunk of a thin pool, 0 for thick volumes.
    """

    resync_bytes_per_second: int = 100 * MIB
    ko_count: int = 7
    csums_algorithm: str = "sha256"
    verify_algorithm: str = "sha256"
    discard_granularity_bytes: int = 0

    def __post_init__(self) -> None:
        _require(self.resync_bytes_per_second >= MIB, "rate", self.resync_bytes_per_second)
        _require(1 <= self.ko_count <= 200, "ko-count", self.ko_count)
        _require(bool(_ALGORITHM.fullmatch(self.csums_algorithm)), "digest", self.csums_algorithm)
        _require(bool(_ALGORITHM.fullmatch(self.verify_algorithm)), "digest", self.verify_algorithm)
        granularity = self.discard_granularity_bytes
        _require(0 <= granularity <= MIB and granularity % 4096 == 0, "granularity", granularity)


@dataclass(frozen=True)
class Resource:
    """A replicated volume. ``name`` is made of the volume's id; ``secret`` authenticates peers."""

    name: str
    minor: int
    port: int
    secret: str = field(repr=False)
    replicas: tuple[Replica, ...]
    dialect: Dialect = Dialect.V84
    tuning: Tuning = field(default_factory=Tuning)
    max_peers: int = 1

    def __post_init__(self) -> None:
        _require(bool(_NAME.fullmatch(self.name)), "name of a resource", self.name)
        _require(0 <= self.minor <= MAX_MINOR, "minor number", self.minor)
        _require(1 <= self.port <= 65535, "port", self.port)
        # Its text is in no error: secrets end up in no log.
        _require(bool(_SECRET.fullmatch(self.secret)), "shared secret", "(not shown)")
        _require(1 <= self.max_peers <= _MAX_NODE_ID, "number of peers", self.max_peers)
        most = 2 if self.dialect is Dialect.V84 else self.max_peers + 1
        _require(1 <= len(self.replicas) <= most, "number of replicas", len(self.replicas))
        for what in ("node", "node_id", "address"):
            values = [getattr(replica, what) for replica in self.replicas]
            _require(len(set(values)) == len(values), f"set of replicas: one {what} twice", values)

    @property
    def device(self) -> str:
        """The node of the replicated device; udev's or, without udev, the kernel's name."""
        return f"/dev/drbd{self.minor}"

    def local(self, node: str) -> Replica:
        """The replica of that node. ``ValueError`` where it has none."""
        for replica in self.replicas:
            if replica.node == node:
                return replica
        raise ValueError(f"resource {self.name} has no replica on {node}")

    def peers(self, node: str) -> tuple[Replica, ...]:
        """The replicas of the other nodes."""
        return tuple(replica for replica in self.replicas if replica.node != node)


def _require(right: bool, what: str, value: object) -> None:
    if not right:
        raise ValueError(f"not a {what}: {value!r}")
