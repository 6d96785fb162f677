"""Whatever step an agent or the controller dies at, a replicated volume loses and leaves nothing.

A volume's whole life is lived again and again. In the n-th life the victim dies, in each of the
operations, at the n-th step that it takes from the operation's begin on: all its steps count, also
those of the membership loop, which runs beside the calls and is not the same each time. So this
ends with the life in which no operation has an n-th step any more. Odd lives die before the step
and even ones after it, which is before the next: between two steps nothing is changed.

After each death the victim is started again and the call repeated, as Kubernetes does, until it
succeeds; then everything has to come to rest with the data that were written before.

All of that takes hours. Without XLSS_EVERY_STEP=1 a kind of volume is drawn, a life in which nobody
dies has its steps counted, and a few lives are drawn, with a victim and a step of its own for each
operation: their seed is printed, and XLSS_SEED gives it. XLSS_LIVES is how many.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from lab.deployment import Deployment, Pool
from lab.lab import Lab
from lab.node import MIB
from lab.replica_states import stored
from tests.lab.calls import remains_of
from tests.lab.crashing import CONTROLLER, Assassin
from tests.lab.replicated import ONE, SIZE, TWO, Service

EVERY_STEP = bool(os.environ.get("XLSS_EVERY_STEP"))
SEED = int(os.environ.get("XLSS_SEED") or random.SystemRandom().randrange(1 << 32))
# A death at a random step of each of twelve operations. A third of all steps, of which there are
# hundreds, would take far longer than all other tests together.
LIVES = int(os.environ.get("XLSS_LIVES") or 1)
pytestmark = [pytest.mark.lab, pytest.mark.timeout(36000 if EVERY_STEP else 900 + 600 * LIVES)]
MORE_STEPS = 400
# What is left of a half-made volume is removed in the background.
LEAVING_SECONDS = 30.0
KINDS: dict[str, dict[str, str]] = {
    "thin ext4": {"filesystem": "ext4"},
    "thick block": {"provision": "thick"},
}


_OURS = ("vol-", "meta-", "snap-")


@dataclass
class Life:
    """One volume, from its making to its end."""

    cluster: Deployment
    assassin: Assassin
    roles: Mapping[str, tuple[str, ...]]  # who is armed in which operation
    options: dict[str, str]
    name: str
    made: Service | None = None
    cut: str = ""  # identifier of its snapshot
    copy: Service | None = None  # restored of that
    deaths: list[str] = field(default_factory=list)

    @property
    def service(self) -> Service:
        assert self.made is not None
        return self.made


SERVER, PEER = "server", "peer"
ROLES = (SERVER, PEER, CONTROLLER)


@dataclass(frozen=True)
class Operation:
    """``act`` is what the victim dies in, and repeated by itself; ``before`` it nobody dies.

    ``server`` is the node that serves, or is to serve; ``peer`` the other one, "" if it is off.
    """

    act: Callable[[Life], object]
    rest: Callable[[Life], None]
    before: Callable[[Life], None] = lambda life: None
    server: str = ONE
    peer: str = TWO

    def victim(self, role: str) -> str:
        return {SERVER: self.server, PEER: self.peer}.get(role, role)


def _create(life: Life) -> None:
    life.made = Service(life.cluster, name=life.name, **life.options)  # type: ignore[arg-type]


def _write(life: Life) -> None:
    service = life.service
    assert service.writer is None
    writer = service.writer = service.records.start(service.node(ONE), service.device)
    writer.wait_for(30)


def _expand(life: Life) -> None:
    service = life.service
    service.repeat("expand it", lambda: life.cluster.controller().expand(service.id, 2 * SIZE))
    path = service.device.removesuffix("/records")
    service.repeat(
        "expand what is in it",
        lambda: life.cluster.node(ONE).expand(service.id, path, 2 * SIZE, staging=service.staging),
    )


def _snapshot(life: Life) -> None:
    service = life.service

    def cut() -> None:
        life.cut = life.cluster.controller().snapshot(service.id, life.name).snapshot_id

    service.repeat("cut it", cut)


def _restore(life: Life) -> None:
    source = {"snapshot": life.cut}
    life.copy = Service(life.cluster, name=f"{life.name}-copy", source=source, **life.options)  # type: ignore[arg-type]


def _discard(life: Life) -> None:
    assert life.copy is not None
    life.copy.delete()
    controller = life.cluster.controller()
    life.service.repeat("delete its snapshot", lambda: controller.delete_snapshot(life.cut))


def _replicas(count: int) -> Callable[[Life], None]:
    def change(life: Life) -> None:
        service, controller = life.service, life.cluster.controller()
        service.repeat(
            f"give it {count} replicas",
            lambda: controller.modify(service.id, replicas=str(count)),
        )
        if count == 2:
            service.learn_minor()

    return change


def _power_on(life: Life) -> None:
    life.cluster.wait_for_agent(ONE)
    life.service.until_in_sync()


def _boot(life: Life) -> None:
    """Its agent is started, armed, by `_run`."""
    life.cluster.nodes[ONE].start()


def _in_use(node: str, *, both: bool = True) -> Callable[[Life], None]:
    def rest(life: Life) -> None:
        service = life.service
        if both:
            service.until_in_sync()
        service.until(f"primary on {node}", lambda: service.role(node) == "Primary")
        if service.writer is not None:
            service.writer.wait_for(10)

    return rest


def _plain(life: Life) -> None:
    service = life.service
    service.until("without DRBD", lambda: all(service.drbd(n) is None for n in (ONE, TWO)))
    assert service.writer is not None
    service.writer.wait_for(10)


def _unused(life: Life) -> None:
    service = life.service
    service.until_in_sync()
    service.until("no primary", lambda: {service.role(n) for n in (ONE, TWO)} == {"Secondary"})


def _gone(life: Life) -> None:
    """What is left is looked at after each life."""


# In this order; each goes on from where the one before it came to rest.
OPERATIONS = {
    "create": Operation(_create, _unused),
    "serve": Operation(lambda life: life.service.serve(ONE), _in_use(ONE)),
    "snapshot": Operation(_snapshot, _in_use(ONE), before=_write),
    "restore": Operation(_restore, _in_use(ONE)),
    "discard": Operation(_discard, _in_use(ONE)),
    "expand": Operation(_expand, _in_use(ONE)),
    "to one": Operation(_replicas(1), _plain),
    "to two": Operation(_replicas(2), _in_use(ONE)),
    "fail over": Operation(
        lambda life: life.service.fail_over(TWO),
        _in_use(TWO, both=False),
        before=lambda life: life.service.power_off(ONE),
        server=TWO,
        peer="",
    ),
    "return": Operation(_power_on, _in_use(TWO), before=_boot, server=TWO, peer=ONE),
    "withdraw": Operation(
        lambda life: life.service.withdraw(),
        _unused,
        before=lambda life: life.service.stop(),
        server=TWO,
        peer=ONE,
    ),
    "check": Operation(lambda life: life.service.check(), lambda life: None, peer=""),
    "delete": Operation(lambda life: life.service.delete(), _gone),
}
UNHARMED = ("check",)


def _run(life: Life, name: str, step: int, when: str) -> dict[str, int]:
    """One operation; returns how many steps those took who were armed, by their roles."""
    operation = OPERATIONS[name]
    operation.before(life)
    roles = {role: operation.victim(role) for role in life.roles.get(name, ())}
    armed = {role: victim for role, victim in roles.items() if victim and name not in UNHARMED}
    life.assassin.arm(armed.values(), step, when)
    if operation.before is _boot:
        life.cluster.spawn_agent(ONE)
    operation.act(life)
    operation.rest(life)
    taken = {role: life.assassin.steps(victim) for role, victim in armed.items()}
    for role, victim in armed.items():
        passed = taken[role]
        if life.assassin.disarm(victim, dying=0 < step <= len(passed)):
            life.deaths.append(f"{name}: {victim} {when} {passed[step - 1]}")
            if victim == CONTROLLER:
                life.cluster.wait_for_controller()
            else:
                life.cluster.wait_for_agent(victim)
            operation.rest(life)
    return {role: len(passed) for role, passed in taken.items()}


class Scene:
    """Two nodes and a controller, all of whose steps can be counted."""

    def __init__(self, lab: Lab) -> None:
        nodes = lab.add_nodes((ONE, TWO), disks=(1024 * MIB,), memory=384 * MIB)
        # Thick replicas grow in what the thin pool leaves.
        pools = (Pool(settings={"thin_size": "50%"}),)
        self.cluster = Deployment(
            lab,
            nodes,
            pools=pools,
            # What a deletion leaves on a node that did not answer, this removes.
            controller={"reconcile_seconds": 2.0},
            replication=True,
            name="crashes",
        )
        self.assassin = Assassin(lab, self.cluster)
        self.cluster.start()
        self._remains = {node.name: remains_of(node) for node in nodes}
        self.lives = 0

    def close(self) -> None:
        self.cluster.remove()

    def left(self) -> dict[str, Any]:
        """Everything that a life could leave behind."""
        found: dict[str, Any] = {"records": stored(self.cluster)}
        for name, remains in self._remains.items():
            node = self.cluster.nodes[name]
            seen = remains.call()
            state = self.cluster.folder / "state" / name
            of_node: dict[str, Any] = {
                "volumes": [v[0] for v in seen["logical volumes"] if v[0].startswith(_OURS)],
                "devices": [one for one in seen["devices"] if one[0].startswith("xlss-")],
                "mounts": seen["mounts"],
                "replicas": node.sh("grep cs: /proc/drbd | grep -v Unconfigured || true").text,
                "files": node.sh("find /run/xlss/drbd -type f || true").text,
                "notes": sorted(str(path) for path in state.rglob("*.json")),
            }
            found |= {f"{name} {key}": value for key, value in of_node.items()}
        return found

    def live(
        self, roles: Mapping[str, tuple[str, ...]], kind: str, steps: dict[str, int], when: str
    ) -> dict[str, dict[str, int]]:
        """One life; returns how many steps each role took in each operation.

        Raises with all its deaths.
        """
        self.lives += 1
        life = Life(self.cluster, self.assassin, roles, KINDS[kind], f"life-{self.lives}")
        taken: dict[str, dict[str, int]] = {role: {} for role in ROLES}
        doing = ""
        before = self.left()
        try:
            for doing in OPERATIONS:
                for role, count in _run(life, doing, steps.get(doing, 0), when).items():
                    taken[role][doing] = count
        except Exception as error:
            error.add_note(f"in {doing!r} of {roles}, {kind}, seed {SEED}: {when} {steps}")
            error.add_note(f"died before: {life.deaths}")
            raise
        told = f"seed {SEED}, {when} {steps}, died: {life.deaths}"
        sys.stdout.write(f"{told}\n")
        until = time.monotonic() + LEAVING_SECONDS
        while (left := self.left()) != before:
            differing = [(key, left[key], was) for key, was in before.items() if left[key] != was]
            assert time.monotonic() < until, f"{told}, left: {differing}"
            time.sleep(1.0)
        return taken


@pytest.fixture(scope="module")
def scene(lab: Lab) -> Iterator[Scene]:
    scene = Scene(lab)
    yield scene
    scene.close()


@dataclass(frozen=True)
class Counted:
    """A kind of volume, and the steps of a life of it in which nobody dies."""

    kind: str
    steps: dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def counted(scene: Scene) -> Counted:
    kind = random.Random(SEED).choice(sorted(KINDS))
    return Counted(kind, scene.live(dict.fromkeys(OPERATIONS, ROLES), kind, {}, "trace"))


@pytest.mark.skipif(EVERY_STEP, reason="XLSS_EVERY_STEP takes all steps in turn instead")
def test_a_death_at_any_step_loses_and_leaves_nothing(scene: Scene, counted: Counted) -> None:
    draw = random.Random(SEED)
    for _ in range(LIVES):
        roles: dict[str, tuple[str, ...]] = {}
        steps: dict[str, int] = {}
        for name in OPERATIONS:
            able = [role for role in ROLES if counted.steps[role].get(name)]
            if able:
                role = draw.choice(able)
                roles[name], steps[name] = (role,), draw.randint(1, counted.steps[role][name])
        scene.live(roles, counted.kind, steps, draw.choice(("before", "after")))


@pytest.mark.skipif(not EVERY_STEP, reason="takes hours; XLSS_EVERY_STEP=1 asks for it")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ROLES)
def test_no_step_is_one_to_die_at(scene: Scene, role: str, kind: str) -> None:
    roles = dict.fromkeys(OPERATIONS, (role,))
    for n in range(1, MORE_STEPS):
        steps = dict.fromkeys(OPERATIONS, n)
        before = scene.live(roles, kind, steps, "before")[role]
        after = scene.live(roles, kind, steps, "after")[role]
        if max(*before.values(), *after.values()) < n:
            return
    raise AssertionError(f"there is no end to the steps: {MORE_STEPS}")
