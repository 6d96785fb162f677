"""The fence helper answers what was granted, once, and fails closed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from host.boot import boot_id
from replication import fencing
from replication.fencing import Verdict

NAME = "v0a1b"
SCRIPT = Path(fencing.__file__).with_name("fence_helper")


@pytest.fixture
def helper(tmp_path: Path) -> Path:
    """The helper, with its grants where a test may write them."""
    path = tmp_path / "fence_helper"
    text = SCRIPT.read_text()
    assert text.count(f"{fencing.GRANTS}/") == 1
    path.write_text(text.replace(str(fencing.GRANTS), str(tmp_path / "grants")))
    (tmp_path / "grants").mkdir()
    return path


def answer(helper: Path, *arguments: str) -> int:
    # The kernel's environment: see call_usermodehelper in drbd_nl.c.
    environment = {"PATH": "/sbin:/usr/sbin:/bin:/usr/bin", "HOME": "/", "TERM": "linux"}
    argv = ["/bin/sh", str(helper), *arguments]
    return subprocess.run(argv, env=environment, check=False, capture_output=True).returncode


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(Verdict.PEER_OUTDATED, 4), (Verdict.PEER_FENCED, 7), (Verdict.EXCLUDED, 6)],
)
def test_a_grant_is_answered_once(helper: Path, verdict: Verdict, code: int) -> None:
    fencing.grant(NAME, 12, verdict, helper.parent / "grants")
    assert answer(helper, "fence-peer", NAME) == code
    assert answer(helper, "fence-peer", NAME) == 1


def test_without_a_grant_there_is_no_answer(helper: Path) -> None:
    assert answer(helper, "fence-peer", NAME) == 1
    fencing.grant(NAME, 12, Verdict.PEER_FENCED, helper.parent / "grants")
    fencing.revoke(NAME, helper.parent / "grants")
    fencing.revoke(NAME, helper.parent / "grants")
    assert answer(helper, "fence-peer", NAME) == 1


BOOT = boot_id()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        f"other 12 {BOOT} fenced\n",
        f"{NAME} 12 00000000-0000-0000-0000-000000000000 fenced\n",
        f"{NAME} 12 {BOOT} fenced",
        f"{NAME} 12 {BOOT} fenced more\n",
        f"{NAME} 12 {BOOT} fenced\nmore\n",
        f"{NAME} 12 {BOOT} fenced\n\n",
        f"{NAME} 12 {BOOT} 7\n",
        f"{NAME} 12 {BOOT}\n",
        f"{NAME} x {BOOT} fenced\n",
        f"{NAME} -1 {BOOT} fenced\n",
        f"{NAME}  {BOOT} fenced\n",
        f"{NAME} 12  fenced\n",
        "* 12 * fenced\n",
    ],
)
def test_anything_unexpected_is_an_error(helper: Path, content: str) -> None:
    (helper.parent / "grants" / NAME).write_text(content)
    assert answer(helper, "fence-peer", NAME) not in (0, 3, 4, 5, 6, 7)


@pytest.mark.parametrize("name", ["", "../grants/v0a1b", "v0a1b/", "*", "v0a1b x"])
def test_names_that_are_none_of_ours_are_an_error(helper: Path, name: str) -> None:
    fencing.grant(NAME, 12, Verdict.PEER_FENCED, helper.parent / "grants")
    assert answer(helper, "fence-peer", name) == 1


def test_other_events_are_nothing_to_hold_up(helper: Path) -> None:
    # A failure would end a resync before it began.
    for event in ("before-resync-target", "after-resync-target", "unfence-peer", "local-io-error"):
        assert answer(helper, event, NAME) == 0
