"""LVM on a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20
PYTHON = ".venv/bin/python"


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(1 << 30, 1 << 30))


@pytest.mark.parametrize("executor", ["shell", "fork"])
def test_every_way_of_running_lvm_does_the_same(node: Node, executor: str) -> None:
    result = node.run(
        [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/lab/lvm_conformance.py"],
        env={"LVM_EXECUTOR": executor},
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.text
