"""Finding the cgroup of a pod, and the lines of io.max."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.errors import Missing, Refused
from host.io_limits import Limits, find_pod_cgroup, limits_of, parse, set_limits

UID = "6b3c1d3e-8c1f-4e0b-9c57-0d5d0b0c9a11"
SYSTEMD = UID.replace("-", "_")


@pytest.mark.parametrize(
    "place",
    [
        f"kubepods/pod{UID}",
        f"kubepods/burstable/pod{UID}",
        f"kubepods.slice/kubepods-pod{SYSTEMD}.slice",
        f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SYSTEMD}.slice",
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
        f"kubelet-kubepods-burstable-pod{SYSTEMD}.slice",
        f"kubelet/kubepods/besteffort/pod{UID}",
    ],
)
def test_a_pod_is_found_under_either_driver_of_kubelet(tmp_path: Path, place: str) -> None:
    (tmp_path / "system.slice" / f"pod{UID}").mkdir(parents=True)
    (tmp_path / place).parent.mkdir(parents=True)
    assert find_pod_cgroup(tmp_path, UID) is None
    (tmp_path / place / "cri-containerd-1.scope").mkdir(parents=True)
    assert find_pod_cgroup(tmp_path, UID) == tmp_path / place


@pytest.mark.parametrize("uid", ["", "../x", "*", "a b", "x" * 65])
def test_an_impossible_uid_reaches_no_path(tmp_path: Path, uid: str) -> None:
    with pytest.raises(ValueError, match="UID"):
        find_pod_cgroup(tmp_path, uid)


def test_the_lines_of_the_kernel() -> None:
    text = (
        "254:1 rbps=10485760 wbps=max riops=max wiops=50\n98:16 rbps=max wbps=1 riops=2 wiops=3\n"
    )
    assert parse(text) == {
        "254:1": Limits(read_bytes=10485760, write_iops=50),
        "98:16": Limits(write_bytes=1, read_iops=2, write_iops=3),
    }
    assert parse("") == {}


def test_all_four_limits_are_written_at_once(tmp_path: Path) -> None:
    (tmp_path / "io.max").write_text("")
    set_limits(tmp_path, tmp_path, "254:1", Limits(read_iops=5, write_bytes=7))
    assert (tmp_path / "io.max").read_text() == "254:1 rbps=max wbps=7 riops=5 wiops=max\n"
    assert limits_of(tmp_path, "254:1") == Limits(read_iops=5, write_bytes=7)


def test_without_cgroup_v2_nothing_is_limited_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "pod").mkdir()
    with pytest.raises(Refused, match="not a cgroup v2"):
        set_limits(tmp_path, tmp_path / "pod", "254:1", Limits(read_iops=5))
    with pytest.raises(Missing, match="gone"):
        set_limits(tmp_path, tmp_path / "gone", "254:1", Limits(read_iops=5))
