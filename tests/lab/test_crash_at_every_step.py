"""Whatever step a process dies at, the repeated call leaves what an uninterrupted one leaves.

The steps are not listed here: an uninterrupted run finds them (see ``killed_at_step.py``), then
the process is killed right before the first and right after each of them (which is right before
the next), started again, and the call is repeated, as the sidecars and kubelet do. What the node
and the store hold then is compared with what the uninterrupted run left: logical volumes and their
tags, device-mapper devices, mounts, records.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi.rpc import csi_pb2 as pb
from lab.csi_client import ControllerClient, NodeClient, block, mount
from lab.deployment import Deployment, Pool
from lab.lab import Lab
from lab.node import Node
from lab.paths import PYTHON
from tests.lab.calls import Calls

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

MIB = 1 << 20
SIZE = 64 * MIB
STAGING, TARGET = "/var/lib/kubelet/staging/v", "/var/lib/kubelet/pods/p/v"
NODE = "n1"
REMAINS = "/run/remains.sock"
AGAIN_SECONDS = 60.0
DYING_SECONDS = 10.0


@dataclass
class Scene:
    """One cluster of one node, in which one process may be killed at a chosen step."""

    cluster: Deployment
    victim: str  # "node" or "controller"
    folder: Path  # where the victim counts its steps: in the node, or on the host
    names: Iterator[int]
    remains: Calls
    armed: int = 0
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def controller(self) -> ControllerClient:
        return self.cluster.controller()

    @property
    def kubelet(self) -> NodeClient:
        return self.cluster.node(NODE)

    @property
    def node(self) -> Node:
        return self.cluster.nodes[NODE]

    # The victim

    def _put(self, name: str, text: str) -> None:
        if self.victim == "node":
            self.node.put(f"{self.folder}/{name}", text.encode())
        else:
            (self.folder / name).write_text(text)

    def _lines(self, name: str) -> list[str]:
        if self.victim == "node":
            return self.node.get(f"{self.folder}/{name}").decode().splitlines()
        return (self.folder / name).read_text().splitlines()

    def arm(self, step: int, when: str) -> None:
        self.armed += 1
        self._put("steps", "")
        self._put("arm", f"{self.armed} {step} {when}")

    def disarm(self) -> list[str]:
        """The steps that were passed."""
        self._put("arm", "")
        mine = f"{self.armed} "
        return [line.removeprefix(mine) for line in self._lines("steps") if line.startswith(mine)]

    def deaths(self) -> int:
        return len(self._lines("deaths"))

    def wait_for_death(self, before: int) -> bool:
        """The last step's "after" may come when the call has been answered already."""
        deadline = time.monotonic() + DYING_SECONDS
        while self.deaths() == before:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def wait_for_victim(self) -> None:
        if self.victim == "node":
            self.cluster.wait_for_agent(NODE)
        else:
            self.cluster.wait_for_controller()

    # What is there

    def picture(self) -> dict[str, Any]:
        """Everything that a crash could leave behind, with identifiers made comparable."""
        found = self.remains.call()
        records = [
            f"{len(entry.status.published_node_ids)} published {entry.volume.capacity_bytes}"
            for entry in self.controller.volumes()
        ]
        return {
            "logical volumes": Counter(_comparable("|".join(v)) for v in found["logical volumes"]),
            # The devices of the thin pool itself come and go with LVM's activation.
            "devices": Counter(
                (_comparable(name), suspended)
                for name, suspended in found["devices"]
                if suspended or not name.startswith("vg0-thin")
            ),
            "mounts": Counter(" ".join(_comparable(line).split()[3:6]) for line in found["mounts"]),
            "paths": found["paths"],
            "volumes": Counter(records),
            "snapshots": len(self.controller.snapshots()),
        }


def _comparable(line: str) -> str:
    line = re.sub(r"xlss\.z?record\.[^,|]*,?", "", line)
    line = re.sub(r"\b([vsg])[0-9a-f]{28}\b", r"<\1>", line)
    line = re.sub(r"253:\d+", "253:N", line)
    return line.strip().rstrip(",")


