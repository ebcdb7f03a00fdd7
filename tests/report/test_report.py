import re
from dataclasses import replace

import pytest

from merge_advisor.plain_text import shortened
from merge_advisor.report.document import RowChange
from merge_advisor.report.markdown import escaped, markdown_table, to_markdown
from merge_advisor.report.run_document import ReportInput, run_document
from merge_advisor.report.score_table import row_changes, score_rows
from merge_advisor.report.terminal import text_table, width
from merge_advisor.scores import GuardScore, ModelScore, Score, Verdict
from merge_advisor.types import (
    VERSION,
    Base,
    Interference,
    Member,
    Recipe,
    RecipeMember,
    RefusedModel,
    Row,
    Selection,
    Task,
)
from merge_advisor.verdict import judge

NASTY = "a|b`c`<script>*x*_y_[l](u)\n# h\x1b[31m\\"
ROWS = tuple(Row(f"question {index}", "yes" if index % 2 else "no", ("yes", "no")) for index in range(40))
DIGESTS = tuple(row.digest for row in ROWS)
MEMBERS = (
    Member("legal", "f1", "adapter", "legal", None, "apache-2.0", "anchor", 0.75, 0.9, 0.31, None),
    Member(NASTY, "f2", "adapter", "x", None, None, "partner", 0.25, None, None, Interference(0.125, 0.5)),
)
RECIPE = Recipe(
    VERSION, Base("owner/base", "c0ffee", "d", "LlamaForCausalLM"), "alpaca", "exact", 16,
    tuple(RecipeMember(m.id, m.fingerprint, m.kind, m.source, m.revision, m.weight) for m in MEMBERS),
)  # fmt: skip


def scored(label: str, right: range) -> ModelScore:
    values = tuple(float(index in right) for index in range(len(ROWS)))
    answers = tuple(row.output if index in right else "neither" for index, row in enumerate(ROWS))
    return ModelScore(label, {"accuracy": sum(values) / 40, "loss": 1.5}, {"accuracy": values, "loss": values}, answers)


MODELS = (
    scored("base", range(10)),
    ModelScore("majority", {"accuracy": 0.5}, {"accuracy": (1.0, 0.0) * 20}, ("no",) * 40),
    scored("anchor", range(1, 16)),
    scored(f"member {NASTY}", range(12)),
    scored("merge", range(2, 38)),
)


def score_of(task: str, guard: GuardScore | None = None) -> Score:
    verdict, reason, comparisons = judge(MODELS, "accuracy", DIGESTS, guard=guard)
    return Score(VERSION, task, "t", "accuracy", DIGESTS, MODELS, comparisons, verdict, reason, "lm-eval 0.4.13", guard)


def task_of(name: str) -> Task:
    return Task(name, (Row("s1", "a"), Row("s2", "b")), (Row("t1", "c"),), ROWS)


def report(**changes) -> ReportInput:
    score = score_of("first")
    whole = ReportInput(
        recipe=RECIPE,
        selection=Selection("anchor_diverse", MEMBERS, 1.25, "k reached", 300),
        tasks=(task_of("first"),),
        pool_size=23,
        scores=(score,),
        verdict=score.verdict,
        reason=score.reason,
        refused=(RefusedModel(NASTY, "weights are a pickle | not read"),),
        conflicts=("legal (gpl-3.0) and mix (cc-by-nc-4.0)",),
        rank_error=0.0123,
        notes=("2 rows were equal",),
        forwards={"deltas": 115, "selection": 300},
        files=(("mergekit.yaml", "the merge, for mergekit-yaml"), ("lorahub.json", "not written: another composition")),
        commands=("merge-advisor merge run --out model",),
    )
    return replace(whole, **changes)


def markdown_report(report: ReportInput) -> str:
    return to_markdown(run_document(report))


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]


