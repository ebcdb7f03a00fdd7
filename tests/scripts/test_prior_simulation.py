"""When a pool is worth it, as scripts/bench/prior_simulation.py simulates it: cases whose answer is known."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture(scope="module")
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        return importlib.import_module("prior_simulation")


@pytest.fixture
def small(script: Any) -> Any:
    return script.Setting("small", directions=3, private=0.5, pool=10, size=24)


def mean_excess(script: Any, setting: Any, m: int, share: float | None) -> dict[str, float]:
    """Over eight worlds; None: tasks as drawn."""
    found = []
    for number in range(8):
        world = script.draw_world(setting, [7, number], () if share is None else (share,))
        found.append({name: risk[-1] for name, risk in script.excess(world, m, setting.directions).items()})
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def test_a_task_in_the_span_of_the_pool_is_the_merge_s_from_few_examples(script: Any, small: Any) -> None:
    found = mean_excess(script, small, 5, 1.0)
    for name in ("shots", "shots halved", "basis", "prior", "random basis", "from the mean", "from random"):
        assert found["merge"] < 0.5 * found[name], name
    assert all(found["merge"] < found[name] < 0.5 * found["shots"] for name in ("continue", "mix"))


def test_a_merge_of_nothing_the_task_needs_comes_to_the_base(script: Any, small: Any) -> None:
    found = mean_excess(script, small, 20, 0.0)
    assert found["merge"] == pytest.approx(1, abs=0.05) and found["shots"] < 0.8


def test_directions_help_where_the_task_shares_them_and_are_random_ones_where_not(script: Any, small: Any) -> None:
    shared, strange = (mean_excess(script, replace(small, strange=s), 20, None) for s in (False, True))
    assert shared["basis"] < 0.8 * shared["random basis"] and shared["prior"] < 0.9 * shared["shots"]
    assert strange["basis"] > 0.95 * strange["random basis"] and strange["prior"] > 0.97 * strange["shots"]


def test_with_many_examples_whatever_trains_all_of_the_weight_comes_to_shots(script: Any, small: Any) -> None:
    setting = replace(small, size=12, noise=0.3, decay=0.3)
    few, many = (mean_excess(script, setting, m, 0.3) for m in (5, 200))
    for name in ("continue", "prior", "mix", "from the mean", "from random"):
        assert many[name] == pytest.approx(many["shots"], rel=0.06), name
    assert many["shots"] < 0.05 and few["prior"] < 0.95 * few["shots"]
    assert many["basis"] > 4 * many["shots"] and many["merge"] > 4 * many["shots"], "they cannot hold the task"


def test_penalties_are_not_chosen_on_rows_that_were_fitted(script: Any, small: Any) -> None:
    world = script.draw_world(small, [0, 0])
    noise = np.random.default_rng(0).normal(size=world.targets.shape)
    examples = script.first_rows(replace(world, targets=noise), 20)
    energy = (examples.targets**2).sum((1, 2))
    merged = script.merge(examples, world.pool)
    for fitted in (script.ridge(examples, script.whole(small.size)), merged):
        assert (fitted.error > 0.97 * energy).all()
    to_the_end = script.ridge(examples, script.whole(small.size), merged, choices=script.PENALTIES[:1])
    assert (to_the_end.error > 1.5 * energy).all(), "rows left out see what was learnt by heart"


def test_a_world_is_what_was_asked_for(script: Any, small: Any) -> None:
    world = script.draw_world(small, [0, 0])
    flat = np.linalg.qr(world.pool.reshape(small.pool, -1).T)[0]
    inside = ((world.tasks.reshape(len(world.tasks), -1) @ flat) ** 2).sum(1)
    assert inside == pytest.approx([world.span, *script.SHARES], abs=1e-6)
    assert (world.pool**2).sum((1, 2)) == pytest.approx(np.ones(small.pool))
    related = [
        np.mean([script.draw_world(replace(small, private=0.3, relative=kin), [1, n]).span for n in range(40)])
        for kin in (True, False)
    ]
    assert related[0] > related[1]


def test_rows_beyond_the_first_m_are_not_looked_at(script: Any, small: Any) -> None:
    world = script.draw_world(small, [0, 0])
    inputs, targets, told = world.inputs.copy(), world.targets.copy(), world.told.copy()
    for changed in (inputs, targets.swapaxes(0, 1), told):
        changed[10:] += 1
    other = replace(world, inputs=inputs, targets=targets, told=told)
    for m, same in ((10, True), (20, False)):
        found, changed = (script.estimates(one, m, small.directions) for one in (world, other))
        for name in found:
            assert np.array_equal(found[name], changed[name]) == same, name


def test_prior_and_merge_are_what_their_formulas_say(script: Any) -> None:
    setting = script.Setting("tiny", directions=2, private=0.5, pool=4, size=6)
    world = script.draw_world(setting, [3, 0], ())
    examples, size = script.first_rows(world, 10), setting.size
    # of vec(W), rows of W one after another: y_i = (I kron x_i') vec(W), prior covariance S_out kron S_in
    design = np.concatenate([np.kron(np.eye(size), x) for x in examples.inputs])
    told, target = design @ world.pool.reshape(4, -1).T, examples.targets[0].ravel()
    by_output, by_input = (0.6 * side + 0.4 * np.eye(size) for side in script.covariances(world.pool))
    precision = np.kron(np.linalg.inv(by_output), np.linalg.inv(by_input))
    for choice in script.PENALTIES[[0, 4, 7]]:
        fitted = script.ridge(examples, script.of_prior(world.pool, 0.4), choices=np.array([choice])).final[0]
        by_hand = np.linalg.solve(design.T @ design + choice * size * precision, design.T @ target)
        assert fitted.ravel() == pytest.approx(by_hand, abs=1e-8)
    merged = script.merge(examples, world.pool).final[0].ravel()
    penalties = script.PENALTIES * 4 / size
    ways = [
        np.linalg.solve(told.T @ told + p * np.eye(4), told.T @ target) @ world.pool.reshape(4, -1) for p in penalties
    ]
    assert min(float(np.abs(way - merged).max()) for way in ways) < 1e-9


def test_the_same_seed_gives_the_same_lines_and_another_others(
    script: Any, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "EXAMPLES", (5, 20))
    first, again, other = (script.simulate(small, 2, seed) for seed in (0, 0, 1))
    assert first[1:] == again[1:] and first[0]["span"] == again[0]["span"]
    assert first[1:] != other[1:]


def test_what_is_there_is_kept_printed_and_drawn(
    script: Any, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "lines.jsonl", tmp_path / "picture.svg"
    monkeypatch.setattr(script, "SETTINGS", (replace(small, name="centre"), replace(small, name="other")))
    monkeypatch.setattr(script, "EXAMPLES", (5, 20, 40))
    command = ["prior_simulation.py", "--out", str(out), "--figure", str(picture), "--worlds", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--only", "centre"])
    script.main()
    kept = out.read_text()
    assert {line.get("name", line.get("setting")) for line in map(json.loads, kept.splitlines())} == {"centre"}
    assert "| centre | 30% |" in capsys.readouterr().out
    root = ElementTree.fromstring(picture.read_text())
    box = [float(number) for number in root.attrib["viewBox"].split()]
    texts = [(float(text.attrib["x"]), float(text.attrib["y"])) for text in root.iter() if text.tag.endswith("text")]
    assert len(texts) > 20 and all(0 <= x <= box[2] and 0 <= y <= box[3] for x, y in texts)
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    assert out.read_text().startswith(kept) and len(out.read_text()) > 1.9 * len(kept)
    monkeypatch.setattr(sys, "argv", [*command, "--summary", "--worlds", "3"])
    script.main()
    assert out.read_text().count("\n") == 2 * kept.count("\n")


def test_a_line_ends_where_it_leaves_its_panel(script: Any) -> None:
    within = importlib.import_module("prior_report").within
    assert within([(5, 1.0), (20, 4.0), (40, 1.0)]) == [(5, 1.0), (pytest.approx(10), 2.0)]
    assert within([(5, 1.0), (20, 1.5)]) == [(5, 1.0), (20, 1.5)]


def test_a_winner_is_named_beyond_three_errors_only(script: Any) -> None:
    report = importlib.import_module("prior_report")
    cell = dict.fromkeys(report.ESTIMATORS, (0.5, 1.0, 0.01))
    assert report.winner(cell) == "-"
    assert report.winner(cell | {"mix": (0.4, 0.95, 0.02)}) == "-"
    assert report.winner(cell | {"mix": (0.4, 0.9, 0.02)}) == "mix 0.90"


def test_what_an_estimator_is_worth_in_examples(script: Any) -> None:
    report = importlib.import_module("prior_report")
    cells = [{"m": m, "shots": (risk, 1.0, 0.0)} for m, risk in ((5, 0.9), (20, 0.6), (80, 0.3))]
    for risk, shown in ((1.0, "< 5"), (0.9, "5"), (0.6, "20"), ((0.6 * 0.3) ** 0.5, "40"), (0.29, "> 80")):
        assert report.worth(cells, risk) == shown
