"""Cutting snapshots: what happens before anything is held still."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host import mount
from host.command import Runner
from host.errors import CommandStuck
from node_agent.cuts import Cuts
from node_agent.holds import Holds

DEVICE = "/dev/mapper/xlss-v1"


def test_what_hangs_is_not_waited_for_again_by_each_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(breaker_limit=1)
    top = SimpleNamespace(name="xlss-v1", device_number=os.makedev(253, 1))
    devices: Any = SimpleNamespace(top=lambda _: top, path_of=lambda _: DEVICE)
    monkeypatch.setattr(mount, "mounts_of", lambda _: [SimpleNamespace(path=str(tmp_path))])
    cuts = Cuts(Any, devices, runner, Holds(runner, tmp_path))
    source: Any = SimpleNamespace(label=SimpleNamespace(id="v1"))
    assert cuts.guard([source], 10) is not None
    runner.missed_deadline(DEVICE)
    with pytest.raises(CommandStuck, match=DEVICE):
        cuts.guard([source], 10)
