"""Work that outlasts a request: copies and wipes of whole volumes.

The first request starts the job and waits for it as long as it may; then it answers Unavailable
with the progress, and the repeated request joins the job. A job lives in this process only: what
an agent that was killed leaves is a volume in state ``filling``, and its job starts anew.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterable

from cluster.errors import Busy, Unavailable

_log = logging.getLogger(__name__)
# Told bytes done and bytes in all; raises when the job was cancelled.
Report = Callable[[int, int], None]
_CANCEL_SECONDS = 20.0
_TURN_SECONDS = 0.5  # how soon a waiting job notices that it was cancelled


class _Cancelled(Exception):
    """Ends a job from within."""


class _Job:
    def __init__(self, what: str, reads: Iterable[str], *, keep: bool) -> None:
        self.what = what
        self.reads = frozenset(reads)
        self.keep = keep
        self.done_bytes = 0
        self.total_bytes = 0
        self.started = False
        self.cancelled = False
        self.finished = threading.Event()
        self.error: Exception | None = None

    def report(self, done_bytes: int, total_bytes: int) -> None:
        self.done_bytes, self.total_bytes = done_bytes, total_bytes
        if self.cancelled:
            raise _Cancelled

    @property
    def progress(self) -> str:
        if not self.started:
            return f"{self.what}: waiting for its turn"
        return f"{self.what}: {100 * self.done_bytes // max(1, self.total_bytes)} % done"


class Jobs:
    """At most one job for each key, and a few at a time in all."""

    def __init__(self, at_once: int = 2) -> None:
        self._mutex = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._turns = threading.Semaphore(at_once)

    def join(
        self,
        key: str,
        what: str,
        work: Callable[[Report], None],
        *,
        reads: Iterable[str] = (),
        keep: bool = False,
        wait: float,
    ) -> None:
        """Start the job or join the one that is under way, and wait for it.

        ``what`` says it in errors, ``reads`` names what must not be deleted meanwhile. ``keep``:
        the work itself does not note that it is done, so that whoever asks next is told. Raises
        Unavailable with the progress after ``wait`` seconds, and what the work raised; after that
        the next call starts it anew.
        """
        with self._mutex:
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = _Job(what, reads, keep=keep)
                context = contextvars.copy_context()
                threading.Thread(
                    target=context.run,
                    args=(self._run, key, job, work),
                    name=f"job {key}",
                    daemon=True,  # a job that hangs in the kernel must not keep the agent alive
                ).start()
        self._await(key, job, wait)

    def rejoin(self, key: str, wait: float) -> bool:
        """Join the job that is under way, as ``join`` does; False when there is none."""
        with self._mutex:
            job = self._jobs.get(key)
        if job is None:
            return False
        self._await(key, job, wait)
        return True

    def running(self, key: str) -> bool:
        """Whether there is a job, or one with an end that nobody has asked for since."""
        with self._mutex:
            return key in self._jobs

    def reader_of(self, identifier: str) -> str:
        """What a job that reads it does, in words; empty when none does."""
        with self._mutex:
            for job in self._jobs.values():
                if identifier in job.reads and not job.finished.is_set():
                    return job.progress
        return ""

    def cancel(self, key: str) -> None:
        """End the job and wait until it has. Raises Busy when it does not end soon."""
        with self._mutex:
            job = self._jobs.get(key)
        if job is None:
            return
        job.cancelled = True
        if not job.finished.wait(_CANCEL_SECONDS):
            raise Busy(f"{job.what} does not stop; repeat the request later")
        self._forget(key, job)

    def cancel_all(self) -> None:
        """Tell all jobs to end, without waiting for them."""
        with self._mutex:
            for job in self._jobs.values():
                job.cancelled = True

    def _await(self, key: str, job: _Job, wait: float) -> None:
        if not job.finished.wait(wait):
            raise Unavailable(f"{job.progress}; repeat the request")
        self._forget(key, job)
        if job.cancelled:
            raise Unavailable(f"{job.what}: cancelled")
        if job.error is not None:
            raise job.error

    def _forget(self, key: str, job: _Job) -> None:
        with self._mutex:
            if self._jobs.get(key) is job:
                del self._jobs[key]

    def _await_turn(self, job: _Job) -> None:
        while not self._turns.acquire(timeout=_TURN_SECONDS):
            job.report(0, 0)

    def _run(self, key: str, job: _Job, work: Callable[[Report], None]) -> None:
        try:
            self._await_turn(job)
            job.started = True
            try:
                _log.info("%s begins", job.what)
                work(job.report)
                _log.info("%s is done", job.what)
            finally:
                self._turns.release()
            if not job.keep:
                self._forget(key, job)
        except _Cancelled:
            _log.info("%s was cancelled", job.what)
        except Exception as error:
            # Whoever asks next gets it raised; until then only the log knows.
            _log.warning("%s failed: %s", job.what, error)
            job.error = error
        finally:
            job.finished.set()
