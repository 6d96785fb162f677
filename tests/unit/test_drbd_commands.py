"""What is made of the module's answers by whoever asked it for a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from host.command import Runner
from host.errors import CommandFailed, InUse, Refused
from replication.commands import Commands
from replication.status import DiskState, ResourceStatus, Role, VolumeStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from replication.record import Generations
    from replication.watch import Observer

UP = ResourceStatus("v1", Role.SECONDARY, frozenset(), (VolumeStatus(0, 1, DiskState.UP_TO_DATE),))


class Module(Runner):
    """A command runner whose drbdsetup is answered by a module in the states of ``answers``."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        super().__init__()
        self.answers = list(answers)

    def run(self, argv: Sequence[str], **options: Any) -> Any:
        code, said = self.answers.pop(0)
        if code:
            raise CommandFailed(argv, code, said)

    def status_of(self, name: str) -> tuple[ResourceStatus, Generations | None]:
        return UP, None


def commands(module: Module, folder: Path) -> Commands:
    observer: Observer = module  # type: ignore[assignment]
    return Commands(module, "n1", observer, folder)


PASSING = (11, "v1: State change failed: (-18) In transient state, retry after next state change")


def test_what_the_module_refuses_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    module = Module(PASSING, PASSING, (0, ""))
    commands(module, tmp_path).down("v1")
    assert module.answers == []


def test_any_other_refusal_is_told_at_once(tmp_path: Path) -> None:
    module = Module(PASSING, (11, "1: State change failed: (-12) Device is held open by someone"))
    with pytest.raises(InUse):
        commands(module, tmp_path).down("v1")


def test_a_moment_that_does_not_pass_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replication.commands._SETTLING_SECONDS", 0.0)
    with pytest.raises(Refused, match="In transient state"):
        commands(Module(*[PASSING] * 9), tmp_path).down("v1")
