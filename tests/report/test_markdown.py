"""report.md of a run: what it says, with every name as text."""

import re
from dataclasses import replace

import pytest

from merge_advisor.json_form import VERSION
from merge_advisor.report.document import RowChange
from merge_advisor.report.markdown import escaped
from merge_advisor.report.score_table import row_changes, score_rows
from merge_advisor.scores import GuardScore, ModelScore, Score, Verdict
from merge_advisor.types import Row
from merge_advisor.verdict import judge
from tests.support.report_world import (
    DIGESTS,
    MODELS,
    NASTY,
    ROWS,
    full,
    markdown_report,
    report,
    score_of,
    section,
    task_of,
    unscored,
)


def test_a_report_tells_all_of_a_run() -> None:
    text = markdown_report(report())
    assert text.startswith("# Merge plan for first\n")
    for line in (
        "base: owner/base at c0ffee",
        "pool: 23 candidates, 1 set aside",
        "template: alpaca",
        "cut to rank 16",
    ):
        assert line in text.replace("\\", "")
    assert "**merge**: use the merge: it reaches 90.0%" in section(text, "Verdict")
    assert "| legal | anchor | 0.7500 | 0.900 | 0.31 |  |  |" in section(text, "Members")
    assert "| 0.2500 |  |  | 0.125 | 0.500 |" in section(text, "Members") and "1.25" in section(text, "Members")
    assert "| first | 2 | 1 | 40 |" in section(text, "Splits") and "disjoint by input" in section(text, "Splits")
    assert "| legal | apache-2.0 |" in section(text, "Licences") and "not stated" in section(text, "Licences")
    assert "**conflict**: legal (gpl-3.0)" in section(text, "Licences")
    assert "a pickle \\| not read" in section(text, "Set aside")
    assert "| all | 415 |" in section(text, "Cost")
    assert "lorahub.json | not written" in section(text, "Files")
    assert "    merge-advisor merge run --out model" in section(text, "Next")


def test_the_score_table_and_its_rows() -> None:
    rows = {row[0]: row for row in score_rows(score_of("first"))}
    assert list(rows) == [model.label for model in MODELS]
    assert rows["merge"] == ("merge", "90.0%", "", "", "", "", "1.500")
    anchor = rows["anchor"]
    assert anchor[1:3] == ("37.5%", "+52.5") and anchor[4:6] == ("22", "1")
    assert re.fullmatch(r"\+\d+\.\d to \+\d+\.\d", anchor[3])
    assert rows["majority"][1] == "50.0%" and rows["majority"][6] == ""
    won, lost = row_changes(score_of("first"), "anchor", {row.digest: row for row in ROWS})
    assert [change.input for change in won] == [f"question {index}" for index in range(16, 38)]
    assert lost == (RowChange(DIGESTS[1][:8], "question 1", "yes", "yes", "neither"),)
    with pytest.raises(KeyError):
        row_changes(score_of("first"), "uniform", {})


def test_rows_won_and_lost_are_listed_against_the_hardest_rival() -> None:
    text = markdown_report(report())
    assert "### Rows won against anchor: 22" in text and "and 2 more" in text
    assert f"| {DIGESTS[1][:8]} | question 1 | yes | yes | neither |" in text
    long = Row("w" * 200, "no", ("yes", "no"))
    rows = (ROWS[0], long, *ROWS[2:])
    score = replace(score_of("first"), row_digests=tuple(row.digest for row in rows))
    _, _, comparisons = judge(MODELS, "accuracy", score.row_digests)
    task = replace(task_of("first"), heldout=rows)
    shown = markdown_report(report(tasks=(task,), scores=(replace(score, comparisons=comparisons),)))
    assert f"| {'w' * 59}… |" in shown and "w" * 61 not in shown


