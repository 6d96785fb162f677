"""Giving a tree to a group, whatever a pod has made of it; on file systems in stories/mount.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from host import ownership_process
from host.command import Runner
from host.ownership import apply_group

DEPTH = 1500  # more than Python recurses, and than a process may have open
BITS = 0o660


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "tree"
    path.mkdir()
    yield path
    # Python's own would recurse.
    subprocess.run(["rm", "-rf", str(path)], check=True)


def test_the_deepest_tree_is_given_as_a_whole(tree: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", 0o700, dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here))
    (tree / "last").mkdir(0o700)

    assert apply_group(Runner(), str(tree), os.getgid())
    assert os.stat("file", dir_fd=here).st_mode & 0o777 == BITS
    assert (tree / "last").stat().st_mode & 0o7777 == 0o2770
    os.close(here)
    assert not apply_group(Runner(), str(tree), os.getgid())


def test_a_directory_that_is_moved_away_meanwhile_leads_nobody_out_of_the_tree(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    for name in ("a", "b"):  # either may be visited first
        (tree / "folder" / name).mkdir(parents=True)
        (outside / name).mkdir(parents=True)
        (outside / name / "file").touch(0o600)
    give_all_in = ownership_process._give_all_in

    def moving(folder: int, group: int) -> list[str]:
        path = Path(f"/proc/self/fd/{folder}").readlink()
        if path.parent.name == "folder":
            path.rename(outside / "moved")
        return give_all_in(folder, group)

    monkeypatch.setattr(ownership_process, "_give_all_in", moving)
    with pytest.raises(SystemExit):
        ownership_process.main([str(tree), str(os.getgid())])
    assert {(outside / name / "file").stat().st_mode & 0o777 for name in ("a", "b")} == {0o600}
