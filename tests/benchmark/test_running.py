"""Running a benchmark on tiny models: every unit once, the right cost on the right arm, failures kept."""

import fnmatch
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.benchmark.analysis.findings import arm_summaries
from merge_advisor.benchmark.bench import conclude
from merge_advisor.benchmark.running.arms import halving_passes, sets_within
from merge_advisor.benchmark.running.bench_run import measure_setup
from merge_advisor.benchmark.running.controls import redrawn
from merge_advisor.benchmark.running.ledger import Ledger, key_of
from merge_advisor.benchmark.running.units import result_keys, select_keys
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.benchmark.values import BenchResults, Result
from merge_advisor.errors import InputError, RunError
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, inner
from tests.support.bench_setups import SETUP, TASKS, Places, write_world
from tests.support.plugins import install_plugin

TUNING = SETUP["tasks"]["tuning"]
ROWS = TUNING + SETUP["tasks"]["shots"]
HUB = {"composition": "lorahub", "tuner": {"sampler": "lorahub", "trials": 6, "objective": "lorahub"}}
ARMS = [
    *SETUP["arms"],
    {"name": "words", "strategy": "text"},
    {"name": "single", "strategy": "shot_loss", "k": [1, 2]},
    {"name": "by the loss", "strategy": "rerank:pool=3", "choose_by": "loss"},
    {"name": "joined", "strategy": "rerank:pool=3", "shots_lora": True},
    {"name": "joined random", "strategy": "random", "match": "joined", "shots_lora": True},
    {"name": "tuned", "strategy": "top_k", "tuner": {"sampler": "gradient", "trials": 7}},
    {"name": "hub", "strategy": "random", **HUB},
    {"name": "ranked hub", "strategy": "rerank:pool=3", **HUB},
    {"name": "matched hub", "strategy": "random", "match": "ranked hub", **HUB},
]  # fmt: skip


@pytest.fixture(scope="module")
def ran(places: Places, tmp_path_factory: pytest.TempPathFactory) -> BenchResults:
    folder = tmp_path_factory.mktemp("bench")
    path = write_world(folder, arms=ARMS, views=["own-in", "own-out", "family-out"])
    return measure_setup(path, folder / "out", **places)


def of(measured: BenchResults, arm: str, **wanted: Any) -> list[Result]:
    """Results of an arm by unit, view and k."""
    found = [result for result in measured.results if result.arm == arm]
    for name, value in wanted.items():
        found = [r for r in found if getattr(r, name, None) == value or getattr(r.unit, name, None) == value]
    assert found
    return found


def test_every_result_is_there_once(ran: BenchResults) -> None:
    assert [key_of(result) for result in ran.results] == sorted(result_keys(ran.setup, list(TASKS)))
    assert ran.wanted == len(ran.results) == 3 * 2 * 2 * 3 * (7 + len(ARMS) + 1)
    assert not ran.failed, ran.failed[:3]
    for result in ran.results:
        assert result.rows == 5 and 0 <= result.accuracy <= 1 and 0 <= result.valid <= 1 and result.merge
        assert result.oracle == (result.arm in ("majority-oracle", "best-single-oracle"))
        assert (result.loss is None) == result.arm.startswith("majority")


def test_a_second_run_measures_nothing(ran: BenchResults, places: Places) -> None:
    with Ledger(ran.folder) as ledger:
        before = ledger.results()
    again = measure_setup(ran.folder.parent / "setup.yaml", ran.folder, **places)
    assert again.results == before  # seconds included


def test_what_is_charged(ran: BenchResults) -> None:
    """Bare choosing; the finetune where the task delta was read or shots_lora was offered; trials of a tuner."""
    finetune = {(r.unit.task, r.unit.shot_draw): r.forwards for r in of(ran, "shots_lora")}
    assert all(cost > 0 for cost in finetune.values())
    for result in of(ran, "nearest", view="own-out"):
        scale = result.forwards - finetune[result.unit.task, result.unit.shot_draw] - 5
        assert 2 * ROWS <= scale <= 8 * ROWS and scale % ROWS == 0
    for result in of(ran, "words"):
        assert 2 * ROWS <= result.forwards <= 8 * ROWS  # reads no delta
    for result in of(ran, "default"):
        assert result.forwards >= 3 * ROWS + ROWS + halving_passes(3, ROWS) + 2 * ROWS  # gradient, base, singles, scale
    joined = {(r.unit, r.view): r.forwards for r in of(ran, "joined")}
    for result in of(ran, "default"):
        extra = joined[result.unit, result.view] - result.forwards
        assert 0 < extra - finetune[result.unit.task, result.unit.shot_draw] <= 10 * TUNING
    untuned = {(r.unit, r.view): r.forwards for r in of(ran, "nearest")}
    for result in of(ran, "tuned"):
        assert result.forwards - untuned[result.unit, result.view] >= 7 * ROWS
    for result in of(ran, "hub"):
        assert result.forwards == 6 * ROWS  # no search of the scale: it begins at 0
    for name in ("base", "icl"):
        assert all(result.forwards == 0 and result.members == () for result in of(ran, name))


