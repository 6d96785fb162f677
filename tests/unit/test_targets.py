"""Published targets: an agent that starts anew knows what the former one published."""

from __future__ import annotations

from pathlib import Path

from node_agent.targets import Target, Targets

FIRST = Target("v1", "/pods/a/mount", "SINGLE_NODE_WRITER", False, False, "uid-a")
SECOND = Target("v1", "/pods/b/mount", "SINGLE_NODE_WRITER", True, False)
OTHER = Target("v2", "/pods/ü\udcff/mount", "SINGLE_NODE_WRITER", False, True)


def test_targets_outlive_the_agent(tmp_path: Path) -> None:
    targets = Targets(tmp_path / "targets")
    for target in (FIRST, SECOND, OTHER):
        targets.put(target)
    targets.remove(SECOND.path)
    targets.remove("/never/published")

    again = Targets(tmp_path / "targets")
    assert again.of("v1") == targets.of("v1") == (FIRST,)
    assert again.get(OTHER.path) == OTHER
    assert again.get(SECOND.path) is None


def test_what_a_crash_left_half_written_is_passed_over(tmp_path: Path) -> None:
    Targets(tmp_path).put(FIRST)
    (tmp_path / ".x.json.a1b2c3d4").write_text("{")
    (tmp_path / "y.json").write_text("{")
    (tmp_path / "z.json").write_text('{"volume_id": "v1"}')
    assert Targets(tmp_path).of("v1") == (FIRST,)
