"""The examples, in files and in the documentation, are ones that the driver takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.differences import DifferenceKind
from cluster.model import AccessType, IoLimits, LayoutKind, Provision
from csi.controller.config import ControllerConfig, load_controller_config
from csi.storage_class import change_limits, check_snapshot_class, parse_class
from node_agent.config import load_node_config

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "deploy/examples"
PAGES = (ROOT / "README.md", ROOT / "docs/storage-class.md")


def test_the_controllers_example_shows_the_defaults() -> None:
    config = load_controller_config(EXAMPLES / "controller.toml")
    assert config == ControllerConfig(nodes=config.nodes)
    assert sorted(config.nodes) == ["n1", "n2", "n3"]


def test_the_nodes_example_has_a_pool_and_a_zone() -> None:
    config = load_node_config(EXAMPLES / "node.toml")
    assert [pool.name for pool in config.pools] == ["default"]
    assert config.segments == {"csi.xlss.io/zone": "a", "csi.xlss.io/node": "n1"}


def classes() -> list[tuple[str, str, dict[str, str]]]:
    """Kind, name and parameters of every manifest in the examples and in the documentation."""
    texts = [(EXAMPLES / "classes.yaml").read_text()]
    for page in PAGES:
        texts += re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    found = []
    for document in "\n---\n".join(texts).split("\n---\n"):
        kind = re.search(r"^kind: (\w+)$", document, re.MULTILINE)
        name = re.search(r"^  name: (\S+)$", document, re.MULTILINE)
        block = re.search(r"^parameters:\n((?:  .*\n?)+)", document, re.MULTILINE)
        lines = block[1].splitlines() if block else []
        pairs = (line.strip().split(": ", 1) for line in lines)
        parameters = {key: value.strip('"') for key, value in pairs}
        found.append((kind[1] if kind else "StorageClass", name[1] if name else "", parameters))
    return found


@pytest.mark.parametrize(("kind", "name", "parameters"), classes())
def test_a_class_is_taken(kind: str, name: str, parameters: dict[str, str]) -> None:
    if kind == "StorageClass":
        assert parse_class(parameters).access is AccessType.MOUNT
    elif kind == "VolumeAttributesClass":
        assert change_limits(IoLimits(), parameters) != IoLimits()
    else:
        assert kind in {"VolumeSnapshotClass", "VolumeGroupSnapshotClass"}
        check_snapshot_class(parameters)


def test_the_classes_are_what_their_comments_say() -> None:
    specs = {
        name: parse_class(parameters)
        for kind, name, parameters in classes()
        if kind == "StorageClass"
    }
    assert specs["xlss"].provision is Provision.THIN
    assert specs["xlss-mirrored"].layout.kind is LayoutKind.RAID1
    assert specs["xlss-mirrored"].filesystem == "xfs"
    assert specs["xlss-encrypted"].encrypted


def test_every_kind_of_difference_has_its_advice() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    section = page[page.index("## Differences") :]
    assert [kind for kind in DifferenceKind if f"`{kind}`" not in section] == []


def test_every_key_of_a_nodes_configuration_is_documented() -> None:
    keys = set(re.findall(r'take\("(\w+)"', (ROOT / "node_agent/config.py").read_text()))
    page = (ROOT / "docs/node-configuration.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert keys == documented