def test_icl_shows_the_rows_learned_from(ran: BenchResults) -> None:
    """Another model in every draw of the shots, the same in all others."""
    found = of(ran, "icl")
    assert {result.reason for result in found} == {f"icl has {TUNING + 3} of {TUNING + 3} examples in its prompt"}
    merges = {(result.unit.task, result.unit.shot_draw, result.merge, result.loss) for result in found}
    assert len(merges) == len({merge for _, _, merge, _ in merges}) == 3 * 2
    base = {result.unit: result.loss for result in of(ran, "base")}
    assert all(result.loss != base[result.unit] and not result.oracle for result in found)


@pytest.mark.parametrize(("arm", "other"), [
    ("random", "default"), ("joined random", "joined"), ("matched hub", "ranked hub"),
])  # fmt: skip
def test_a_match_spends_what_its_arm_spent(ran: BenchResults, arm: str, other: str) -> None:
    """All of it but what pays for no further set at two scales."""
    spent = {(r.unit, r.view): r.forwards for r in of(ran, other)}
    for result in of(ran, arm):
        left = spent[result.unit, result.view] - result.forwards
        assert 0 <= left < 2 * ROWS and sum(weight != 0 for _, weight in result.members) <= 3
        assert result.forwards > 0.9 * spent[result.unit, result.view]


@pytest.mark.parametrize("k", [1, 2, 4, 20])
@pytest.mark.parametrize("rows", [1, 5, 8])
def test_sets_fit_their_budget(k: int, rows: int) -> None:
    """Counted anew: a strategy that measures so many sets spends no more, and one set more would not fit."""
    for budget in range(2 * rows, 400 * rows, 7):
        sets, search = sets_within(budget, rows, k)
        scales = 1 if k == 1 else 2
        known = (1 if search < 5 else scales) if sets > 1 else 0  # the search of the scale finds them measured
        spent = (search - known) * rows + (scales * halving_passes(sets, rows) if sets > 1 else 0)
        assert spent <= budget
        one_more = scales * halving_passes(sets + 1, rows) + (search - (1 if search < 5 else scales)) * rows
        assert one_more > budget
        sets, search = sets_within(budget, rows, k, 0)  # a tuner does without the scale
        assert search == 0 and (sets == 1 or scales * halving_passes(sets, rows) <= budget)
        assert scales * halving_passes(sets + 1, rows) > budget


def test_halving_is_counted_as_it_runs() -> None:
    """11 on 10 of 20 rows, 6 on all; one alone on all at once."""
    assert halving_passes(11, 20) == 11 * 10 + 6 * 10
    assert halving_passes(2, 20) == 2 * 10 + 1 * 10
    assert halving_passes(1, 20) == 20
    assert halving_passes(8, 5) == 8 * 4 + 4 * 1  # four rows at least


def test_views_keep_own_and_family_out(ran: BenchResults) -> None:
    pool = {"own-in": 6, "own-out": 5, "family-out": 3}
    for view in pool:
        members = {name for r in of(ran, "random", view=view, task="colour") for name, _ in r.members}
        assert members
        if view == "own-out":
            assert "a0" not in members
        if view == "family-out":  # a0 is the task's own, and of its family; a1 and a2 have names nobody mapped
            assert "a0" not in members
    assert {r.members[0][0] for r in of(ran, "best-single-oracle", task="colour", view="own-out")}.isdisjoint({"a0"})


def test_the_best_single_is_the_best(ran: BenchResults) -> None:
    with Ledger(ran.folder) as ledger:
        singles = ledger.singles()
    assert len(singles) == 3 * 6
    for result in of(ran, "best-single-oracle", view="own-in"):
        mine = {name: (-accuracy, loss) for task, name, accuracy, loss in singles if task == result.unit.task}
        assert (-result.accuracy, result.loss) == min(mine.values())


