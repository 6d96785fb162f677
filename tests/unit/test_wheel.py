"""The wheel: only our packages are in it, and what is installed from it runs anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from node_agent.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"cli", "csi", "recovery", "node_agent", "replication", "host", "cluster"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": os.defpath, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=ROOT)
    (built,) = directory.glob("*.whl")
    return built


def test_it_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    information = f"xlss-{VERSION}.dist-info"
    assert {name.split("/")[0] for name in names} == PACKAGES | {information}
    code = [name for name in names if not name.startswith(information)]
    others = [name for name in code if not name.endswith((".py", ".pyi"))]
    assert others == ["replication/fence_helper"]
    assert f"{information}/licenses/LICENSE" in names


def test_every_module_of_the_tree_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules - names == set()


def test_the_installed_command_runs_outside_of_the_tree(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    # The dependencies are those of the environment that the tests run in: no registry is asked.
    run(*pip, "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path, HOME=str(tmp_path))
    for command in ("xlss", "kubectl-xlss"):
        out = run(site / "bin" / command, "--version", cwd=tmp_path, PYTHONPATH=str(site))
        assert out == f"xlss {VERSION}\n"
    paths = run(
        sys.executable, "-c", "import cli; print(cli.__file__)", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert paths.startswith(str(site))
