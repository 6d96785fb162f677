"""Looking after the pools: opening them, growing what fills up, activating what is not active.

Each pool has a thread of its own, so that a disk that hangs holds up its own pool only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cluster.errors import Unavailable
from host.errors import HostError
from host.lvm.pool_spec import PoolSpec
from host.lvm.pools import Pools
from node_agent.logical_volumes import LogicalVolumes

_log = logging.getLogger(__name__)
# How often LVM is asked though nothing calls for it; how full a pool is, the kernel tells for free.
_LOOK_SECONDS = 60.0


class PoolWatch:
    def __init__(
        self,
        spec: PoolSpec,
        pools: Pools,
        volumes: LogicalVolumes,
        *,
        seconds: float,
        opened: Callable[[], None],
    ) -> None:
        """``opened`` is called when the pool has come to life, before it is served from.

        ``seconds`` is the time between two looks at how full the pool is.
        """
        self.first_turn = threading.Event()
        self._spec = spec
        self._pools = pools
        self._volumes = volumes
        self._seconds = seconds
        self._opened = opened
        self._is_open = False
        self._looked = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {spec.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait: LVM may hang."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._turn():
                    self.first_turn.set()
                    self._pools.archive()
            except (HostError, Unavailable) as error:
                _log.warning("pool %s: %s", self._spec.name, error)
            except Exception:
                _log.exception("pool %s is not looked after", self._spec.name)
            self.first_turn.set()
            self._stop.wait(self._seconds)

    def _turn(self) -> bool:
        """Whether it was time for more than asking the kernel."""
        idle = time.monotonic() - self._looked < _LOOK_SECONDS
        if self._is_open and idle and not self._is_filling_up():
            return False
        self._pools.open_due()
        self._look()
        self._looked = time.monotonic()
        if not self._is_open:
            for problem in self._volumes.activate_all(self._spec.name):
                _log.error("pool %s: %s", self._spec.name, problem)
            self._opened()
            self._is_open = True
        return True

    def _look(self) -> None:
        """Look, do what has to be done, and look again only if something was. Raises Unavailable.

        A look takes LVM two reports of the whole group.
        """
        name = self._spec.name
        try:
            self._volumes.look(name)
        finally:
            status = self._volumes.status(name)
            changed = status is not None and self._pools.tend(status)
        if changed:
            self._volumes.look(name)

    def _is_filling_up(self) -> bool:
        usage = self._volumes.usage(self._spec)
        return usage is not None and max(usage.data, usage.metadata) >= self._spec.grow_at
