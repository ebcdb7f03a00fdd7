"""What the map is made of: every living model of a space once, with its own vector, whatever the files are like."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.errors import DamageWarning, InputError
from merge_advisor.explore import map_points
from merge_advisor.explore.binary import pack_arrays, unpack_arrays
from merge_advisor.explore.map_points import choose_space, read_points, read_units, score_column
from merge_advisor.hub import Hub
from merge_advisor.hub.values import HubRun, HubScore
from tests.explore.explore_world import HOSTILE, clustered
from tests.hub.hub_world import TIME, entry_of, put


def test_points_are_the_living_models_with_their_columns(tmp_path: Path) -> None:
    clustered(tmp_path, names=HOSTILE)
    with Hub.open(tmp_path) as hub:
        points = read_points(hub, choose_space(hub))
        entries = hub.entries()
        assert points.entries.tolist() == [entry.number for entry in entries] and points.names[:6] == HOSTILE
        for place, entry in enumerate(entries):
            delta = hub.deltas.delta(1, entry.number)
            assert delta is not None
            np.testing.assert_allclose(points.units[place].astype(float), delta / np.linalg.norm(delta), atol=1e-3)
            assert points.words["licence"][points.columns["licence"][place]] == (entry.licence or "unknown")
            assert points.columns["rank"][place] == entry.rank and points.position(entry.number) == place
        assert points.position(10**6) is None and np.abs(points.places).max() == pytest.approx(1)
        assert points.place_vector(hub.deltas.delta(1, 1)) == pytest.approx(points.places[0], abs=5e-3)  # type: ignore[arg-type]
        hub.remove(HOSTILE[0])
        fewer = read_points(hub, 1)
        assert fewer.names == points.names[1:] and fewer.digest != points.digest


def test_vectors_are_read_again_only_where_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(*asked: Any) -> Any:
        read.append(len(asked[3]))
        return read_units(*asked)

    monkeypatch.setattr(map_points, "read_units", counted)
    clustered(tmp_path, names=HOSTILE)
    with Hub.open(tmp_path) as hub:
        first = read_points(hub, 1)
        hub.results.keep_run(HubRun("run", TIME, ("sums",), "merge"))
        entry = hub.entry(int(first.entries[-1]))
        hub.catalogue.keep_entry(replace(entry, licence="cc0-1.0"))
        second = read_points(hub, 1, first)
        assert read == [24] and second.units is first.units and second.places is first.places
        assert second.state != first.state and "cc0-1.0" in second.words["licence"]
        fresh = read_points(hub, 1)
        assert (fresh.state, fresh.digest, fresh.names) == (second.state, second.digest, second.names)
        # the same model with another delta, and a model more: both are other rows
        hub.deltas.keep_delta(1, entry.number, np.ones(16, np.float32))
        third = read_points(hub, 1, second)
        assert read == [24, 24, 24] and third.digest != second.digest and third.names == second.names
        assert third.units[-1] == pytest.approx(np.full(16, 0.25), abs=1e-3)
        put(hub, 90, "more", np.ones(16))
        assert len(read_points(hub, 1, third).names) == 25 and read[-1] == 25


@pytest.mark.parametrize("harm", ["behind", "gone", "damaged"])
def test_vectors_come_from_the_catalogue_where_the_files_lack_them(tmp_path: Path, harm: str) -> None:
    clustered(tmp_path)
    with Hub.open(tmp_path) as hub:
        before = read_points(hub, 1)
    with Hub.open(tmp_path) as hub:
        delta = np.arange(16, dtype=np.float32)
        if harm == "behind":
            kept = hub.catalogue.keep_entry(entry_of(99))
            hub.catalogue.keep_name("base", "late", kept, TIME)
            hub.deltas.keep_delta(1, kept, delta)
        rows = tmp_path / "vectors" / "1" / "rows"
        if harm == "gone":
            rows.unlink()
        if harm == "damaged":
            data = bytearray(rows.read_bytes())
            data[100] ^= 0xFF
            rows.write_bytes(bytes(data))
        told: AbstractContextManager[Any] = nullcontext()
        if harm != "behind":
            told = pytest.warns(DamageWarning, match="all deltas are read instead")
        with told:
            after = read_points(hub, 1)
    np.testing.assert_allclose(after.units[:24].astype(float), before.units.astype(float), atol=2e-3)
    if harm == "behind":
        np.testing.assert_allclose(after.units[24].astype(float), delta / np.linalg.norm(delta), atol=1e-3)


def test_licences_beyond_the_codes_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from merge_advisor.explore import map_points

    monkeypatch.setattr(map_points, "_MOST_WORDS", 2)
    codes, words = map_points._coded(["mit", "mit", "gpl", "gpl", "one", "two", "mit"])
    assert words == ("mit", "gpl", "other") and codes.tolist() == [0, 0, 1, 1, 2, 2, 0]


def test_scores_are_a_column_and_missing_ones_are_no_number(tmp_path: Path) -> None:
    clustered(tmp_path)
    with Hub.open(tmp_path) as hub:
        points = read_points(hub, 1)
        hub.add_score(2, HubScore("sums", "accuracy", 0.5, 0.4, 0.6, 40, "fast 1", "d1"))
        hub.add_score(2, HubScore("sums", "accuracy", 0.7, 0.6, 0.8, 40, "fast 1", "d2"))
        column = score_column(hub, points, "sums", "accuracy")
        assert column[1] == pytest.approx(0.6) and np.isnan(np.delete(column, 1)).all()
        assert np.isnan(score_column(hub, points, "sums", "loss")).all()


def test_a_hub_without_models_and_an_unknown_space_are_one_line(tmp_path: Path) -> None:
    with Hub.open(tmp_path, make=True) as hub:
        with pytest.raises(InputError, match="holds no models; add some with `merge-advisor hub add POOL`"):
            choose_space(hub)
        with pytest.raises(InputError, match="has no space 7; it has none"):
            choose_space(hub, 7)


def test_packed_arrays_come_back_and_nothing_else_is_taken_for_them() -> None:
    arrays: dict[str, Any] = {
        "a": np.array([1.5, np.nan], np.float32),
        "b": np.arange(5, dtype=np.uint8),
        "c": np.zeros(0, np.uint32),
    }
    said, found = unpack_arrays(pack_arrays({"n": "ü"}, arrays))
    assert said["n"] == "ü" and all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())
    assert all(place["offset"] % 8 == 0 for place in said["arrays"].values())
    with pytest.raises(ValueError, match="float64"):
        pack_arrays({}, {"x": np.zeros(1)})
    with pytest.raises(ValueError, match="no packed arrays"):
        unpack_arrays(b"<html>")