def test_a_report_tells_all_of_a_run():
    text = markdown_report(report())
    assert text.startswith("# Merge plan for first\n")
    for line in (
        "base: owner/base at c0ffee",
        "pool: 23 candidates, 1 set aside",
        "template: alpaca",
        "cut to rank 16",
    ):
        assert line in text.replace("\\", "")
    assert "**merge** — Use the merge." in text and "the merge reaches 90.0%" in section(text, "Verdict")
    assert "| legal | anchor | 0.7500 | 0.900 | 0.31 |  |  |" in section(text, "Members")
    assert "| 0.2500 |  |  | 0.125 | 0.500 |" in section(text, "Members") and "1.25" in section(text, "Members")
    assert "| first | 2 | 1 | 40 |" in section(text, "Splits") and "disjoint by hash" in section(text, "Splits")
    assert "| legal | apache-2.0 |" in section(text, "Licences") and "not stated" in section(text, "Licences")
    assert "**conflict**: legal (gpl-3.0)" in section(text, "Licences")
    assert "a pickle \\| not read" in section(text, "Set aside")
    assert "| all | 415 |" in section(text, "Cost")
    assert "lorahub.json | not written" in section(text, "Files")
    assert "    merge-advisor merge run --out model" in section(text, "Next")


def test_the_score_table_and_its_rows():
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


def test_rows_won_and_lost_are_listed_against_the_hardest_rival():
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


def test_losses_are_shown_as_nats():
    models = [ModelScore(m, {"loss": v}, {"loss": (v, v + 0.1) * 20}) for m, v in (("base", 2.0), ("merge", 1.5))]
    verdict, reason, comparisons = judge(models, "loss", DIGESTS)
    score = Score(VERSION, "first", "t", "loss", DIGESTS, tuple(models), comparisons, verdict, reason, "lm-eval")
    assert score_rows(score)[0][:3] == ("base", "2.000", "+0.500")
    assert "### Rows won against base: 40" in markdown_report(report(scores=(score,)))


def test_a_plan_that_was_not_scored():
    text = markdown_report(report(scores=(), verdict=None, reason="", refused=(), notes=(), forwards={}, conflicts=()))
    assert "Not scored yet." in text and "No conflict found" in text
    for absent in ("## Scores", "## Set aside", "## Notes", "## Cost"):
        assert absent not in text


def test_several_tasks_and_a_guard():
    guard = GuardScore(50, 2.0, 2.2, 0.1, 0.3, regressed=True)
    scores = (score_of("first", guard), score_of("second"))
    text = markdown_report(report(tasks=(task_of("first"), task_of("second")), scores=scores))
    assert text.startswith("# Merge plan for first, second")
    first, second = section(text, "Scores: first"), section(text, "Scores: second")
    assert f"**{scores[0].verdict}**" in first and scores[0].verdict != Verdict.MERGE
    assert "difference +0.200 (+0.100 to +0.300): the merge is ruled out" in first
    assert "**merge**" in second and "Guard" not in second


def test_a_row_in_two_parts_is_told():
    task = replace(task_of("first"), tuning=(ROWS[3],))
    assert "Rows occur in two parts of: first" in markdown_report(report(tasks=(task,)))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_its_words(verdict):
    text = markdown_report(report(verdict=verdict))
    assert f"**{verdict}** — " in text


def test_names_are_text():
    text = markdown_report(report(commands=("merge-advisor try run 'a\nb'",)))
    assert "<script>" not in text.replace("\\<script\\>", "") and "\x1b" not in text
    assert escaped(NASTY) in text
    cells = [line for line in text.splitlines() if line.startswith("|")]
    pipes = {
        len(re.findall(r"(?<!\\)\|", line)) for line in section(text, "Members").splitlines() if line.startswith("|")
    }
    assert cells and len(pipes) == 1  # no name breaks out of its cell


def test_equal_values_give_equal_bytes():
    assert markdown_report(report()) == markdown_report(report())


def test_a_table_for_the_terminal():
    table = text_table(["model", "score"], [["base", "9.5%"], ["漢字", "100.0%"], ["e\u0301\x1b[0m", ""]], right=[1])
    assert table.splitlines() == [
        "model      score",
        "--------  ------",
        "base        9.5%",
        "漢字      100.0%",
        "e\u0301\\x1b[0m",
    ]
    assert {width(line) for line in table.splitlines()[:4]} == {16}
    assert "\x1b" not in table
    with pytest.raises(ValueError, match="2 cells"):
        text_table(["a", "b"], [["c"]])
    with pytest.raises(ValueError, match="2 cells"):
        markdown_table(["a", "b"], [["c"]])


def test_text_is_cut_with_a_sign():
    assert shortened("abcdef", 6) == "abcdef" and shortened("abcdefg", 6) == "abcde…"
