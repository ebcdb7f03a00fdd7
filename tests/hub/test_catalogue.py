"""The catalogue of a hub folder: ids, versions, aliases, filters, words, scores; nothing is lost, nothing mixed up."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.cli import main
from merge_advisor.errors import InputError, RunError
from merge_advisor.hub import Hub
from merge_advisor.hub.catalogue import CATALOGUE, Catalogue
from merge_advisor.hub.deltas import HubDeltas
from merge_advisor.hub.filters import FILTER_FIELDS, EntryFilter, read_filter
from merge_advisor.hub.results import savings_lines
from merge_advisor.hub.texts import HubTexts, looked_for
from merge_advisor.hub.values import HubEntry, HubJudged, HubRun, HubScore
from merge_advisor.hub_options import HubSearchOptions
from merge_advisor.scores import RunCost
from merge_advisor.types import Base
from tests.hub.hub_world import SPACE, TIME, entry_of, filled


def ids(hub: Hub, wanted: str) -> list[str]:
    return [entry.id for entry in hub.entries(wanted)]


def test_an_id_with_new_weights_is_a_new_version_and_the_old_one_stays_readable(tmp_path: Path) -> None:
    with filled(tmp_path, 2) as hub:
        old = hub.entry("m0")
        number = hub.catalogue.keep_entry(entry_of(9, fingerprint="new weights"))
        assert hub.catalogue.keep_name("base", "m0", number, TIME) == 2
        assert [(item.version, item.entry, item.current) for item in hub.versions("m0")] == [
            (1, old.number, False), (2, number, True),
        ]  # fmt: skip
        assert hub.entry("m0").fingerprint == "new weights" and hub.entry(old.number).fingerprint == "f0"
        assert hub.entry(old.number).ids == () and hub.entry(old.number).id == f"#{old.number}"
        assert ids(hub, "") == ["m1", "m0"] and hub.count() == 2
        assert hub.deltas.delta(1, old.number) is not None


def test_equal_weights_are_one_entry_with_aliases(tmp_path: Path) -> None:
    with filled(tmp_path, 2) as hub:
        first = hub.entry("m0")
        hub.catalogue.keep_name("base", "copy", first.number, "2026-11-30T00:00:00+00:00")
        assert hub.entry("copy").number == first.number and hub.entry("copy").ids == ("m0", "copy")
        assert hub.remove("m0") == 0 and hub.entry("copy").id == "copy"
        assert hub.remove("copy") == 1 and hub.count() == 1
        with pytest.raises(InputError, match=r"hub .*: has no model 'copy'; it has, for example: m1"):
            hub.entry("copy")


def test_removing_takes_deltas_scores_and_words_along_and_no_number_is_given_twice(tmp_path: Path) -> None:
    with filled(tmp_path, 2) as hub:
        number = hub.entry("m1").number
        hub.add_score("m1", HubScore("sums", "accuracy", 0.5, 0.3, 0.7, 40, "fast 1"))
        assert hub.remove("m1") == 1
        rows = hub.catalogue.file.rows
        for table, column in (("deltas", "entry"), ("scores", "entry"), ("texts", "rowid"), ("names", "entry")):
            assert rows(f"SELECT * FROM {table} WHERE {column} = ?", [number]) == [], table
        assert hub.catalogue.keep_entry(entry_of(7)) == number + 1


def test_the_same_id_on_two_bases_is_two_models(tmp_path: Path) -> None:
    with filled(tmp_path, 1) as hub:
        hub.catalogue.keep_base(Base("org/other", None, "other", "LlamaForCausalLM"), "org/other")
        number = hub.catalogue.keep_entry(HubEntry(0, (), "other", "f0", "adapter"))
        hub.catalogue.keep_name("other", "m0", number, TIME)
        with pytest.raises(InputError, match=r"has 'm0' on several bases \(org/base, org/other\); give `base`"):
            hub.entry("m0")
        assert hub.entry("m0", base="org/other").number == number
        with pytest.raises(InputError, match=r"holds no models of base x, but of org/base, org/other; give another"):
            hub.entry("m0", base="x")
        assert [(item.base.id, item.models) for item in hub.bases()] == [("org/base", 1), ("org/other", 1)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "m0 m1 m2 m3"), ("rank<=4", "m0 m1"), ("rank>4,licence=mit", "m3"), ("licence!=mit", "m0 m2"),
        ("licence=unknown", "m2"), ("license=apache-*", "m0"), ("licence=MIT", "m1 m3"), ("id=m[02]", "m0 m2"),
        ("id!=m0", "m1 m2 m3"), ("base=org/*", "m0 m1 m2 m3"), ("base!=org/base", ""), ("language=de", "m1 m3"),
        ("language!=de", "m0 m2"), ("data_set=squad", "m0"), ("tag=lora", "m0 m1 m2 m3"),
        ("module=v_proj", "m0 m1 m2 m3"),
        ("module=k_*", ""), ("size>=3000", "m3"), ("added>2026-01-01", "m0 m1 m2 m3"),
        ("added=2026-11-29", "m0 m1 m2 m3"), ("added<=2026-11-29", "m0 m1 m2 m3"), ("added>2026-11-29", ""),
        ("added=2026-11", "m0 m1 m2 m3"), ("added<2026-12", "m0 m1 m2 m3"), ("added=2026-1*", "m0 m1 m2 m3"),
        ("kind=checkpoint", ""),
        ("source=s1", "m1"), ("template=alpaca , rank = 8", "m2"), ("revision=", None), ("rank<=x", None),
        ("colour=red", None), ("licence>mit", None), ("rank<=4,,", None), ("id=m0' OR 1=1 --", ""), ("rank=-1", None),
    ],
)  # fmt: skip
def test_filters(tmp_path: Path, text: str, found: str | None) -> None:
    with filled(tmp_path, 4) as hub:
        if found is None:
            with pytest.raises(InputError, match=r"`filter="):
                hub.entries(text)
        else:
            assert ids(hub, text) == found.split()


def test_every_field_of_a_filter_is_a_column(tmp_path: Path) -> None:
    with filled(tmp_path, 1) as hub:
        for field in FILTER_FIELDS:
            hub.catalogue.entries(read_filter(f"{field}={'1' if field in ('rank', 'size') else 'x'}"))


def test_words_are_found_and_nothing_of_them_is_syntax(tmp_path: Path) -> None:
    with filled(tmp_path, 3) as hub:
        number = hub.catalogue.keep_entry(entry_of(5, card="Drafts legal contracts.", tags=("law",)))
        hub.catalogue.keep_name("base", "legalDrafts", number, TIME)
        hub.texts.keep_text(number)
        for text in ("contracts", "LEGAL drafts", "law", 'a "legal" NEAR(x) AND *', "légal"):
            hits = hub.search(text=text).hits
            assert [hit.entry.id for hit in hits] == ["legalDrafts"], text
        assert len(hub.search(text="tags:legal OR").hits) == 1
        for text, said in (("", "has no words"), ("of the", "in words of one letter"), ('"', "in words of one letter")):
            with pytest.raises(InputError, match=rf"`text={text}`: {said}.*give words that a name, a card or tags"):
                hub.search(text=text)
        assert "no name, card or tag has any of these words" in hub.search(text="zzz").notes[0]
        filtered = HubSearchOptions(filter="licence=apache-2.0")
        assert "models that the filter leaves out" in hub.search(text="law", options=filtered).notes[0]
        assert hub.search(text="law").notes == ()
        assert len(looked_for("x" * 5 + " " + " ".join(f"w{n}" for n in range(500)))) == 64


def test_of_many_models_the_rarest_words_alone_are_looked_for(tmp_path: Path) -> None:
    with filled(tmp_path, 12) as hub:
        for item, card in enumerate(("rare contract", "contract clause", "contract clause")):
            number = hub.catalogue.keep_entry(entry_of(20 + item, card=card))
            hub.catalogue.keep_name("base", f"n{item}", number, TIME)
            hub.texts.keep_text(number)

        def found(most: int | None) -> set[int]:
            return {number for number, _ in hub.texts.find_text("card of a rare contract clause", k=99, most_fit=most)}

        # "card" fits 12, "contract" 3, "clause" 2, "rare" 1
        assert [len(found(most)) for most in (None, 15, 14, 6, 5, 2, 1, 0)] == [15, 15, 3, 3, 3, 1, 1, 0]
        assert hub.texts.find_text("contract zzz", most_fit=2) == []


def test_what_is_left_out_to_be_fast_changes_no_answer(tmp_path: Path) -> None:
    with filled(tmp_path, 40) as hub:
        for item in range(12):
            words = "card contract" if item % 2 else "card clause card"
            number = hub.catalogue.keep_entry(entry_of(50 + item, card=f"{words} {'other ' * item}", rank=item + 1))
            hub.catalogue.keep_name("base", f"n{item}", number, TIME)
            hub.texts.keep_text(number)
        hub.catalogue.keep_name("base", "n1", hub.entry("m3").number, TIME)  # what it stood for is no hit any more
        slow, quick = HubTexts(hub.catalogue, beside=10**6), HubTexts(hub.catalogue, few=0, beside=0)
        # "card" is in all: it counts a millionth beside a word that few have, and decides where there is no such word
        for text in ("card", "contract", "card contract", "card of a contract clause", "card zzz", "m3 card", "zzz"):
            for wanted in ("", "rank=4", "rank>9", "id=n1?", "rank=999"):
                for k in (1, 3, 60):
                    found, all_of = (one.find_text(text, read_filter(wanted), k) for one in (quick, slow))
                    assert [number for number, _ in found] == [number for number, _ in all_of], (text, wanted, k)
                    assert np.allclose([fit for _, fit in found], [fit for _, fit in all_of], atol=1e-5)


def test_models_are_counted_as_they_are_listed(tmp_path: Path) -> None:
    with filled(tmp_path, 3) as hub:
        hub.catalogue.keep_name("base", "copy", hub.entry("m0").number, TIME)
        hub.catalogue.keep_name("base", "m1", hub.catalogue.keep_entry(entry_of(9)), TIME)
        other = hub.catalogue.keep_entry(replace(entry_of(10), base="other"))
        hub.catalogue.keep_name("other", "m2", other, TIME)
        for chosen in (EntryFilter(), EntryFilter("e.base = ?", ("base",)), EntryFilter("e.base = ?", ("other",))):
            assert hub.catalogue.count(chosen) == len(hub.catalogue.entries(chosen)) > 0
        assert hub.count() == 4 and hub.count("base=none") == 0


def test_a_fit_is_a_number_where_every_card_has_the_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with filled(tmp_path, 4) as hub:
        hits = hub.search(text="card").hits
        assert len(hits) == 4 and all(0 < hit.score < 1e-4 for hit in hits)
    assert main(["hub", "search", "--text", "card", "--hub", str(tmp_path)]) == 0
    cells = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "adapter" in line]
    assert len(cells) == 4 and all(float(cell) > 0 for cell in cells)
    for words, code in (("", 2), ("the", 2), ("zzz", 0)):
        assert main(["hub", "search", "--text", words, "--hub", str(tmp_path)]) == code
        out, err = capsys.readouterr()
        assert err.count("\n") == (code == 2) and "--text" in err + "--text" and "Traceback" not in err
    assert "note: no name, card or tag has any of these words" in out and "--task FILE of examples" in out


def test_scores_and_runs_are_kept(tmp_path: Path) -> None:
    with filled(tmp_path, 2) as hub:
        first = HubScore("sums", "accuracy", 0.5, 0.3, 0.7, 40, "fast 1", "d1")
        hub.add_score("m0", first)
        better = HubScore("sums", "accuracy", 0.6, 0.4, 0.8, 40, "fast 1", "d1")
        hub.add_score("m0", better)
        assert hub.entry("m0").scores == (better,) and hub.entry("m1").scores == ()
        hub.results.keep_run(HubRun("runs/a", TIME, ("sums",), ""))
        hub.results.keep_run(HubRun("runs/a", TIME, ("sums",), "merge"))
        assert hub.runs() == (HubRun("runs/a", TIME, ("sums",), "merge"),)
        assert savings_lines(hub.savings()) == ["1 run, none of which recorded what it took"]


def test_what_runs_took_is_kept_and_summed_and_nothing_is_made_up(tmp_path: Path) -> None:
    scored = RunCost(1000, 60.0, 2**31, every_candidate_seconds=900.0, shots_forwards=300, shots_seconds=20.0)
    unscored = RunCost(500, 30.0, shots_forwards=200, shots_seconds=0.0)
    with filled(tmp_path, 1) as hub:
        assert savings_lines(hub.savings()) == ["no runs planned from it yet"]
        for name, cost in (("a", scored), ("b", unscored), ("c", None)):
            hub.results.keep_run(HubRun(name, TIME, ("sums",), "", cost))
        assert {run.folder: run.cost for run in hub.runs()} == {"a": scored, "b": unscored, "c": None}
        took, every, lora = savings_lines(hub.savings(), price=2.0)
        counted = "2 runs (1 more recorded nothing, and are in no sum)"
        assert took == f"{counted}: 1500 forward passes and 90.0 s (0.05); 2.0 GiB at most"
        of = "the 1 of 2 runs that measured it: 900.0 s (0.50)"
        assert every == (
            f"instead: scoring every candidate, those that a shortlist left out too, on the rows of {of}, "
            "where planning and scoring took 60.0 s (0.03)"
        )
        assert lora.startswith(
            "instead: training the LoRA of the shots alone in both runs: 500 forward passes, 20.0 s "
        )
        hub.results.keep_run(HubRun("a", TIME, ("sums",), ""))
        assert hub.savings().without_figures == 2 and hub.check().whole


def test_gates_are_listed_and_summed_beside_the_runs(tmp_path: Path) -> None:
    gate = RunCost(80, 5.0, 2**30, 60.0, candidates=24, every_candidate_forwards=960)
    with filled(tmp_path, 1) as hub:
        for model, cost in (("new", gate), ("newer", replace(gate, every_candidate_seconds=None)), ("newest", None)):
            one = HubJudged("gate", model, "old", ("task sums", "guard g"), "passed", TIME, cost)
            hub.results.keep_judged(model, one)
            hub.results.keep_judged(model, one)  # is there already
        assert [one.model for one in hub.judged()] == ["newest", "newer", "new"]
        assert hub.judged()[2] == HubJudged("gate", "new", "old", ("task sums", "guard g"), "passed", TIME, gate)
        none, took, every = savings_lines(hub.savings(), price=3600.0)
        assert none == "no runs planned from it yet"
        assert took == "2 gates, models judged for watched pools among them: 160 forward passes and 10.0 s (10.00)"
        assert every == (
            "instead: scoring every candidate on the rows of the 1 of them that measured it: 960 forward passes, "
            "60.0 s (60.00), where they took 5.0 s (5.00)"
        )
        hub.results.keep_run(HubRun("a", TIME, ("sums",), "", RunCost(10, 1.0)))
        assert hub.savings().peak_bytes == 2**30 and len(savings_lines(hub.savings())) == 3
        hub.catalogue.file.run("UPDATE judged SET outcome = 'failed' WHERE number = 2")
        assert hub.check().damaged == ("gates: 1 rows of the catalogue are not what was written",)
        assert hub.check(repair=True).whole and [one.model for one in hub.judged()] == ["newest", "new"]


def test_a_hub_from_before_costs_were_kept_is_brought_up(tmp_path: Path) -> None:
    with filled(tmp_path, 2) as hub:
        hub.results.keep_run(HubRun("runs/a", TIME, ("sums",), "merge"))
        for table in ("costs", "judged"):
            hub.catalogue.file.run(f"DROP TABLE {table}")
        hub.catalogue.file.run("PRAGMA user_version = 1")
    with Hub.open(tmp_path) as hub:
        assert hub.runs() == (HubRun("runs/a", TIME, ("sums",), "merge"),) and hub.check().whole


def test_deltas_are_kept_byte_for_byte_and_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    delta = np.array([1.25, -0.0, 3e-38, -2.5e20], np.float32)
    with filled(tmp_path, 0) as hub:
        number = hub.catalogue.keep_entry(entry_of(0))
        space = hub.catalogue.keep_space(SPACE)
        hub.deltas.keep_delta(space, number, delta)
        found = hub.deltas.delta(space, number)
        assert found is not None and found.tobytes() == delta.tobytes()
        assert hub.catalogue.keep_space(SPACE) == space == hub.catalogue.space_number(SPACE)
    path = tmp_path / CATALOGUE
    data = path.read_bytes()
    assert data.count(delta.tobytes()) == 1
    path.write_bytes(data.replace(delta.tobytes(), delta.tobytes()[:-1] + b"\x61"))
    with Hub.open(tmp_path) as hub, pytest.raises(RunError, match="was damaged; `merge-advisor hub check --repair`"):
        hub.deltas.delta(space, number)


def test_no_hub_a_newer_one_and_something_else_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"is no hub folder \(no catalogue.sqlite\); make one with `merge-advisor hub add`"
    ):
        Hub.open(tmp_path)
    assert not list(tmp_path.iterdir())
    filled(tmp_path / "hub", 1).close()
    with sqlite3.connect(tmp_path / "hub" / CATALOGUE) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match=r"written by a newer merge-advisor .* name another `hub`"):
        Hub.open(tmp_path / "hub")
    (tmp_path / CATALOGUE).write_text("this is text, long enough to be read as a header of something else" * 20)
    with pytest.raises(RunError, match=r"is damaged, or no hub catalogue"):
        Hub.open(tmp_path)


def test_what_cannot_be_written_is_read(tmp_path: Path) -> None:
    """As a hub on a disk that is mounted for reading."""
    filled(tmp_path, 2).close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with Catalogue(tmp_path, make=False, frozen=True) as catalogue:
        assert [entry.id for entry in catalogue.entries()] == ["m0", "m1"]
        assert HubDeltas(catalogue).delta_counts(1)[0] == 2 and HubTexts(catalogue).find_text("m1")
        with pytest.raises(RunError, match=r"readonly|read-only"):
            catalogue.keep_base(Base("org/other", None, "other", "X"), "x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
