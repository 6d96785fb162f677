"""Nodes for tests. A test that uses them carries `pytest.mark.lab`.

`make_node(...)` and `make_nodes(count, ...)` take the options of `lab.lab.Lab.add_node`; their
nodes live as long as the test. `make_module_node(...)` makes nodes that the tests of one module
share: each test has to leave them as it found them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.node import Node


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def make_nodes(lab: Lab) -> Iterator[Callable[..., list[Node]]]:
    before = set(lab.nodes)
    yield lab.add_nodes
    for name in lab.nodes.keys() - before:
        lab.remove_node(lab.nodes[name])


@pytest.fixture
def make_node(lab: Lab) -> Iterator[Callable[..., Node]]:
    before = set(lab.nodes)
    yield lab.add_node
    for name in lab.nodes.keys() - before:
        lab.remove_node(lab.nodes[name])


@pytest.fixture(scope="module")
def make_module_node(lab: Lab) -> Iterator[Callable[..., Node]]:
    before = set(lab.nodes)
    yield lab.add_node
    for name in lab.nodes.keys() - before:
        lab.remove_node(lab.nodes[name])
