"""A controller's configuration: mistakes are named, with the key and the nearest valid one."""

from __future__ import annotations

from pathlib import Path

import pytest

from csi.controller.config import ControllerConfig, load_controller_config
from node_agent.toml_table import ConfigError

WHOLE = """
csi_socket = "/run/x/controller.sock"
store = "/var/lib/x/store.sqlite"
tls_directory = "/etc/x/tls"
metrics_listen = ""
arbiter_listen = "[::]:9813"
reconcile_seconds = 5
call_seconds = 20
advertise_health = true
log_level = "debug"

[nodes]
n1 = "10.0.0.1:9810"
n2 = "[fd00::2]:9810"
"""


def load(directory: Path, text: str) -> ControllerConfig:
    path = directory / "controller.toml"
    path.write_text(text)
    return load_controller_config(path)


def test_every_key_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, WHOLE) == ControllerConfig(
        nodes={"n1": "10.0.0.1:9810", "n2": "[fd00::2]:9810"},
        csi_socket=Path("/run/x/controller.sock"),
        store=Path("/var/lib/x/store.sqlite"),
        tls_directory=Path("/etc/x/tls"),
        metrics_listen="",
        arbiter_listen="[::]:9813",
        reconcile_seconds=5.0,
        call_seconds=20.0,
        advertise_health=True,
        log_level="debug",
    )


def test_only_the_nodes_are_needed(tmp_path: Path) -> None:
    config = load(tmp_path, '[nodes]\nn1 = "10.0.0.1:9810"\n')
    assert config == ControllerConfig(nodes={"n1": "10.0.0.1:9810"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('stroe = "/x"\n' + WHOLE, "unknown key stroe; did you mean store?"),
        (WHOLE.replace("reconcile_seconds = 5", "reconcile_seconds = true"), "must be a number"),
        (WHOLE.replace("= 5", "= 0"), "must be 0.1 to 3600 seconds"),
        (WHOLE.replace('"/var/lib/x', '"var/lib/x'), "must be an absolute path"),
        (WHOLE.replace(":9810", ""), "nodes.n1 = '10.0.0.1': must be host:port"),
        (WHOLE.replace('"debug"', '"loud"'), "log_level = 'loud': one of debug, info"),
        ("", "nodes: at least one line is needed"),
        ("[nodes\n", "Expected ']'"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "controller.toml"))
    assert complaint in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_controller_config(tmp_path / "absent.toml")
