"""The locks of volumes and snapshots on a node: those of ``cluster/locks.py``."""

from __future__ import annotations

from cluster.locks import Locks

__all__ = ["Locks"]