def test_what_depends_on_no_chance_is_the_same_in_all_draws(ran: BenchResults) -> None:
    for arm in ("default", "nearest", "words"):
        merges: dict[object, set[str]] = {}
        for result in of(ran, arm):
            merges.setdefault((result.unit.task, result.unit.shot_draw, result.view), set()).add(result.merge)
        assert all(len(found) == 1 for found in merges.values())
    drawn = {r.unit.selection_draw: r.members for r in of(ran, "random-adapters", task="count", view="own-in")}
    assert drawn[0] != drawn[1] and all(name.startswith("random ") for name, _ in drawn[0])
    for name in ("base", "majority-oracle"):
        assert len({(r.unit.task, r.accuracy, r.loss) for r in of(ran, name)}) == 3


def test_predictions_are_drops_of_the_choosing_loss(ran: BenchResults) -> None:
    for arm in ("default", "random", "nearest", "joined", "random-adapters"):
        predicted = [result.predicted for result in of(ran, arm)]
        # the search of the scale looks at 0
        assert all(gain is not None and gain >= -1e-6 for gain in predicted), arm
    assert all(result.predicted is None for arm in ("base", "icl", "majority") for result in of(ran, arm))
    with_choices = {name for name, labels in TASKS.items() if labels}
    assert with_choices and with_choices != set(TASKS)
    for result in of(ran, "default"):
        assert (result.came is not None) == (result.unit.task in with_choices)
    assert all(result.came is None for result in of(ran, "by the loss"))


def test_equal_merges_are_scored_once(places: Places, tmp_path: Path) -> None:
    arms = [{"name": "one", "strategy": "top_k"}, {"name": "two", "strategy": "top_k:centre=false"}]
    path = write_world(tmp_path, arms=arms, controls=[], primary={"better": "one", "than": "two", "k": 2}, seed=7)
    found = measure_setup(path, tmp_path / "out", **places | {"cache": tmp_path / "cache"})
    one, two = ({r.unit: r for r in of(found, name)} for name in ("one", "two"))
    assert all(replace(two[unit], arm="one", seconds=one[unit].seconds) == one[unit] for unit in one)
    with open_session(places["base"], cache=tmp_path / "cache") as session:
        query = "SELECT value FROM measured WHERE value LIKE '%outputs%'"
        kept = session.memo.store._file.rows(query)
    with_choices = sum(labels is not None for labels in TASKS.values())  # what a gain comes to needs the base's score
    assert len(kept) == len({r.merge for r in found.results}) + with_choices


BRITTLE = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from merge_advisor.select import Choice, Pick

@dataclass(frozen=True)
class Brittle:
    name: ClassVar[str] = "brittle"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "nothing"
    stops: ClassVar[str] = ""
    def select(self, evidence, k):
        if "count" in evidence.query and Path(__file__).with_name("broken").exists():
            raise ZeroDivisionError("two\\nlines")
        return Choice((Pick(0),), "first")
