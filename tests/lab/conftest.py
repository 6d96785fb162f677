"""Nodes for tests. A test that uses them carries `pytest.mark.lab`.

`make_node(...)` and `make_nodes(count, ...)` take the options of `lab.lab.Lab.add_node`; their
nodes live as long as the test. `make_module_node(...)` and `make_module_nodes(...)` make nodes
that the tests of one module share: each test has to leave them as it found them. `service` is a
replicated volume on such nodes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from lab.deployment import Pool
from lab.lab import Lab
from lab.node import MIB
from lab.processors import Balance
from tests.conftest import on_nodes_for_replicas
from tests.lab.pool_stories import BLANK_AGAIN
from tests.lab.replica_group import Group
from tests.lab.replicated import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from lab.node import Node


@contextmanager
def made_nodes(lab: Lab) -> Iterator[Callable[..., list[Node]]]:
    """`Lab.add_nodes`, and the removal of what it made at the end."""
    made: list[Node] = []

    def make(count: int, **options: Any) -> list[Node]:
        nodes = lab.add_nodes(count, **options)
        made.extend(nodes)
        return nodes

    try:
        yield make
    finally:
        for node in made:
            if lab.nodes.get(node.name) is node:
                lab.remove_node(node)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        balance = Balance(lab.nodes)
        yield lab
        balance.stop()


@pytest.fixture
def make_nodes(lab: Lab) -> Iterator[Callable[..., list[Node]]]:
    with made_nodes(lab) as make:
        yield make


@pytest.fixture
def make_node(make_nodes: Callable[..., list[Node]]) -> Callable[..., Node]:
    return lambda **options: make_nodes(1, **options)[0]


@pytest.fixture(scope="module")
def make_module_nodes(lab: Lab) -> Iterator[Callable[..., list[Node]]]:
    with made_nodes(lab) as make:
        yield make


@pytest.fixture(scope="module")
def make_module_node(make_module_nodes: Callable[..., list[Node]]) -> Callable[..., Node]:
    return lambda **options: make_module_nodes(1, **options)[0]


@pytest.fixture(scope="module")
def node_with_two_disks(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(160 * MIB, 160 * MIB))


@pytest.fixture
def blank_node(node_with_two_disks: Node) -> Iterator[Node]:
    """Two blank disks, blank again for the next test whatever this one leaves behind."""
    yield node_with_two_disks
    node_with_two_disks.sh(BLANK_AGAIN)


class Kept:
    """The nodes of the last module that used `group`, for the next that wants the same."""

    def __init__(self) -> None:
        self._group: Group | None = None
        self._wanted: object = None

    def get(self, lab: Lab, *wanted: Any) -> Group:
        if self._group is None or self._wanted != wanted:
            self.close()
            self._group, self._wanted = Group(lab, *wanted), wanted
        return self._group

    def nodes(self) -> Collection[Node]:
        return self._group.nodes() if self._group is not None else ()

    def close(self) -> None:
        if self._group is not None:
            self._group.close()
        self._group = None


@pytest.fixture(scope="session")
def kept(lab: Lab) -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.close()


@pytest.fixture(scope="module", autouse=True)
def names_are_free(request: pytest.FixtureRequest, lab: Lab, kept: Kept) -> None:
    """A module without `group` gives its nodes whatever names it likes.

    Nor is anything there of a module before it whose own nodes could not be set up.
    """
    tests = (item for item in request.session.items if item.path == request.path)
    if not any(on_nodes_for_replicas(test) for test in tests):
        kept.close()
    for node in [one for one in lab.nodes.values() if one not in kept.nodes()]:
        lab.remove_node(node)


@pytest.fixture(scope="module")
def group(lab: Lab, kept: Kept, request: pytest.FixtureRequest) -> Group:
    """Three nodes for replicated volumes; a module may choose POOLS, DISKS and AGENT.

    AGENT has further keys of the agents' configuration.
    """
    pools = getattr(request.module, "POOLS", (Pool(),))
    disks = getattr(request.module, "DISKS", (512 * MIB,))
    return kept.get(lab, pools, disks, getattr(request.module, "AGENT", {}))


@pytest.fixture
def service(
    group: Group, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Service]:
    """A replicated volume that is in sync; as VOLUME or a parameter, options of `Service`."""
    options = {**getattr(request.module, "VOLUME", {}), **getattr(request, "param", {})}
    with group.service(**options) as service:
        yield service
        silence = service.records.longest_silence()
        record_property("longest silence between two acknowledgements, seconds", round(silence, 2))
