"""When the store is compared with the nodes: again and again, and whenever somebody asks for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cluster.differences import Difference
from cluster.errors import ClusterError
from cluster.pools import PoolLedger
from cluster.reconcile import Reconciler
from cluster.store import RevisionExpired

_log = logging.getLogger(__name__)


class ReconcileLoop:
    """Runs a reconciler every ``interval_seconds``, and when it is woken, in a thread of its own.

    Nodes that do not answer are asked for their pools every ``retry_seconds``. One that comes back
    is so soon given volumes again, and what it missed is made good by a run. ``on_result`` gets
    what each run found.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        pools: PoolLedger,
        *,
        interval_seconds: float = 60.0,
        retry_seconds: float = 5.0,
        on_result: Callable[[tuple[Difference, ...]], None] = lambda _: None,
    ) -> None:
        self._reconciler = reconciler
        self._pools = pools
        self._interval_seconds = interval_seconds
        self._retry_seconds = retry_seconds
        self._on_result = on_result
        self._changed = threading.Condition()
        self._woken = False
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="reconcile", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Run as soon as possible."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def stop(self) -> None:
        """Returns when the run that may be going on has ended."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stopped:
            next_run = time.monotonic() + self._interval_seconds
            self._safely(self._run)
            while not self._wait(next_run) and not self._somebody_is_back():
                pass

    def _somebody_is_back(self) -> bool:
        before = self._pools.troubled()
        self._safely(lambda: self._pools.refresh(before))
        return not set(before) <= set(self._pools.troubled())

    def _run(self) -> None:
        self._on_result(self._reconciler.run_once())

    def _wait(self, until: float) -> bool:
        """Whether it is time for a run; False after a while, so that troubled nodes are asked."""
        with self._changed:
            left = min(until - time.monotonic(), self._retry_seconds)
            self._changed.wait_for(lambda: self._woken or self._stopped, timeout=left)
            due = self._woken or self._stopped or time.monotonic() >= until
            self._woken = False
            return due

    @staticmethod
    def _safely(step: Callable[[], object]) -> None:
        try:
            step()
        except RevisionExpired:
            _log.info("the store changed faster than it could be compared")
        except ClusterError as error:
            _log.warning("reconciliation failed: %s", error)
        except Exception:
            _log.exception("reconciliation failed")  # the loop has to live on