@dataclass(frozen=True)
class Operation:
    """`act` is the call that is interrupted; `before` and `after` are not.

    `once` and `at_last` are made once for all steps. `by_kubelet`: the controller has no part in
    the call. `only`: a pattern of the steps to die at, where others are those of another operation.
    """

    act: Callable[[Scene], None]
    before: tuple[Callable[[Scene], None], ...] = ()
    after: tuple[Callable[[Scene], None], ...] = ()
    check: Callable[[Scene], None] = lambda scene: None
    once: tuple[Callable[[Scene], None], ...] = ()
    at_last: tuple[Callable[[Scene], None], ...] = ()
    by_kubelet: bool = False
    only: str = ""


def _create(key: str = "volume", size: int = SIZE, **options: Any) -> Callable[[Scene], None]:
    def create(scene: Scene) -> None:
        name = scene.made.setdefault(f"{key} name", f"{key}-{next(scene.names)}")
        sources = {kind: scene.made[source] for kind, source in options.items() if kind in _SOURCES}
        settings = {kind: value for kind, value in options.items() if kind not in _SOURCES}
        scene.made[key] = scene.controller.create(
            name, size, **settings, **{kind: _id(made) for kind, made in sources.items()}
        )

    return create


_SOURCES = ("snapshot", "clone")


def _id(made: Any) -> str:
    return str(getattr(made, "snapshot_id", None) or made.volume_id)


def _delete(key: str = "volume") -> Callable[[Scene], None]:
    return lambda scene: scene.controller.delete(scene.made[key].volume_id)


def _publish(scene: Scene) -> None:
    scene.controller.publish(scene.made["volume"].volume_id, NODE, scene.made.get("capability"))


def _unpublish(scene: Scene) -> None:
    scene.controller.unpublish(scene.made["volume"].volume_id, NODE)


def _stage(scene: Scene) -> None:
    secrets = scene.made.get("secrets")
    scene.kubelet.stage(
        scene.made["volume"], STAGING, scene.made.get("capability"), secrets=secrets
    )


def _unstage(scene: Scene) -> None:
    scene.kubelet.unstage(scene.made["volume"].volume_id, STAGING)


def _node_publish(scene: Scene) -> None:
    scene.kubelet.publish(scene.made["volume"], STAGING, TARGET, scene.made.get("capability"))


def _node_unpublish(scene: Scene) -> None:
    scene.kubelet.unpublish(scene.made["volume"].volume_id, TARGET)


def _snapshot(scene: Scene) -> None:
    name = scene.made.setdefault("snapshot name", f"snapshot-{next(scene.names)}")
    scene.made["snapshot"] = scene.controller.snapshot(scene.made["volume"].volume_id, name)


def _delete_snapshot(scene: Scene) -> None:
    scene.controller.delete_snapshot(scene.made["snapshot"].snapshot_id)


def _expand(scene: Scene) -> None:
    scene.controller.expand(scene.made["volume"].volume_id, 2 * SIZE)


def _node_expand(scene: Scene) -> None:
    volume_id = scene.made["volume"].volume_id
    scene.kubelet.expand(volume_id, TARGET, 2 * SIZE, staging=STAGING)


def _write(scene: Scene) -> None:
    scene.node.sh(f"seq 100000 >{TARGET}/numbers; sync -f {TARGET}/numbers")


def _numbers_are_there(scene: Scene) -> None:
    assert scene.node.sh(f"seq 100000 | cmp - {TARGET}/numbers && echo same").text == "same"


def _holds_the_numbers(key: str) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        volume: pb.Volume = scene.made[key]
        path = f"{STAGING}-{key}"
        scene.node.run(["mkdir", "-p", path])
        scene.controller.publish(volume.volume_id, NODE)
        scene.kubelet.stage(volume, path)
        text = scene.node.sh(f"seq 100000 | cmp - {path}/numbers && echo same").text
        scene.kubelet.unstage(volume.volume_id, path)
        scene.controller.unpublish(volume.volume_id, NODE)
        scene.node.run(["rmdir", path])
        assert text == "same"

    return check


def _modify(scene: Scene) -> None:
    scene.controller.modify(scene.made["volume"].volume_id, readIops="500")