def test_what_has_to_be_known_of_a_table_stands_below_it() -> None:
    score = replace(score_of("first"), notes=("icl is left out: not one of 3 examples fits.",))
    text = section(markdown_report(report(scores=(score,))), "Scores: first")
    assert text.index("| merge |") < text.index("icl is left out: not one of 3 examples fits.")


def test_losses_are_shown_as_nats() -> None:
    models = [ModelScore(m, {"loss": v}, {"loss": (v, v + 0.1) * 20}) for m, v in (("base", 2.0), ("merge", 1.5))]
    verdict, reason, comparisons = judge(models, "loss", DIGESTS)
    score = Score(VERSION, "first", "t", "loss", DIGESTS, tuple(models), comparisons, verdict, reason, "lm-eval")
    assert score_rows(score)[0][:3] == ("base", "2.000", "+0.500")
    assert "### Rows won against base: 40" in markdown_report(report(scores=(score,)))


def test_a_plan_that_was_not_scored() -> None:
    text = markdown_report(unscored())
    assert "Not scored yet." in text and "No conflict found" in text
    for absent in ("## Scores", "## Set aside", "## Notes", "## Cost"):
        assert absent not in text


def test_several_tasks_and_a_guard() -> None:
    guard = GuardScore(50, 2.0, 2.2, 0.1, 0.3, regressed=True)
    scores = (score_of("first", guard), score_of("second"))
    text = markdown_report(report(tasks=(task_of("first"), task_of("second")), scores=scores))
    assert text.startswith("# Merge plan for first, second")
    first, second = section(text, "Scores: first"), section(text, "Scores: second")
    assert f"**{scores[0].verdict}**" in first and scores[0].verdict != Verdict.MERGE
    assert "difference +0.200 (+0.100 to +0.300): the merge is ruled out" in first
    assert "**merge**" in second and "Guard" not in second


def test_a_row_in_two_parts_is_told() -> None:
    task = replace(task_of("first"), tuning=(ROWS[3],))
    text = markdown_report(report(tasks=(task,)))
    assert "Inputs occur in two parts: tuning rows of first and held-out rows of first" in text


def test_a_row_that_one_task_learns_from_and_another_holds_out_is_told() -> None:
    first, second = task_of("first"), replace(task_of("second"), heldout=())
    told = markdown_report(report(tasks=(first, replace(second, shots=first.heldout[:2], tuning=()))))
    assert "Inputs occur in two parts: held-out rows of first and shots of second" in told
    assert "disjoint by input, across tasks too" in markdown_report(report(tasks=(first, second)))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_verdict_stands_with_what_to_do(verdict: Verdict) -> None:
    text = section(markdown_report(report(verdict=verdict, reason="do this: so it is")), "Verdict")
    assert f"**{verdict}**: do this: so it is." in text


def test_names_are_text() -> None:
    text = markdown_report(report(commands=("merge-advisor try run 'a\nb'",)))
    assert "<script>" not in text.replace("\\<script\\>", "") and "\x1b" not in text
    assert escaped(NASTY) in text
    cells = [line for line in text.splitlines() if line.startswith("|")]
    pipes = {
        len(re.findall(r"(?<!\\)\|", line)) for line in section(text, "Members").splitlines() if line.startswith("|")
    }
    assert cells and len(pipes) == 1  # no name breaks out of its cell


def test_equal_values_give_equal_bytes() -> None:
    assert markdown_report(report()) == markdown_report(report())


def test_a_report_of_tuning_in_words() -> None:
    text = markdown_report(full())
    found = section(text, "Tuning")
    assert "6 trials by tpe, 1 of them stopped early, 60 forward passes." in found
    assert "Winner: trial 0 (plan, exact), value 1; it is compared with plan." in found
    assert "| first | loss | tuning | 20 | 0.500 | 0.400 | +0.100 | +0.020 to +0.180 |" in found
    assert "| first | accuracy | held-out | 40 | 75.0% |  |  |  |" in found
    assert "## Tuning" not in markdown_report(report())
