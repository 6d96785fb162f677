"""A replicated volume whose replicas need not be where they were made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lab.replica_states import stored_volume
from tests.lab.filesystem_check import check_filesystem
from tests.lab.replicated import ONE, OTHER, SERVING, SYNCING, TWO

if TYPE_CHECKING:
    from tests.lab.replicated import Service


def nodes(service: Service) -> tuple[str, ...]:
    return stored_volume(service.cluster, service.id).nodes


def until_two_in_sync(service: Service) -> None:
    def in_sync() -> bool:
        states = [service.drbd(name) for name in nodes(service)]
        whole = all(state is not None and state.in_sync for state in states)
        return whole and len(states) == 2 == len(service.record.members)

    service.until("in sync", in_sync, SYNCING)


def check_on(service: Service, name: str) -> None:
    """Nothing is lost there. The volume is served on that node alone, and then nowhere."""
    deadline = time.monotonic() + SERVING
    service.stop()
    for other in (ONE, TWO, OTHER):
        service.release(other, deadline)
        service.unpublish(other, deadline)
    service.serve(name)
    verdict = service.records.check(service.node(name), service.device)
    assert verdict.ok, (name, verdict, service.state())
    check_filesystem(service, name)
    service.release(name, deadline)
    service.unpublish(name, deadline)


def check_on_all(service: Service) -> None:
    for name in nodes(service):
        check_on(service, name)
