"""The ``xlss`` command: what it prints for people and for scripts, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.output import share, size
from node_agent.version import VERSION

ROOT = Path(__file__).resolve().parents[2]


def xlss(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, arguments)],
        cwd=ROOT,
        env={"PATH": os.defpath, "COLUMNS": "200", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def printed(*arguments: str | Path) -> str:
    result = xlss(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_version_is_told() -> None:
    assert printed("--version") == printed("version") == f"xlss {VERSION}\n"


def test_the_help_lists_every_command() -> None:
    text = printed("--help")
    for command in ("controller", "node", "status", "volumes", "snapshots", "certs"):
        assert command in text


@pytest.mark.parametrize("daemon", ["controller", "node"])
def test_a_daemon_starts_without_the_libraries_for_people(daemon: str, tmp_path: Path) -> None:
    """They would cost start-up time and memory."""
    code = (
        "import sys; from cli.main import main; sys.argv = ['xlss', *sys.argv[1:]]; code = main();"
        "print(code, sorted({'typer', 'rich', 'click'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, daemon, "--config", tmp_path / "absent.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "78 []\n"
    assert f"xlss {daemon}: {tmp_path}/absent.toml: No such file" in result.stderr


def test_the_node_opens_its_pools_before_it_loads_grpc() -> None:
    """Loading it takes as long as opening them does."""
    code = "import sys, cli.daemons, csi.node.main; print('grpc' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


def test_without_a_controller_it_says_which_socket_was_tried(tmp_path: Path) -> None:
    result = xlss("status", "--socket", tmp_path / "none.sock")
    assert result.returncode == 1
    assert f"no controller listens on {tmp_path}/none.sock" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mistyped_option_is_refused(tmp_path: Path) -> None:
    result = xlss("status", "--sokcet", tmp_path)
    assert result.returncode == 2
    assert "--socket" in result.stderr


def test_certificates_are_made_shown_and_renewed(tmp_path: Path) -> None:
    where = ("--directory", tmp_path)
    printed("certs", "init", *where)
    printed("certs", "issue", *where, "--node", "n1", "--node", "n2", "--days", "5")
    shown = json.loads(printed("certs", "show", *where, "-o", "json"))
    assert [(one["identity"], round(one["days_left"])) for one in shown] == [
        ("controller.xlss", 365),
        ("n1.node.xlss", 5),
        ("n2.node.xlss", 5),
    ]
    renewed = printed("certs", "renew", *where)
    assert f"{tmp_path}/nodes/n1: renewed" in renewed
    assert f"{tmp_path}/controller: still good" in renewed
    assert "n1.node.xlss" in printed("certs", "show", "--directory", tmp_path / "nodes/n1")


def test_an_authority_is_never_made_over_another(tmp_path: Path) -> None:
    printed("certs", "init", "--directory", tmp_path)
    key = (tmp_path / "authority/ca.key").read_bytes()
    result = xlss("certs", "init", "--directory", tmp_path)
    assert result.returncode == 1
    assert "holds an authority already" in result.stderr
    assert (tmp_path / "authority/ca.key").read_bytes() == key


def test_a_name_that_is_a_path_makes_no_certificate(tmp_path: Path) -> None:
    printed("certs", "init", "--directory", tmp_path / "certs")
    result = xlss("certs", "issue", "--directory", tmp_path / "certs", "--node", "../../escaped")
    assert result.returncode == 1
    assert "cannot be the name of a node" in result.stderr
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 20, "1 MiB"),
        (1000 << 20, "1000 MiB"),
        (1023 << 20, "1023 MiB"),
        (1536 << 20, "1.5 GiB"),
        ((1 << 40) - 1, "1 TiB"),
        (5 << 60, "5120 PiB"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text


def test_a_share_of_nothing_is_a_dash() -> None:
    assert share(1, 4) == "25%"
    assert share(0, 0) == "-"
