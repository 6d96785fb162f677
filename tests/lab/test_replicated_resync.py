"""What people are told of a resync, which is slow enough here to be looked at."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.lab.replicated import ONE, TWO
from tests.lab.told import metric, until_told, words, xlss

if TYPE_CHECKING:
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

# The least that can be configured. What the source is given counts: DRBD hands it to its peer.
AGENT = {"resync_rate": "1MiB"}
_PROGRESS = r"n2 is brought up to date: (\d+) % of \S+ MiB at \S+ \S+/s, about \d+ s left"


def test_a_resync_is_told_with_its_progress_and_its_end(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.power_off(TWO)
    service.until_alone(ONE)
    # More than is brought up to date while it is looked at, also where each look takes seconds.
    behind = "dd if=/dev/urandom bs=1M seek=20 count=44 oflag=direct conv=notrunc status=none"
    service.node(ONE).sh(f"{behind} of={service.device}")
    service.power_on(TWO)
    first = int(until_told(service, _PROGRESS)[1])
    total = metric(service, TWO, "xlss_replica_resync_total_bytes") or 0
    done = metric(service, TWO, "xlss_replica_resync_done_bytes") or 0
    assert total >= 44 << 20 and done < total
    # Degraded is nothing that a person has to look at: its exit code is 0.
    (told,) = json.loads(xlss(service, "status", "-o", "json"))["replicated"]
    assert re.fullmatch(r"1/2, resync \d+ %", told["summary"]), told
    service.until("further", lambda: int(until_told(service, _PROGRESS)[1]) > first)
    for name in (ONE, TWO):
        service.node(name).sh(f"drbdsetup disk-options {service.minor} --c-max-rate=100M")
    service.until_in_sync()
    until_told(service, "2/2 in sync")
    assert "Every acknowledged write is on n1 and n2." in words(service)
    service.until("said", lambda: metric(service, TWO, "xlss_replica_in_sync") == 1)
    assert metric(service, TWO, "xlss_replica_resync_total_bytes") is None
    writer.wait_for(20)
    service.check()
