"""Records survive the way through JSON, and reading forgives what a newer version wrote."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataLoss
from cluster.model import (
    Group,
    Layout,
    LayoutKind,
    Phase,
    Snapshot,
    Source,
    SourceKind,
    Volume,
    VolumeSpec,
    group_from_object,
    snapshot_from_json,
    to_json,
    to_object,
    volume_from_json,
    volume_from_object,
)

VOLUME = Volume("v1", "pvc-1", 1 << 30, VolumeSpec("fast", filesystem="ext4"), Phase.READY)


@given(st.builds(Volume))
def test_every_volume_comes_back_as_it_was(volume: Volume) -> None:
    assert volume_from_json(to_json(volume)) == volume
    assert volume_from_object(to_object(volume)) == volume


@given(st.builds(Snapshot))
def test_every_snapshot_comes_back_as_it_was(snapshot: Snapshot) -> None:
    assert snapshot_from_json(to_json(snapshot)) == snapshot


@given(st.builds(Group))
def test_every_group_comes_back_as_it_was(group: Group) -> None:
    assert group_from_object(json.loads(to_json(group))) == group


def test_defaults_are_left_out_because_lvm_metadata_is_small() -> None:
    assert to_object(VOLUME) == {
        "id": "v1",
        "name": "pvc-1",
        "size_bytes": 1 << 30,
        "spec": {"pool": "fast", "filesystem": "ext4"},
        "phase": "ready",
    }


def test_unknown_keys_are_ignored_and_unknown_words_become_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    value = to_object(VOLUME) | {"phase": "levitating", "colour": "red"}
    value["spec"] = {"pool": "fast", "layout": {"kind": "raid6", "copies": 4}}
    with caplog.at_level(logging.WARNING):
        volume = volume_from_object(value)
    assert volume.phase is Phase.UNKNOWN
    assert volume.spec.layout == Layout(LayoutKind.UNKNOWN, 4)
    assert "levitating" in caplog.text


def test_a_source_that_is_null_is_no_source() -> None:
    value = to_object(VOLUME)
    assert volume_from_object(value | {"source": None}).source is None
    source = {"kind": "snapshot", "id": "s1"}
    assert volume_from_object(value | {"source": source}).source == Source(
        SourceKind.SNAPSHOT, "s1"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"id":"v1","name":"n","size_bytes":"many","spec":{"pool":"p"},"phase":"ready"}',
        '{"id":"v1","name":"n","size_bytes":true,"spec":{"pool":"p"},"phase":"ready"}',
        '{"id":"v1","name":"n","size_bytes":1,"spec":"p","phase":"ready"}',
        '{"id":"v1","name":"n","size_bytes":1,"spec":{"pool":"p"},"phase":"ready","nodes":"n1"}',
    ],
)
def test_what_is_not_a_volume_is_said_to_be_damaged(text: str) -> None:
    with pytest.raises(DataLoss):
        volume_from_json(text)
