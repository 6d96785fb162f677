"""A node's configuration: what is left out has a sensible default, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.lvm.pool_spec import Share
from node_agent.config import NodeConfig, load_node_config
from node_agent.toml_table import ConfigError

SMALLEST = """
name = "n1"
[[pools]]
name = "fast"
volume_group = "xlss"
"""


def read(tmp_path: Path, text: str) -> NodeConfig:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return load_node_config(file)


def test_a_name_and_one_group_are_enough(tmp_path: Path) -> None:
    config = read(tmp_path, SMALLEST)
    assert config.segments == {"csi.xlss.io/node": "n1"}
    assert config.csi_socket == Path("/run/xlss/csi.sock")
    (pool,) = config.pools
    assert (pool.volume_group, pool.thin_pool, pool.overcommit) == ("xlss", "", 1.0)
    assert pool.name == "fast"
    assert (config.arbiters, config.replication_address) == ((), "")


def test_a_node_that_takes_replicas_says_where_and_whom_it_asks(tmp_path: Path) -> None:
    text = """
        arbiters = ["10.0.0.1:9813", "[fd00::2]:9813"]
        replication_address = "FD00:0::5"
        state_directory = "/var/lib/x"
        """
    config = read(tmp_path, text + SMALLEST)
    assert config.arbiters == ("10.0.0.1:9813", "[fd00::2]:9813")
    assert config.replication_address == "fd00::5"
    assert config.state_directory == Path("/var/lib/x")


def test_sizes_are_bytes_texts_or_shares(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        name = "n1"
        [topology]
        "csi.xlss.io/zone" = "a"
        [[pools]]
        name = "fast"
        volume_group = "xlss"
        devices = ["/dev/sdb", "/dev/disk/by-id/x"]
        thin_pool = "thin"
        thin_size = "40 GiB"
        grow_by = "10%"
        thin_chunk_size = 131072
        overcommit = 2
        """,
    )
    assert config.segments == {"csi.xlss.io/node": "n1", "csi.xlss.io/zone": "a"}
    (pool,) = config.pools
    assert pool.devices == ("/dev/sdb", "/dev/disk/by-id/x")
    assert pool.thin_size == Share(size_bytes=40 << 30)
    assert pool.grow_by.of(1000) == 100
    assert pool.thin_chunk_bytes == 128 << 10


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "name is missing"),
        ('arbiters = ["h:1"]' + SMALLEST, "replication_address is missing: a node with arbiters"),
        ('replication_address = "10.0.0.1"' + SMALLEST, "arbiters is missing: a node with repl"),
        ('arbiters = "h:1"' + SMALLEST, "must be a list of host:port"),
        ('arbiters = ["h"]' + SMALLEST, "arbiters = ['h']: must be host:port"),
        ('arbiters = ["h:1", "h:1"]' + SMALLEST, "names one twice"),
        ('replication_address = "0.0.0.0"' + SMALLEST, "must be the address of one interface"),
        ('replication_address = "host1"' + SMALLEST, "replication_address = 'host1'"),
        ('name = "n1"', "pools is missing"),
        (
            'name = "N 1"\n' + SMALLEST.partition("\n")[2].partition("\n")[2],
            "name = 'N 1': must be",
        ),
        (SMALLEST + 'thinpool = "x"', "did you mean thin_pool?"),
        (SMALLEST + 'thin_pool = "-y"', "thin_pool = '-y': must be a valid LVM name"),
        (SMALLEST + 'volume_group = "a"\n', "overwrite"),
        (SMALLEST + 'devices = ["sdb"]', "devices"),
        (SMALLEST + 'devices = ["/dev/../etc/passwd"]', "devices"),
        (SMALLEST + "overcommit = 0.5", "overcommit = 0.5: must be 1 to 1000"),
        (SMALLEST + 'thin_size = "101%"', "thin_size"),
        (SMALLEST + "grow_by = 0", "grow_by"),
        (SMALLEST + 'thin_chunk_size = "100 KiB"', "thin_chunk_size"),
        (SMALLEST + '[[pools]]\nname = "b"\nvolume_group = "xlss"', "'xlss' twice"),
        ("listen = 'nowhere'" + SMALLEST, "listen = 'nowhere': must be host:port"),
        ('topology = {zone = "a"}' + SMALLEST, "topology.zone"),
        ('topology = {"csi.xlss.io/node" = "a"}' + SMALLEST, "is the node's name"),
        ('run_directory = "run"' + SMALLEST, "run_directory"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert named in str(caught.value)
    assert "node.toml" in str(caught.value)
