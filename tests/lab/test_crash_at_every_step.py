"""Whatever step a process dies at, the repeated call leaves what an uninterrupted one leaves.

The calls are in ``crash_operations.py``, their steps are not listed: an uninterrupted run finds
them (see ``killed_at_step.py``), then the process is killed right before the first and right after
each of them (which is right before the next), started again, and the call is repeated, as the
sidecars and kubelet do. What the node and the store hold then is compared with what the
uninterrupted run left: logical volumes and their tags, device-mapper devices, mounts, records.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lab.deployment import Deployment, Pool
from lab.lab import Lab
from lab.paths import PYTHON
from tests.lab.calls import remains_of
from tests.lab.crash_operations import NODE, OPERATIONS, STAGING, TARGET, Operation, Scene

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

AGAIN_SECONDS = 60.0


def _again(call: Callable[[], None]) -> None:
    """Repeat a call, as sidecars and kubelet do, while it asks for it."""
    deadline = time.monotonic() + AGAIN_SECONDS
    while True:
        try:
            call()
            return
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]
            # What the provisioner places elsewhere, where it may; here is one node only.
            starting = "agent unreachable" in error.details()  # type: ignore[attr-defined]
            again = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)
            again |= code is grpc.StatusCode.RESOURCE_EXHAUSTED and starting
            if not again or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _all_of(actions: Iterable[Callable[[Scene], None]], scene: Scene) -> None:
    for action in actions:
        _again(lambda action=action: action(scene))  # type: ignore[misc]


def _run(scene: Scene, operation: Operation, step: int, when: str) -> tuple[Any, list[str]]:
    """One whole life: what there was after the call, and the steps that were passed."""
    _all_of(operation.before, scene)
    deaths = scene.deaths()
    scene.arm(step, when)
    try:
        operation.act(scene)
    except grpc.RpcError as error:
        code = error.code()  # type: ignore[attr-defined]
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED), error
    if step:
        assert scene.wait_for_death(deaths), f"step {step} {when} was not reached"
    steps = scene.disarm()
    scene.wait_for_victim()
    _again(lambda: operation.act(scene))
    operation.check(scene)
    picture = scene.picture()
    _all_of(operation.after, scene)
    return picture, steps


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, Scene]]:
    """The cluster of each victim, as long as it is sound."""
    scenes: dict[str, Scene] = {}
    yield scenes
    for scene in scenes.values():
        scene.cluster.remove()


@pytest.fixture
def scene(request: pytest.FixtureRequest, lab: Lab, scenes: dict[str, Scene]) -> Iterator[Scene]:
    """A scene in which nothing is left of the test before, also if that failed."""
    victim: str = request.param
    if victim not in scenes:
        while scenes:  # the other victim's: its turn is over, and nodes have the same name
            scenes.popitem()[1].cluster.remove()
        scenes[victim] = _build(lab, victim)
    scene = scenes[victim]
    empty = scene.picture()
    yield scene
    if scene.picture() != empty:
        scenes.pop(victim).cluster.remove()


def _build(lab: Lab, victim: str) -> Scene:
    node = lab.add_node(NODE, disks=(4 << 30,))
    cluster = Deployment(lab, [node], pools=(Pool(),), name=f"crash-{victim}")
    folder = Path("/run/steps") if victim == "node" else lab.folder / "steps"
    entry = [str(PYTHON), "-m", "tests.lab.killed_at_step", str(folder)]
    if victim == "node":
        cluster.agent_entry = entry
    else:
        cluster.controller_entry = entry
    cluster.start()
    node.run(["mkdir", "-p", STAGING, str(Path(TARGET).parent)])
    return Scene(cluster, victim, folder, iter(range(1, 1 << 30)), remains_of(node))


CASES = [
    (victim, name)
    for victim in ("node", "controller")
    for name, operation in OPERATIONS.items()
    if victim == "node" or not operation.by_kubelet
]


@pytest.mark.parametrize(("scene", "name"), CASES, indirect=["scene"])
def test_a_repeated_call_leaves_what_an_uninterrupted_one_leaves(scene: Scene, name: str) -> None:
    operation = OPERATIONS[name]
    empty = scene.picture()
    scene.made.clear()
    _all_of(operation.once, scene)
    _die_at_every_step(scene, operation)
    _all_of(operation.at_last, scene)
    assert scene.picture() == empty


def _die_at_every_step(scene: Scene, operation: Operation) -> None:
    made, empty = dict(scene.made), scene.picture()
    expected, steps = _run(scene, operation, 0, "trace")
    assert scene.picture() == empty
    if not steps:
        pytest.skip(f"it takes no step in the {scene.victim}")
    before = "nothing"
    for step, when in [(1, "before"), *((n + 1, "after") for n in range(len(steps)))]:
        if not re.search(operation.only, steps[step - 1]):
            continue
        told = f"killed {when} step {step}: {steps[step - 1]}"
        scene.made = dict(made)
        found, _ = _run(scene, operation, step, when)
        # A picture takes a second: this one also shows what was left of the run before.
        assert found == expected, f"{told}, or left of the run before it: {before}"
        before = told
    assert scene.picture() == empty, f"left of: {before}"
