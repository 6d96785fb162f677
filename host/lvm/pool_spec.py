"""What a node's configuration says about a pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """An absolute size in bytes, or a share of the whole in percent; the other one is 0."""

    size_bytes: int = 0
    percent: int = 0

    def of(self, whole_bytes: int) -> int:
        return self.size_bytes or whole_bytes * self.percent // 100


@dataclass(frozen=True)
class PoolSpec:
    """One pool: a volume group, and at will a thin pool inside it. Fractions run from 0 to 1."""

    name: str
    volume_group: str
    devices: tuple[str, ...] = ()  # the group is made of them if it is not there; () = must exist
    thin_pool: str = ""  # "" = thick volumes only
    thin_size: Share = Share(percent=90)  # of the group, when the thin pool has to be made
    thin_metadata_bytes: int = 0  # 0 = LVM's own choice
    thin_chunk_bytes: int = 64 << 10
    overcommit: float = 1.0  # virtual bytes promised per byte of the thin pool
    grow_at: float = 0.8  # data or metadata used at which the thin pool is extended; 1 = never
    grow_by: Share = Share(percent=20)  # of the thin pool
    full_at: float = 0.95  # data or metadata used at which nothing new is created
    error_when_full: bool = True  # else writes wait a minute for room before they fail
