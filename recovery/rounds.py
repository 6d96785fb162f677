"""Something that is looked after again and again, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Rounds:
    """Calls ``look`` every ``interval_seconds``, at first after one.

    ``name`` is the thread's; ``complaint`` is logged with what a look has raised.
    """

    def __init__(
        self, name: str, look: Callable[[], object], interval_seconds: float, complaint: str
    ) -> None:
        self._look = look
        self._interval_seconds = interval_seconds
        self._complaint = complaint
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopped(self) -> bool:
        """For a look that takes long: it had better end."""
        return self._stopped.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the look that is under way. Also when they never began."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            try:
                self._look()
            except Exception:
                # Whatever it is, the next look may go better; without any nothing is looked after.
                _log.exception("%s", self._complaint)
