"""Labels: what one agent writes into tags, another reads out of them."""

from __future__ import annotations

import base64
import random
import re
from dataclasses import replace

import pytest

from node_agent.labels import Kind, Label, State, changed_tags, lv_name, parse_label

VOLUME = "v" + "0" * 28
LVM_TAG = re.compile(r"[A-Za-z0-9_+./=!:&#][A-Za-z0-9_+.\-/=!:&#]{0,1023}")


def test_a_label_survives_the_tags() -> None:
    noise = base64.b64encode(random.Random(1).randbytes(3000)).decode()
    record = '{"name": "Ünïcode \\"quoted\\"", "note": "' + noise + '"}'
    label = Label(VOLUME, Kind.VOLUME, State.FILLING, unique=False, wiped_bytes=0, record=record)

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


RECORD = (
    '{"created_at":1795879348.33,"id":"<id>","name":"pvc-3f0c8e1e-6c1e-4f5b-9d38-3f1f2a7f9a11",'
    '"nodes":["worker-1"],"phase":"creating","size_bytes":10737418240,"spec":{"access":"mount",'
    '"filesystem":"ext4","pool":"default","provision":"thin"}}'
).replace("<id>", VOLUME)
# Both as they were written, once and for all: what is on disks has to be read by every later agent.
_KEY = ["xlss.id=" + VOLUME, "xlss.kind=volume", "xlss.state=used"]
OF_THE_FIRST_FORMAT = [*_KEY, "xlss.record.0=" + base64.urlsafe_b64encode(RECORD.encode()).decode()]
OF_THE_SECOND_FORMAT = [
    *_KEY,
    "xlss.zrecord.0=ePn14LbHQ3ejpamFuaWxiYWesTHMuQZ4AKpXjNMMki1SDVN1zZKBhEmaaZKuZYqxBVDcMM0o0TzNMtHQENm75flF2alFuoZU8zK5UQoAFFZNJw==",
]


def test_records_of_both_formats_are_read() -> None:
    wanted = Label(VOLUME, Kind.VOLUME, State.USED, record=RECORD)
    assert parse_label(OF_THE_FIRST_FORMAT) == wanted
    assert parse_label(OF_THE_SECOND_FORMAT) == wanted
    assert set(wanted.tags) == set(OF_THE_SECOND_FORMAT)


# The same record in other bytes, as another release of zlib may write it.
OTHERWISE_COMPRESSED = [
    *_KEY,
    "xlss.zrecord.0=eD_14LbHQ3ejpamFuaWxiYWesTHMuQZ4AMjxCK8YpxkkW6QapuqaJQMJkzTTJF3LFGMLXeM0wzSjRPM0y0RDQ5AOmHfL84uyU4t0DanmZXKjFAAUVk0n",
]


@pytest.mark.parametrize("tags", [OF_THE_FIRST_FORMAT, OF_THE_SECOND_FORMAT, OTHERWISE_COMPRESSED])
def test_a_change_leaves_nothing_of_the_older_record(tags: list[str]) -> None:
    old = parse_label(tags)
    assert old is not None
    assert old.record == RECORD
    new = replace(old, record=RECORD.replace("worker-1", "worker-2"))
    removed, added = changed_tags(old, new)
    assert (set(tags) - set(removed)) | set(added) == set(new.tags)
    assert parse_label(new.tags) == new

    # And back again, to what was first found: by the account, not by what a look has shown.
    removed, added = changed_tags(new, old)
    assert parse_label((set(new.tags) - set(removed)) | set(added)) == old

    # Where only the state changes, the record stays as it is written.
    removed, added = changed_tags(old, old.with_state(State.BLANK))
    assert (removed, added) == (("xlss.state=used",), ("xlss.state=blank",))


def test_a_record_takes_less_than_half_in_the_tags() -> None:
    label = Label(VOLUME, Kind.VOLUME, State.USED, record=RECORD)
    assert sum(map(len, label.tags)) - sum(map(len, _KEY)) < len(OF_THE_FIRST_FORMAT[-1]) / 2


def test_a_damaged_compressed_record_reads_as_an_empty_one() -> None:
    *key, record = OF_THE_SECOND_FORMAT
    empty = Label(VOLUME, Kind.VOLUME, State.USED, record="")
    assert parse_label([*key, record[:-8]]) == empty
    assert parse_label([*key, record.replace(record[40:44], "AAAA")]) == empty
    assert parse_label([*key, "xlss.zrecord.0=%%%"]) == empty
    # Never an older one in its place.
    assert parse_label([*OF_THE_FIRST_FORMAT, record[:-8]]) == empty


def test_a_change_touches_only_the_tags_that_differ() -> None:
    old = Label(VOLUME, Kind.VOLUME, State.BLANK, record="x" * 2000)
    removed, added = changed_tags(old, old.with_state(State.USED))
    assert (removed, added) == (("xlss.state=blank",), ("xlss.state=used",))

    shorter = Label(VOLUME, Kind.VOLUME, State.BLANK, record="y")
    removed, added = changed_tags(old, shorter)
    remaining = (set(old.tags) - set(removed)) | set(added)
    assert parse_label(remaining) == shorter
