"""The example files are files that the processes take."""

from __future__ import annotations

from pathlib import Path

from csi.controller.config import ControllerConfig, load_controller_config
from node_agent.config import load_node_config

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy/examples"


def test_the_controllers_example_shows_the_defaults() -> None:
    config = load_controller_config(EXAMPLES / "controller.toml")
    assert config == ControllerConfig(nodes=config.nodes)
    assert sorted(config.nodes) == ["n1", "n2", "n3"]


def test_the_nodes_example_has_a_pool_and_a_zone() -> None:
    config = load_node_config(EXAMPLES / "node.toml")
    assert [pool.name for pool in config.pools] == ["default"]
    assert config.segments == {"csi.xlss.io/zone": "a", "csi.xlss.io/node": "n1"}
