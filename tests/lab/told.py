"""What people are told of a replicated volume: by `xlss`, and by the metrics of its nodes."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from lab.errors import LabError
from lab.paths import PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.replicated import Service

PATIENCE = 90.0
_BETWEEN = 1.0  # a command takes half a second of a processor
_METRICS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:9812/metrics", timeout=10).read().decode())
"""


def xlss(service: Service, *arguments: str) -> str:
    """What the command printed. LabError, with all that it said, where it failed."""
    return service.cluster.xlss(*arguments, "--socket", str(service.cluster.socket))


def insist(service: Service, *arguments: str) -> str:
    """The command, repeated until it succeeds."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return xlss(service, *arguments)
        except LabError as error:
            assert time.monotonic() < until, (error, service.state())
            time.sleep(_BETWEEN)


def words(service: Service) -> str:
    """What `xlss volume show` prints for people, in one line."""
    return " ".join(xlss(service, "volume", "show", service.id).split())


def until_told(service: Service, pattern: str) -> re.Match[str]:
    """Until `words` has something like that."""
    until = time.monotonic() + PATIENCE
    while (found := re.search(pattern, told := words(service))) is None:
        assert time.monotonic() < until, (pattern, told, service.state())
        time.sleep(_BETWEEN)
    return found


def shown(service: Service) -> dict[str, Any]:
    """The same for scripts."""
    text = xlss(service, "volume", "show", service.id, "-o", "json")
    found: dict[str, Any] = json.loads(text)
    return found


def until_shown(service: Service, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE
    while not right(found := shown(service)):
        assert time.monotonic() < until, (found, service.state())
        time.sleep(_BETWEEN)
    return found


def replica(found: dict[str, Any], node: str) -> dict[str, Any]:
    (report,) = [one["report"] for one in found["nodes"] if one["node"] == node]
    told: dict[str, Any] = report["replica"]
    return told


def summary(found: dict[str, Any]) -> str:
    return str(found["replication"]["state"]["summary"])


def metrics(service: Service, node: str) -> str:
    """All that the node's agent serves for Prometheus."""
    text: str = service.node(node).run([str(PYTHON), "-c", _METRICS]).text
    return text


def metric(service: Service, node: str, name: str) -> float | None:
    """One of the volume's own; None where it is not there."""
    line = rf'^{name}{{volume="{service.id}"}} (\S+)$'
    found = re.search(line, metrics(service, node), re.MULTILINE)
    return None if found is None else float(found[1])
