"""Netlink is asked for as long as it is understood, and drbdsetup from then on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from host.command import Result, Runner
from host.errors import Missing
from replication.status import Role
from replication.watch import DrbdsetupStream, FallingBack, NetlinkObserver

LINE = b"exists resource name:r0 role:Primary suspended:no write-ordering:flush\nexists -\n"


class Drbdsetup(Runner):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def run(self, argv: Sequence[str], **options: Any) -> Result:
        assert argv[:2] == ["drbdsetup", "events2"]
        self.asked += 1
        return Result(LINE, b"", 0)


def raising(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def status(_: NetlinkObserver) -> object:
        raise error

    monkeypatch.setattr(NetlinkObserver, "status", status)


def test_a_module_that_is_not_understood_is_asked_by_its_own_tool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = Drbdsetup()
    observer = FallingBack(runner)
    raising(monkeypatch, KeyError(7))
    assert observer.status()["r0"].role is Role.PRIMARY
    raising(monkeypatch, AssertionError("asked again"))
    assert observer.status_of("r0")[0] is not None
    assert runner.asked == 2
    assert isinstance(observer.events(), DrbdsetupStream)
    assert not observer.fall_back(KeyError(7))  # there is nothing further


def test_what_the_module_answers_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Drbdsetup()
    raising(monkeypatch, Missing("the module is not loaded"))
    with pytest.raises(Missing):
        FallingBack(runner).status()
    assert runner.asked == 0