def _soil(scene: Scene) -> None:
    """What a deleted neighbour has left."""
    scene.node.sh(f"lvcreate -q -y -Zn -L {4 * SIZE}b -n former vg0")
    scene.node.sh("tr '\\0' x </dev/zero | dd of=/dev/vg0/former bs=1M status=none || true")
    scene.node.sh("lvremove -q -y vg0/former")


def _what_is_new_is_empty(scene: Scene) -> None:
    _node_expand(scene)
    scene.node.sh(f"cmp -n {2 * SIZE} {TARGET} /dev/zero")


def _use_block(scene: Scene) -> None:
    scene.made["capability"] = block()


def _use_key(scene: Scene) -> None:
    scene.made["secrets"] = {"encryptionKey": "correct horse"}


def _encrypted_is_empty(scene: Scene) -> None:
    source = scene.node.run(["findmnt", "-no", "SOURCE", STAGING]).text
    assert "xlss-crypt-" in source
    assert scene.node.run(["ls", STAGING]).text == "lost+found"


COPY = f"{STAGING}-copy"


def _publish_copy(scene: Scene) -> None:
    scene.controller.publish(scene.made["copy"].volume_id, NODE)


def _stage_copy(scene: Scene) -> None:
    scene.kubelet.stage(scene.made["copy"], COPY)


def _delete_copy(scene: Scene) -> None:
    volume_id = scene.made["copy"].volume_id
    scene.kubelet.unstage(volume_id, COPY)
    scene.controller.unpublish(volume_id, NODE)
    scene.controller.delete(volume_id)
    scene.node.sh(f"if [ -e {COPY} ]; then rmdir {COPY}; fi")


def _copy_holds_the_numbers(scene: Scene) -> None:
    assert scene.node.sh(f"seq 100000 | cmp - {COPY}/numbers && echo same").text == "same"


def _copy_has_grown(scene: Scene) -> None:
    _copy_holds_the_numbers(scene)
    size = scene.node.run(["stat", "-fc", "%b * %S", COPY]).text
    blocks, block_bytes = map(int, size.split(" * "))
    assert blocks * block_bytes > 1.5 * SIZE


_SERVED = (_publish, _stage, _node_publish)
_RELEASED = (_node_unpublish, _unstage, _unpublish)
_ENCRYPTED = {"parameters": {"encryption": "luks2"}}
# The smallest btrfs is one of 109 MiB (mkfs.btrfs(8)).
_BTRFS = {"size": 128 * MIB, "capability": mount("btrfs")}
_THICK = {"parameters": {"provision": "thick"}}

