"""Labels: what one agent writes into tags, another reads out of them."""

from __future__ import annotations

import re

from node_agent.labels import Kind, Label, State, changed_tags, lv_name, parse_label

VOLUME = "v" + "0" * 28
LVM_TAG = re.compile(r"[A-Za-z0-9_+./=!:&#][A-Za-z0-9_+.\-/=!:&#]{0,1023}")


def test_a_label_survives_the_tags() -> None:
    record = '{"name": "Ünïcode \\"quoted\\"", "note": "' + "x" * 3000 + '"}'
    label = Label(VOLUME, Kind.VOLUME, State.FILLING, unique=False, record=record)

    assert all(LVM_TAG.fullmatch(tag) for tag in label.tags)
    # LVM reports tags sorted, among those of others.
    assert parse_label(sorted(["backup", "other.id=7", *label.tags])) == label
    assert label.name == lv_name(Kind.VOLUME, VOLUME) == f"vol-{VOLUME}"


def test_what_carries_no_label_is_not_ours() -> None:
    assert parse_label([]) is None
    assert parse_label(["xlss.id=" + VOLUME]) is None
    assert parse_label(["xlss.id=" + VOLUME, "xlss.kind=cache"]) is None
    assert parse_label(["xlss.id=", "xlss.kind=volume"]) is None


def test_a_damaged_label_is_never_taken_for_blank_or_half_made() -> None:
    label = parse_label(["xlss.id=" + VOLUME, "xlss.kind=volume", "xlss.record.0=%%%"])
    assert label == Label(VOLUME, Kind.VOLUME, State.USED, record="")
    later = parse_label(["xlss.id=" + VOLUME, "xlss.kind=volume", "xlss.state=frozen"])
    assert later is not None
    assert later.state is State.USED


def test_a_change_touches_only_the_tags_that_differ() -> None:
    old = Label(VOLUME, Kind.VOLUME, State.BLANK, record="x" * 2000)
    removed, added = changed_tags(old, old.with_state(State.USED))
    assert (removed, added) == (("xlss.state=blank",), ("xlss.state=used",))

    shorter = Label(VOLUME, Kind.VOLUME, State.BLANK, record="y")
    removed, added = changed_tags(old, shorter)
    remaining = (set(old.tags) - set(removed)) | set(added)
    assert parse_label(remaining) == shorter
