"""What every cluster store has to do. A new store is added to ``STORES`` and must pass as it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import AlreadyExists, Conflict, NotFound, Unavailable
from cluster.sqlite_store import SqliteStore
from cluster.store import Event, Record, RecordKind, RevisionExpired, Store

VOLUME, SNAPSHOT = RecordKind.VOLUME, RecordKind.SNAPSHOT
HISTORY = 50

# Name -> opens the store that belongs to a directory; the same one when called again.
STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda directory: SqliteStore(directory / "store.db", history=HISTORY),
}


@pytest.fixture(params=sorted(STORES))
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    return lambda: STORES[request.param](tmp_path)


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Iterator[Store]:
    store = reopen()
    yield store
    store.close()


def test_a_record_comes_back_as_it_was_written(store: Store) -> None:
    value = {"name": "ä", "size": 1 << 60, "nested": {"list": [1, 2.5, None, True]}}
    made = store.create(VOLUME, "v1", value)
    assert made == Record(VOLUME, "v1", made.revision, value)
    assert made.revision > 0
    assert store.get(VOLUME, "v1") == made


def test_a_record_is_not_shared_with_its_writer(store: Store) -> None:
    value = {"nodes": ["n1"]}
    made = store.create(VOLUME, "v1", value)
    value["nodes"].append("n2")
    made.value["nodes"].append("n3")
    assert store.get(VOLUME, "v1").value == {"nodes": ["n1"]}


def test_kinds_do_not_share_keys(store: Store) -> None:
    store.create(VOLUME, "x", {"a": 1})
    store.create(SNAPSHOT, "x", {"a": 2})
    assert store.get(VOLUME, "x").value == {"a": 1}
    assert store.get(SNAPSHOT, "x").value == {"a": 2}


def test_what_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound):
        store.get(VOLUME, "v1")
    with pytest.raises(NotFound):
        store.update(VOLUME, "v1", {}, 1)
    with pytest.raises(NotFound):
        store.delete(VOLUME, "v1", 1)


def test_a_key_can_be_claimed_once(store: Store) -> None:
    store.create(VOLUME, "v1", {"by": "first"})
    with pytest.raises(AlreadyExists):
        store.create(VOLUME, "v1", {"by": "second"})
    assert store.get(VOLUME, "v1").value == {"by": "first"}


def test_revisions_rise_over_all_kinds(store: Store) -> None:
    first = store.create(VOLUME, "v1", {}).revision
    second = store.create(SNAPSHOT, "s1", {}).revision
    third = store.update(VOLUME, "v1", {}, first).revision
    assert first < second < third
    assert store.list(SNAPSHOT)[1] >= third


def test_compare_and_swap(store: Store) -> None:
    first = store.create(VOLUME, "v1", {"n": 1})
    second = store.update(VOLUME, "v1", {"n": 2}, first.revision)
    with pytest.raises(Conflict):
        store.update(VOLUME, "v1", {"n": 3}, first.revision)
    with pytest.raises(Conflict):
        store.delete(VOLUME, "v1", first.revision)
    assert store.get(VOLUME, "v1") == second
    store.delete(VOLUME, "v1", second.revision)
    with pytest.raises(NotFound):
        store.get(VOLUME, "v1")


def test_a_deleted_and_recreated_record_has_another_revision(store: Store) -> None:
    old = store.create(VOLUME, "v1", {})
    store.delete(VOLUME, "v1", old.revision)
    new = store.create(VOLUME, "v1", {})
    assert new.revision > old.revision
    with pytest.raises(Conflict):
        store.delete(VOLUME, "v1", old.revision)


def test_counting_together_from_many_threads_loses_nothing(store: Store) -> None:
    store.create(VOLUME, "counter", {"n": 0})

    def count() -> None:
        done = 0
        while done < 10:
            record = store.get(VOLUME, "counter")
            try:
                store.update(VOLUME, "counter", {"n": record.value["n"] + 1}, record.revision)
                done += 1
            except Conflict:
                pass

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(count) for _ in range(8)]:
            future.result()
    assert store.get(VOLUME, "counter").value == {"n": 80}


def test_of_many_threads_that_claim_a_key_one_wins(store: Store) -> None:
    def claim(number: int) -> bool:
        try:
            store.create(VOLUME, "v1", {"by": number})
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(claim, range(16))) == 1


def test_lists_are_in_order_and_in_pages(store: Store) -> None:
    for key in ("v3", "v1", "v2", "v4"):
        store.create(VOLUME, key, {})
    store.create(SNAPSHOT, "v0", {})
    assert _keys(store.list(VOLUME)[0]) == ["v1", "v2", "v3", "v4"]
    assert _keys(store.list(VOLUME, limit=2)[0]) == ["v1", "v2"]
    assert _keys(store.list(VOLUME, after="v2", limit=5)[0]) == ["v3", "v4"]
    assert _keys(store.list(VOLUME, after="v4")[0]) == []


def test_a_page_goes_on_behind_a_key_that_was_deleted_in_between(store: Store) -> None:
    for key in ("v1", "v2", "v3"):
        store.create(VOLUME, key, {})
    (last,), _ = store.list(VOLUME, limit=1)
    store.delete(VOLUME, last.key, last.revision)
    assert _keys(store.list(VOLUME, after=last.key)[0]) == ["v2", "v3"]


def test_watching_from_a_list_shows_each_change_once(store: Store) -> None:
    store.create(VOLUME, "v1", {"n": 0})
    _, revision = store.list(VOLUME)
    made = store.create(VOLUME, "v2", {"n": 1})
    store.create(SNAPSHOT, "s1", {})
    changed = store.update(VOLUME, "v2", {"n": 2}, made.revision)
    store.delete(VOLUME, "v2", changed.revision)
    events = list(store.watch(VOLUME, revision, timeout=0))
    assert events[:2] == [Event(made, False), Event(changed, False)]
    assert events[2].deleted
    assert events[2].record.value == {"n": 2}
    assert len(events) == 3
    assert list(store.watch(VOLUME, events[0].record.revision, timeout=0)) == events[1:]
    assert list(store.watch(VOLUME, events[2].record.revision, timeout=0)) == []


def test_a_watch_waits_for_what_is_still_to_come(store: Store) -> None:
    _, revision = store.list(VOLUME)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(lambda: next(iter(store.watch(VOLUME, revision, timeout=30))))
        made = store.create(VOLUME, "v1", {})
        assert first.result() == Event(made, False)


def test_watchers_under_load_miss_nothing(store: Store) -> None:
    _, revision = store.list(VOLUME)
    started = threading.Barrier(3)

    def watch() -> list[str]:
        started.wait()
        return [event.record.key for event in store.watch(VOLUME, revision, timeout=2)]

    with ThreadPoolExecutor(2) as threads:
        watchers = [threads.submit(watch) for _ in range(2)]
        started.wait()
        keys = [f"v{number:02}" for number in range(HISTORY // 2)]
        for key in keys:
            store.create(VOLUME, key, {})
            store.create(SNAPSHOT, key, {})
        assert [watcher.result() for watcher in watchers] == [keys, keys]


def test_a_revision_that_is_too_old_means_listing_again(store: Store) -> None:
    old = store.create(VOLUME, "v1", {}).revision
    record = store.create(SNAPSHOT, "s1", {"n": 0})
    for number in range(3 * HISTORY):
        record = store.update(SNAPSHOT, "s1", {"n": number}, record.revision)
    with pytest.raises(RevisionExpired):
        list(store.watch(VOLUME, old, timeout=0))
    _, revision = store.list(VOLUME)
    made = store.create(VOLUME, "v2", {})
    assert list(store.watch(VOLUME, revision, timeout=0)) == [Event(made, False)]


def test_a_revision_from_another_life_of_the_store_means_listing_again(store: Store) -> None:
    _, revision = store.list(VOLUME)
    with pytest.raises(RevisionExpired):
        list(store.watch(VOLUME, revision + 1000, timeout=0))


def test_a_reopened_store_goes_on_where_it_was(reopen: Callable[[], Store]) -> None:
    store = reopen()
    kept = store.create(VOLUME, "v1", {"n": 1})
    gone = store.create(VOLUME, "v2", {})
    store.delete(VOLUME, "v2", gone.revision)
    store.close()
    store = reopen()
    assert store.list(VOLUME)[0] == [kept]
    assert [event.record.key for event in store.watch(VOLUME, kept.revision, timeout=0)] == [
        "v2",
        "v2",
    ]
    assert store.create(VOLUME, "v3", {}).revision > gone.revision
    store.close()


def test_a_closed_store_says_so(reopen: Callable[[], Store]) -> None:
    store = reopen()
    store.close()
    store.close()
    with pytest.raises(Unavailable):
        store.get(VOLUME, "v1")


def _keys(records: list[Record]) -> list[str]:
    return [record.key for record in records]
