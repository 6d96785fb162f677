"""Who is killed at which step: what arms ``killed_at_step.py`` in the processes of a deployment."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab.paths import PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lab.deployment import Deployment
    from lab.lab import Lab

CONTROLLER = "controller"
_IN_NODES = Path("/run/steps")
_DYING_SECONDS = 3.0


class Assassin:
    """Of processes: the controller, or the agent of a node, by its name."""

    def __init__(self, lab: Lab, cluster: Deployment) -> None:
        """Before the deployment is started."""
        self._cluster = cluster
        self._on_host = lab.folder / "steps"
        self._armed = 0
        entry = [str(PYTHON), "-m", "tests.lab.killed_at_step"]
        cluster.agent_entry = [*entry, str(_IN_NODES)]
        cluster.controller_entry = [*entry, str(self._on_host)]

    def arm(self, victims: Iterable[str], step: int, when: str) -> None:
        """``when``: "before" or "after" that step from now; step 0 and "trace" kill nobody."""
        self._armed += 1
        for victim in victims:
            for name in ("steps", "deaths"):
                self._put(victim, name, "")
            self._put(victim, "arm", f"{self._armed} {step} {when}")

    def steps(self, victim: str) -> list[str]:
        """What the victim has passed since it was armed, which was the last time of all."""
        mine = f"{self._armed} "
        lines = self._get(victim, "steps").splitlines()
        return [line.removeprefix(mine) for line in lines if line.startswith(mine)]

    def disarm(self, victim: str, *, dying: bool) -> bool:
        """Whether it has died. ``dying``: the last step's "after" may come when it has answered."""
        deadline = time.monotonic() + (_DYING_SECONDS if dying else 0.0)
        while not self._get(victim, "deaths") and time.monotonic() < deadline:
            time.sleep(0.1)
        self._put(victim, "arm", "")
        return bool(self._get(victim, "deaths"))

    def _put(self, victim: str, name: str, text: str) -> None:
        if victim == CONTROLLER:
            (self._on_host / name).write_text(text)
        else:
            self._cluster.nodes[victim].put(f"{_IN_NODES}/{name}", text.encode())

    def _get(self, victim: str, name: str) -> str:
        if victim == CONTROLLER:
            return (self._on_host / name).read_text()
        return self._cluster.nodes[victim].get(f"{_IN_NODES}/{name}").decode()
