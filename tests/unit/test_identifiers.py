"""Identifiers: one claim per name, a new incarnation each time, nothing else accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidArgument, NotFound
from cluster.identifiers import (
    Kind,
    is_id,
    key_of_id,
    key_of_name,
    new_id,
    require_id,
    require_name,
)


@given(st.sampled_from(Kind), st.text(st.characters(exclude_categories=["Cs"])))
def test_an_identifier_leads_back_to_the_key_of_its_name(kind: Kind, name: str) -> None:
    identifier = new_id(kind, name)
    assert is_id(kind, identifier)
    assert key_of_id(identifier) == key_of_name(kind, name)
    assert require_id(kind, identifier, "volume id") == identifier


def test_the_same_name_gets_another_incarnation_and_another_kind_another_key() -> None:
    assert new_id(Kind.VOLUME, "a") != new_id(Kind.VOLUME, "a")
    assert key_of_name(Kind.VOLUME, "a") != key_of_name(Kind.SNAPSHOT, "a")


@pytest.mark.parametrize(
    "text", ["no", "../../etc/passwd", "v" + "0" * 27, "v" + "0" * 28 + "\n", "V" + "0" * 28]
)
def test_a_foreign_identifier_is_simply_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        require_id(Kind.VOLUME, text, "volume id")


def test_an_identifier_of_another_kind_is_not_found() -> None:
    with pytest.raises(NotFound):
        require_id(Kind.VOLUME, new_id(Kind.SNAPSHOT, "a"), "volume id")


def test_an_empty_identifier_is_a_wrong_request() -> None:
    with pytest.raises(InvalidArgument, match="volume id is missing"):
        require_id(Kind.VOLUME, "", "volume id")


@pytest.mark.parametrize("name", ["", "a" * 129, "ä" * 65, "a\x00b", "a\x0bb", "a\x7fb", "a\x85b"])
def test_names_that_csi_does_not_permit(name: str) -> None:
    with pytest.raises(InvalidArgument):
        require_name(name)


@pytest.mark.parametrize("name", ["a", "a" * 128, "ä" * 64, "pvc-1 (copy)", "a\tb\r\n", " "])
def test_names_that_csi_permits(name: str) -> None:
    assert require_name(name) == name
