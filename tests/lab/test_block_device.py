"""Wiping and copying real block devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20
PYTHON = ".venv/bin/python"
HEAD = "from host.block_device import *\nfrom host.errors import *\n"


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(24 * MIB, 33 * MIB))


def python(node: Node, code: str) -> str:
    return str(node.run([PYTHON, "-c", HEAD + code]).text).strip()


def test_the_edges_are_zeroed_and_the_middle_is_kept(node: Node) -> None:
    node.sh("head -c 24M /dev/zero | tr '\\0' x | dd of=/dev/ubdb bs=1M status=none")
    python(node, "zero_edges('/dev/ubdb')")
    kept = node.sh("cmp -n 4194304 /dev/ubdb /dev/zero; tr -d '\\0' </dev/ubdb | wc -c").text
    assert int(kept) == 16 * MIB


def test_a_wipe_says_how_far_it_is_and_leaves_nothing(node: Node) -> None:
    node.sh("head -c 24M /dev/zero | tr '\\0' x | dd of=/dev/ubdb bs=1M status=none")
    code = (
        "from host import block_worker; from host.command import Runner;"
        "block_worker._PIECE = 9 << 20; block_worker.zero(Runner(), '/dev/ubdb', print, begin=4096)"
    )
    assert python(node, code).split() == [
        str(n) for n in (9 * MIB + 4096, 18 * MIB + 4096, 24 * MIB)
    ]
    assert node.sh("tr -d '\\0' </dev/ubdb | wc -c").text.strip() == "4096"


@pytest.mark.parametrize("skip_zeros", [True, False])
def test_a_copy_equals_its_source_with_and_without_holes(node: Node, skip_zeros: bool) -> None:
    node.sh(
        "dd if=/dev/zero of=/dev/ubdb bs=1M count=24 status=none;"
        "for at in 0 3 17 200 201 383; do"
        "  dd if=/dev/urandom of=/dev/ubdb bs=64k seek=$at count=1 conv=notrunc status=none; done;"
        "dd if=/dev/zero of=/dev/ubdc bs=1M count=33 status=none; sync"
    )
    python(node, f"copy('/dev/ubdb', '/dev/ubdc', print, skip_zeros={skip_zeros})")
    node.sh(f"cmp -n {24 * MIB} /dev/ubdb /dev/ubdc")


def test_a_copy_to_a_smaller_device_is_refused_before_it_begins(node: Node) -> None:
    text = python(
        node,
        "try: copy('/dev/ubdc', '/dev/ubdb', print, skip_zeros=False)\n"
        "except HostError as error: print(error)",
    )
    assert "is smaller" in text