"""


def test_what_crashes_is_kept_as_failed_and_tried_anew(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install_plugin(tmp_path / "site", "strategy", "brittle", "Brittle", BRITTLE)
    (site / "broken").touch()
    monkeypatch.syspath_prepend(site)
    arms = [{"name": "brittle", "strategy": "brittle"}, {"name": "after", "strategy": "random", "match": "brittle"},
            {"name": "checkpoints", "strategy": "text", "composition": "slerp"}, *SETUP["arms"]]  # fmt: skip
    path = write_world(tmp_path, arms=arms, controls=["base"], draws={"shots": 1, "selections": 1})
    found = measure_setup(path, tmp_path / "out", **places)
    assert len(found.results) == found.wanted == 21
    reasons = {(r.arm, r.unit.task): r.reason for r in found.failed}
    assert reasons.pop(("brittle", "count")) == "ZeroDivisionError: two lines"
    assert reasons.pop(("after", "count")) == "arm 'brittle', whose cost it matches, has no result here"
    assert reasons == {
        ("checkpoints", task): f"task {task}: composition slerp takes checkpoints, and the view has none"
        for task in TASKS
    }
    assert all(np.isnan(r.accuracy) and r.loss is None for r in found.failed)
    (site / "broken").unlink()
    again = measure_setup(path, tmp_path / "out", **places)
    assert {r.arm for r in again.failed} == {"checkpoints"}
    assert set(again.results) > {r for r in found.results if r.status == "done"}


@pytest.mark.parametrize(
    ("pattern", "size"),
    [("*", 3 * 2 * 2 * 10), ("*/2", 3 * 2 * 2 * 10), ("*#0.*", 3 * 2 * 10), ("*/count/*/2#1.1", 10), ("base/*#0.1", 3)],
)
def test_only_by_draws(tmp_path: Path, pattern: str, size: int) -> None:
    """A pattern may name the draws of shots and selections by their numbers."""
    setup, _ = read_setup(write_world(tmp_path))
    every = list(result_keys(setup, list(TASKS)))
    found = select_keys(every, [pattern], setup)
    assert len(found) == size
    if "#" in pattern:
        drawn = [f"{key.shot_draw}.{key.selection_draw}" for key in found]
        assert drawn == fnmatch.filter(drawn, pattern.partition("#")[2])
    with pytest.raises(InputError, match="fits nothing"):
        select_keys(every, ["*#2.0"], setup)


def test_only_what_is_named_and_what_it_matches(places: Places, tmp_path: Path) -> None:
    path = write_world(tmp_path)
    found = measure_setup(path, tmp_path / "out", only=["random/count/*"], **places)
    assert {(r.arm, r.unit.task) for r in found.results} == {("random", "count"), ("default", "count")}
    assert "`only` took 8 of" in found.notes[-1]
    with pytest.raises(InputError, match=r"`only=rnd/\*` fits nothing"):
        measure_setup(path, tmp_path / "out", only=["rnd/*"], **places)
    whole = measure_setup(path, tmp_path / "out", **places)
    assert len(whole.results) == whole.wanted
    assert set(found.results) < set(whole.results)


def test_another_setup_is_refused(ran: BenchResults, places: Places, tmp_path: Path) -> None:
    path = write_world(tmp_path, arms=ARMS, views=["own-out"], seed=1)
    with pytest.raises(RunError, match="another rows or families of the tasks, seed, view family-out, view own-in;"):
        measure_setup(path, ran.folder, **places)


def test_a_setup_may_become_more_and_what_came_late_is_said(places: Places, tmp_path: Path) -> None:
    few = {"arms": SETUP["arms"][:2], "controls": ["base"], "draws": {"shots": 1, "selections": 1}}
    first = measure_setup(write_world(tmp_path, **few), tmp_path / "out", **places)
    asked = {"better": "default", "than": "words", "k": 1}
    words = {"name": "words", "strategy": "text"}
    grown = few | {
        "arms": [*few["arms"], words], "controls": ["base", "majority"], "views": ["own-in", "own-out"], "k": [1, 2],
        "secondaries": [asked],
    }  # fmt: skip
    path = write_world(tmp_path, **grown)
    found, fresh = measure_setup(path, tmp_path / "out", **places), measure_setup(path, tmp_path / "fresh", **places)
    assert [replace(r, seconds=0) for r in found.results] == [replace(r, seconds=0) for r in fresh.results]
    assert {key_of(r) for r in first.results} < {key_of(r) for r in found.results}
    late = [
        "arm words", "control majority", "k 1 of default", "k 1 of random", "k 1 of the controls", "k 1 of words",
        "k 2 of words", "question default against words, own-out, k = 1 (accuracy)", "view own-in",
    ]  # fmt: skip
    assert [(part.name, part.results) for part in found.added] == [(name, len(first.results)) for name in late]
    assert fresh.added == ()
    for measured, said in (found, True), (fresh, False):
        conclude(measured)
        text = (measured.folder / "report.md").read_text()
        told = (
            "Added when 9 results were there, so not fixed before them: arm words; control majority; k 1 of default; "
        )
        assert (told + "k 1 of random; k 1 of the controls; question default against words" in text) is said
    for change, refusal in (
        ({"arms": [*few["arms"], words | {"strategy": "top_k"}]}, "another arm words; give"),
        ({"arms": few["arms"], "secondaries": []}, r"another arm words, k 1 of words, k 2 of words, question .*; give"),
        ({"views": ["own-out"]}, "another view own-in; give"),
        ({"smallest_gain": 2.0}, "another smallest_gain; give"),
        ({"draws": {"shots": 2, "selections": 1}}, "another draws; give"),
        ({"primary": asked}, "another primary; give"),
    ):
        with pytest.raises(RunError, match=refusal):
            measure_setup(write_world(tmp_path, **grown | change), tmp_path / "out", **places)
    assert measure_setup(write_world(tmp_path, **grown), tmp_path / "out", **places).added == found.added


def test_nothing_left_in_a_view_is_said_at_once(places: Places, tmp_path: Path, tiny_pool: Path) -> None:
    path = write_world(tmp_path)
    with pytest.raises(InputError, match="task colour: no candidate is left in the view own-out"):
        measure_setup(path, tmp_path / "out", **places | {"pool": str(tiny_pool / "a0")})
    assert not (tmp_path / "out").exists()


def test_an_own_adapter_that_is_not_there_is_named(places: Places, tmp_path: Path) -> None:
    path = write_world(tmp_path, tasks=SETUP["tasks"] | {"own": {"colour": "z9"}})
    with pytest.raises(InputError, match=r"tasks\.own\.colour: the pool has no candidate 'z9'"):
        measure_setup(path, tmp_path / "out", **places)


def test_the_setup_is_kept_beside_the_results_without_paths(ran: BenchResults, places: Places) -> None:
    text = (ran.folder / "setup.json").read_text()
    assert json.loads(text)["pool"] == "pool" and places["base"] not in text and str(places["cache"]) not in text


def test_redrawn_weights_have_shape_and_size() -> None:
    rng = np.random.default_rng(0)
    low = LowRankUpdate(
        rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32), 0.5, True
    )
    nothing = LowRankUpdate(np.zeros((2, 5), np.float32), np.zeros((6, 2), np.float32))
    delta: dict[str, Update] = {"a": low, "b": DenseUpdate(rng.normal(size=(3, 4)).astype(np.float32)), "c": nothing}
    found = redrawn(delta, np.random.default_rng(1))
    for name, update in delta.items():
        assert found[name].shape == update.shape and type(found[name]) is type(update)
        assert inner(found[name], found[name]) == pytest.approx(inner(update, update), rel=1e-4)
        assert name == "c" or abs(inner(found[name], update)) < 0.9 * inner(update, update)


def test_an_encoder_decoder_base(tiny_t5: Path, tiny_t5_pool: Path, tmp_path: Path) -> None:
    hub = {"name": "hub", "strategy": "anchor_random", "composition": "lorahub",
           "tuner": {"sampler": "lorahub", "trials": 5, "objective": "lorahub-clean"}}  # fmt: skip
    tasks = SETUP["tasks"] | {"own": {"colour": "m0"}, "only": ["colour", "count"]}
    path = write_world(tmp_path, arms=[*SETUP["arms"], hub], tasks=tasks, draws={"shots": 1, "selections": 1})
    found = measure_setup(path, tmp_path / "out", base=str(tiny_t5), pool=str(tiny_t5_pool), cache=tmp_path / "cache")
    assert not found.failed and len(found.results) == found.wanted == 2 * 11
    assert {r.members[0][0] for r in of(found, "hub", task="colour")} <= {"m1", "m2"}


def test_families_that_strategies_were_tried_on_are_in_no_contrast(
    ran: BenchResults, places: Places, tmp_path: Path
) -> None:
    tasks = SETUP["tasks"] | {"tried": ["words"]}
    arms = [{"name": "one", "strategy": "top_k"}, {"name": "two", "strategy": "text"}]
    changes = {"arms": arms, "controls": ["base"], "primary": {"better": "one", "than": "two", "k": 2}}
    path = write_world(tmp_path, tasks=tasks, **changes)
    found = measure_setup(path, tmp_path / "out", **places)
    assert {result.unit.family for result in found.results} == {"words", "numbers"}
    assert any("tried out on words" in note for note in found.notes)
    (contrast,) = conclude(found)
    assert contrast.families == ("numbers",)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Strategies were tried out on words" in text and "| words (tried) |" in text
    mean = np.mean([r.accuracy for r in found.results if r.arm == "one" and r.unit.family == "numbers"])
    assert f"| one | 2 | {100 * mean:.1f}% |" in text
    alone = arm_summaries(found.setup, [r for r in found.results if r.unit.family == "words"])
    assert {level.families for level in alone} == {1} and all(level.accuracy is not None for level in alone)
    for tried, refusal in (["wrods"], "no task is of family 'wrods'"), (["words", "numbers"], "names every family"):
        path = write_world(tmp_path, tasks=tasks | {"tried": tried}, **changes)
        with pytest.raises(InputError, match=refusal):
            measure_setup(path, tmp_path / "other", **places)
