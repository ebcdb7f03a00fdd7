"""Arms of a benchmark that adapt: what they choose, what they are charged, and what they promise."""

from pathlib import Path

import pytest

from merge_advisor.benchmark.analysis.contrasts import answer_questions
from merge_advisor.benchmark.running.bench_run import measure_setup
from merge_advisor.benchmark.running.dry_run import describe_bench
from merge_advisor.benchmark.running.identity import setup_parts
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.benchmark.values import BenchResults, Result
from merge_advisor.types import RESIDUAL, SHOTS_LORA
from tests.support.bench_setups import SETUP, Places, write_world

ARMS = [
    *SETUP["arms"],
    {"name": "auto", "strategy": "rerank:pool=3", "adaptation": "auto:folds=2"},
    {"name": "alone", "strategy": "rerank:pool=3", "adaptation": "auto:folds=2,pool=false"},
    {"name": "continue", "strategy": "top_k", "adaptation": "continue:folds=2"},
    {"name": "single", "strategy": "top_k", "adaptation": "continue:folds=0"},
    {"name": "prompt", "strategy": "top_k", "adaptation": "prompt:folds=2"},
    {"name": "basis", "strategy": "top_k", "adaptation": "basis:folds=2,count=2"},
]
PRIMARY = {"better": "auto", "than": "alone", "metric": "judged", "k": 2}


@pytest.fixture(scope="module")
def ran(places: Places, tmp_path_factory: pytest.TempPathFactory) -> BenchResults:
    folder = tmp_path_factory.mktemp("bench")
    path = write_world(folder, arms=ARMS, primary=PRIMARY, smallest_gain=0.1, draws={"shots": 1, "selections": 1})
    return measure_setup(path, folder / "out", **places)


def by_task(measured: BenchResults, arm: str) -> dict[str, Result]:
    return {result.unit.task: result for result in measured.results if result.arm == arm}


def test_every_arm_is_done(ran: BenchResults) -> None:
    assert not ran.failed, ran.failed[0].reason
    for arm in ("auto", "alone", "continue", "single", "basis"):
        assert set(by_task(ran, arm)) == {"colour", "count", "parity"}


def test_what_needs_no_pool_has_none_and_chooses_none(ran: BenchResults) -> None:
    with_pool = by_task(ran, "auto")
    for task, result in by_task(ran, "alone").items():
        assert all(name == SHOTS_LORA for name, _ in result.members)
        assert {name for name, _, _ in result.options} - {"prompt on shots"} == {"base", "prompt", "shots"}
        assert 0 < result.forwards < with_pool[task].forwards


def test_auto_with_the_pool_has_looked_at_all_of_it(ran: BenchResults) -> None:
    for result in by_task(ran, "auto").values():
        compared = {name for name, _, _ in result.options}
        assert compared - {"prompt on shots", "prompt on merge"} == {"base", "prompt", "shots", "merge"}
        chosen = result.options[0][0]
        assert result.adapted == {"base": "none", "merge": "none"}.get(chosen, chosen.partition(" ")[0])
        assert (result.chance is not None) == ("merge" in chosen)


def test_the_merge_and_what_was_trained_on_it_are_members(ran: BenchResults) -> None:
    nearest = by_task(ran, "nearest")
    for task, result in by_task(ran, "continue").items():
        kept = tuple(pair for pair in result.members if pair[0] != RESIDUAL)
        assert [name for name, _ in kept] == [name for name, weight in nearest[task].members if weight]
        assert result.forwards > 0


def test_a_prompt_is_the_control_icl_at_the_price_of_judging_it(ran: BenchResults) -> None:
    icl = by_task(ran, "icl")
    for task, result in by_task(ran, "prompt").items():
        assert (result.merge, result.loss, result.accuracy) == (icl[task].merge, icl[task].loss, icl[task].accuracy)
        assert result.predicted is not None and result.forwards == 2 * 5  # each fold shows and asks five rows in all


def test_a_promise_is_of_rows_held_out_or_not_made(ran: BenchResults) -> None:
    assert all(result.predicted is not None for result in by_task(ran, "continue").values())
    assert all(result.predicted is None for result in by_task(ran, "single").values())


def test_rows_are_judged_by_their_choices_where_they_have_some(ran: BenchResults) -> None:
    for arm in ("base", "icl", "shots_lora", "auto"):
        found = by_task(ran, arm)
        assert found["count"].judged == found["count"].loss
        assert found["parity"].judged != found["parity"].loss
    assert all(result.judged is None for result in by_task(ran, "majority").values())


def test_the_question_is_answered_by_what_rows_are_judged_by(ran: BenchResults) -> None:
    answer = answer_questions(ran.setup, ran.results)[0]
    both = {arm: by_task(ran, arm) for arm in ("auto", "alone")}

    def gain(task: str) -> float:
        better, than = (both[arm][task].judged for arm in ("auto", "alone"))
        assert better is not None and than is not None
        return than - better

    wanted = (gain("colour") + (gain("count") + gain("parity")) / 2) / 2
    assert answer.mean == pytest.approx(wanted)


def test_the_dry_run_costs_no_less(ran: BenchResults, places: Places, tmp_path: Path) -> None:
    path = write_world(tmp_path, arms=ARMS, primary=PRIMARY, draws={"shots": 1, "selections": 1})
    said = describe_bench(path, base=places["base"], pool=places["pool"])
    spent = sum(result.forwards for result in ran.results if result.arm in {arm["name"] for arm in ARMS})
    assert spent <= said["passes"]["choose and tune"] + said["passes"]["finetune on the shots"]


def test_digests_of_arms_from_before_stay_valid(tmp_path: Path) -> None:
    plain = read_setup(write_world(tmp_path))[0]
    adapted = read_setup(write_world(tmp_path, arms=[*SETUP["arms"], ARMS[-1]]))[0]
    old, new = setup_parts(plain), setup_parts(adapted)
    assert all(new[name] == digest for name, digest in old.items())
    # as it was when no arm knew adaptations: a kept benchmark must stay its own
    assert old["arm nearest"] == "2d48b57104c0d5e84595bb8802b2945ede435e24f37f9087ee5bd3600cf0fa01"