OPERATIONS = {
    "create thin": Operation(_create(), after=(_delete(),)),
    "create thick": Operation(_create(**_THICK), after=(_delete(),)),
    "create thick block": Operation(_create(**_THICK, capability=block()), after=(_delete(),)),
    "delete thin": Operation(_delete(), before=(_create(),)),
    "delete thick": Operation(_delete(), before=(_create(**_THICK),)),
    "publish": Operation(_publish, before=(_create(),), after=(_unpublish, _delete())),
    "unpublish": Operation(_unpublish, before=(_create(), _publish), after=(_delete(),)),
    "modify": Operation(_modify, before=(_create(),), after=(_delete(),)),
    "stage ext4": Operation(
        _stage,
        before=(_create(), _publish),
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
    ),
    "stage thick xfs": Operation(
        _stage,
        before=(
            lambda scene: scene.made.update(capability=mount("xfs")),
            lambda scene: scene.made.update(
                volume=scene.controller.create(
                    f"xfs-{next(scene.names)}", 320 * MIB, capability=mount("xfs"), **_THICK
                )
            ),
            _publish,
        ),
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
    ),
    "stage block": Operation(
        _stage,
        before=(_use_block, _create(capability=block()), _publish),
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
    ),
    "stage encrypted": Operation(
        _stage,
        before=(_use_key, _create(**_ENCRYPTED), _publish),
        check=_encrypted_is_empty,
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
        # Each staging derives the key twice, which takes a node's time.
        only="luksFormat|ioctl.* xlss-crypt-|mkfs",
    ),
    "stage clone beside its source": Operation(
        _stage_copy,
        once=(_create(**_BTRFS), *_SERVED, _write),
        before=(_create("copy", clone="volume", **_BTRFS), _publish_copy),
        check=_copy_holds_the_numbers,
        after=(_delete_copy,),
        at_last=(*_RELEASED, _delete()),
        by_kubelet=True,
    ),
    "stage restored and larger": Operation(
        _stage_copy,
        once=(_create(), *_SERVED, _write, _snapshot),
        before=(_create("copy", size=2 * SIZE, snapshot="snapshot"), _publish_copy),
        check=_copy_has_grown,
        after=(_delete_copy,),
        at_last=(_delete_snapshot, *_RELEASED, _delete()),
        by_kubelet=True,
    ),
    "unstage": Operation(
        _unstage,
        before=(_create(), _publish, _stage),
        after=(_unpublish, _delete()),
        by_kubelet=True,
    ),
    "node publish": Operation(
        _node_publish,
        before=(_create(), _publish, _stage),
        after=(*_RELEASED, _delete()),
        by_kubelet=True,
    ),
    "node unpublish": Operation(
        _node_unpublish,
        before=(_create(), *_SERVED),
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
    ),
    "expand mounted": Operation(
        _expand,
        before=(_create(), *_SERVED, _write),
        check=_numbers_are_there,
        after=(*_RELEASED, _delete()),
    ),
    "expand thick block": Operation(
        _expand,
        before=(_use_block, _soil, _create(capability=block(), **_THICK), *_SERVED),
        check=_what_is_new_is_empty,
        after=(*_RELEASED, _delete()),
    ),
    "node expand": Operation(
        _node_expand,
        before=(_create(), *_SERVED, _write, _expand),
        check=_numbers_are_there,
        after=(*_RELEASED, _delete()),
        by_kubelet=True,
    ),
    "snapshot mounted thin": Operation(
        _snapshot,
        before=(_create(), *_SERVED, _write),
        check=_numbers_are_there,
        after=(_delete_snapshot, *_RELEASED, _delete()),
    ),
    "snapshot mounted thick": Operation(
        _snapshot,
        before=(_create(**_THICK), *_SERVED, _write),
        check=_numbers_are_there,
        after=(_delete_snapshot, *_RELEASED, _delete()),
    ),
    "delete snapshot": Operation(
        _delete_snapshot, before=(_create(), _snapshot), after=(_delete(),)
    ),
    "restore thin": Operation(
        _create("copy", snapshot="snapshot"),
        before=(_create(), *_SERVED, _write, _snapshot),
        check=_holds_the_numbers("copy"),
        after=(_delete("copy"), _delete_snapshot, *_RELEASED, _delete()),
    ),
    "clone mounted thick": Operation(
        _create("copy", clone="volume", **_THICK),
        before=(_create(**_THICK), *_SERVED, _write),
        check=_holds_the_numbers("copy"),
        after=(_delete("copy"), *_RELEASED, _delete()),
    ),
}


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
def scenes(lab: Lab) -> Iterator[dict[str, Scene]]:
    """The cluster of each victim, as long as it is sound."""
    scenes: dict[str, Scene] = {}
    yield scenes
    for scene in scenes.values():
        _tear_down(lab, scene)


@pytest.fixture
def scene(request: pytest.FixtureRequest, lab: Lab, scenes: dict[str, Scene]) -> Iterator[Scene]:
    """A scene in which nothing is left of the test before, also if that failed."""
    victim: str = request.param
    if victim not in scenes:
        while scenes:  # the other victim's: its turn is over, and nodes have the same name
            _tear_down(lab, scenes.popitem()[1])
        scenes[victim] = _build(lab, victim)
    scene = scenes.pop(victim)
    empty = scene.picture()
    yield scene
    if scene.picture() == empty:
        scenes[victim] = scene
    else:
        _tear_down(lab, scene)


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
    call = f"serve_remains({REMAINS!r}, 'vg0', '/dev/ubdb')"
    remains = Calls(node, f"from tests.lab.stories.remains import serve_remains; {call}", REMAINS)
    return Scene(cluster, victim, folder, iter(range(1, 1 << 30)), remains)


def _tear_down(lab: Lab, scene: Scene) -> None:
    scene.cluster.close()
    lab.remove_node(scene.node)


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
