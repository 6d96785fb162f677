"""Paths of node requests: plain absolute ones pass, and nothing else gets near a mount."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidArgument
from csi.node.paths import parse_path, pod_uid

UID = "4a8a7b3e-7f0c-4a52-b37f-0c9c4f6f6b5e"


@pytest.mark.parametrize("text", ["/a/b", "//a//b/", "/a/./b"])
def test_a_path_is_brought_into_its_plain_form(text: str) -> None:
    assert parse_path(text, "target_path") == "/a/b"


@pytest.mark.parametrize(
    "text",
    ["", "/", "//", "a/b", "./a", "/a/../b", "/..", "/a\nb", "/" + "a" * 256, "/a" * 2048],
)
def test_any_other_path_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidArgument, match="target_path"):
        parse_path(text, "target_path")


@pytest.mark.parametrize(
    ("path", "context", "uid"),
    [
        ("/t", {"csi.storage.k8s.io/pod.uid": UID}, UID),
        (f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pv/mount", {}, UID),
        (f"/k/plugins/kubernetes.io/csi/volumeDevices/publish/pv-1/{UID}", {}, UID),
        ("/t", {"csi.storage.k8s.io/pod.uid": "../../system.slice"}, ""),
        ("/tmp/target", {}, ""),
    ],
)
def test_the_pod_is_found_by_the_context_or_by_kubelets_paths(
    path: str, context: dict[str, str], uid: str
) -> None:
    assert pod_uid(path, context) == uid
