"""Searching by vectors: as exact as the catalogue's own deltas, whatever became of the files beside it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.errors import InputError
from merge_advisor.hub import Hub
from merge_advisor.hub.filters import EntryFilter
from merge_advisor.hub.searching import nearest_in
from merge_advisor.hub.vectors import VectorFiles
from tests.hub.hub_world import filled, put
from tests.hub.vector_world import WIDE, by_hand, found, pairs


def test_a_search_gives_what_comparing_with_all_gives(tmp_path: Path) -> None:
    with filled(tmp_path, 300, WIDE) as hub:
        for seed in range(10):
            query = np.random.default_rng(1000 + seed).normal(size=64)
            search = found(hub, query, 7)
            assert pairs(search) == by_hand(hub, query, 7) and search.exact and search.models == 300
        like = hub.search(like="m3", k=4)
        delta = hub.deltas.delta(1, hub.entry("m3").number)
        assert delta is not None and pairs(like) == [pair for pair in by_hand(hub, delta, 5) if pair[0] != "m3"]
        for k in (1, 299, 300, 5000):
            assert len(found(hub, query, k).hits) == min(k, 300)


def test_near_ties_below_the_rounding_of_the_files_are_told_apart(tmp_path: Path) -> None:
    """Deltas that the files cannot tell apart, more of them than the search asks the files for."""
    with filled(tmp_path, 0, WIDE) as hub:
        rng = np.random.default_rng(0)
        centre = rng.normal(size=64)
        with hub.catalogue.file.transaction():
            for item in range(200):
                put(hub, item, f"m{item}", (centre + 1e-6 * rng.normal(size=64)))
        hub.index.bring_up(1, WIDE)
        assert pairs(found(hub, centre, 5)) == by_hand(hub, centre, 5)


def test_a_filter_chooses_before_the_search(tmp_path: Path) -> None:
    with filled(tmp_path, 100, WIDE) as hub:
        query = np.random.default_rng(7).normal(size=64)
        search = found(hub, query, 5, "licence=mit")
        allowed = {entry.id for entry in hub.entries("licence=mit")}
        assert pairs(search) == [pair for pair in by_hand(hub, query, 100) if pair[0] in allowed][:5]
        assert search.models == len(allowed) == 50
        assert found(hub, query, 5, "rank>100000").hits == ()


def test_zero_deltas_and_zero_questions_have_no_likeness(tmp_path: Path) -> None:
    with filled(tmp_path, 3, WIDE) as hub:
        put(hub, 50, "zero", np.zeros(64, np.float32))
        hub.index.bring_up(1, WIDE)
        scores = dict(pairs(found(hub, np.ones(64), 10)))
        assert scores["zero"] == 0.0
        search = hub.search(like="zero")
        assert [hit.score for hit in search.hits] == [0.0] * 3 and "its delta is zero" in search.notes[0]


def test_deltas_behind_the_files_removed_ones_and_old_versions(tmp_path: Path) -> None:
    with filled(tmp_path, 40, WIDE) as hub:
        query = np.random.default_rng(3).normal(size=64)
        best = pairs(found(hub, query, 1))[0][0]
        hub.remove(best)
        assert pairs(found(hub, query, 5)) == by_hand(hub, query, 5) and best not in dict(pairs(found(hub, query, 40)))
        second = pairs(found(hub, query, 1))[0][0]
        put(hub, 77, second, -query)
        assert pairs(found(hub, query, 39)) == by_hand(hub, query, 39)
        assert pairs(found(hub, query, 39))[-1] == (second, -1.0)  # its new version, which the files lack
        assert hub.check().index == (f"{tmp_path / 'vectors' / '1'}: lacks the newest 1 deltas",)
        assert hub.index.bring_up(1, WIDE) == 1
        assert hub.check().whole and not hub.check().index and pairs(found(hub, query, 39)) == by_hand(hub, query, 39)
        for name in [entry.id for entry in hub.entries()][:12]:
            hub.remove(name)
        hub.index.bring_up(1, WIDE)  # so many are gone that the files are made anew
        assert VectorFiles(tmp_path / "vectors" / "1", WIDE.digest, 64).state.rows == 28
        assert pairs(found(hub, query, 30)) == by_hand(hub, query, 30)


@pytest.mark.usefixtures("coded")
def test_codes_name_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from merge_advisor.hub import codes

    monkeypatch.setattr(codes, "KEPT_LEAST", 200)
    monkeypatch.setattr(codes, "READ", 60)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 64))
    rows = (centres[rng.integers(0, 20, 3000)] + 0.5 * rng.normal(size=(3000, 64))).astype(np.float32)
    files = VectorFiles(tmp_path / "1", WIDE.digest, 64)
    files.append(range(1, 401), rows[:400])  # none have codes yet
    files.append(range(401, 2990), rows[400:2989])  # all get some
    files.append(range(2990, 3001), rows[2989:])  # these too
    assert files.state.coded == files.state.rows == 3000
    files.check()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    right = 0
    for query in unit[::100]:
        named, exact = files.nearest(query, 10)
        assert not exact and len(named) < 80
        right += len(set(named.tolist()) & set((np.argsort(-(unit @ query))[:10] + 1).tolist()))
    assert right >= 0.95 * 300
    keys = np.arange(1, 3001, 7)
    named, exact = files.nearest(unit[0], 10, keys)
    assert exact and set(named.tolist()) <= set(keys.tolist())
    again = VectorFiles(tmp_path / "2", WIDE.digest, 64)
    for start in range(0, 3000, 1000):
        again.append(range(start + 1, start + 1001), rows[start : start + 1000])
    assert np.array_equal(again.nearest(unit[5], 3)[0][:3], files.nearest(unit[5], 3)[0][:3])


def test_a_reader_follows_what_another_process_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 20, WIDE).close()
    query = np.random.default_rng(5).normal(size=64)
    with Hub.open(tmp_path) as reader, Hub.open(tmp_path) as writer:
        found(reader, query, 3)
        put(writer, 99, "late", query)
        writer.index.bring_up(1, WIDE)
        files = reader.index.files(1, WIDE)
        assert files is not None and files.state.rows == 21
        assert (
            pairs(found(reader, query, 3)) == by_hand(writer, query, 3)
            and pairs(found(reader, query, 1))[0][0] == "late"
        )
        writer.remove("late")
        writer.index.rebuild(1, WIDE)
        assert pairs(found(reader, query, 3)) == by_hand(writer, query, 3)


def test_a_shortlist_is_filled_although_most_of_the_nearest_are_gone(tmp_path: Path) -> None:
    from merge_advisor.hub.shortlist import TaskEvidence, shortlist

    with filled(tmp_path / "hub", 60) as hub:
        query = np.ones(4, np.float32)
        ((number, space),) = hub.catalogue.spaces().items()
        ranked = [hit.entry for hit in nearest_in(hub, (number, space), query, 60).hits]
        for entry in ranked[:50]:
            hub.catalogue.keep_entry(replace(entry, place=str(tmp_path / "nowhere")))
        found = shortlist(hub, TaskEvidence((number, space, query), "", ()), EntryFilter(), 5)
        assert [entry.number for entry in found.entries] == [entry.number for entry in ranked[50:55]]
        assert len(found.gone) == 50


def test_a_search_is_for_one_thing(tmp_path: Path) -> None:
    with filled(tmp_path, 3, WIDE) as hub:
        for asked in ({}, {"like": "m0", "text": "x"}):
            with pytest.raises(InputError, match="give one of `like=ID`, `task=FILE` and `text=WORDS`"):
                hub.search(**asked)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="`k=0`: give 1 or more"):
            hub.search(like="m0", k=0)
        with pytest.raises(InputError, match="has no model 'absent'"):
            hub.search(like="absent")
