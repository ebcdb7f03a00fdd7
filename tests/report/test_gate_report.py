"""What a gate writes: a log, a Markdown summary and JUnit, whatever the names and answers hold."""

import xml.etree.ElementTree as ET
from dataclasses import replace

from merge_advisor.gate_values import GateCheck, GateCost, GateOutcome, GateReport, GateRow, GateSide
from merge_advisor.plain_text import printable
from merge_advisor.report.gate_document import cost_text, gate_blocks, gate_document, gate_headline
from merge_advisor.report.junit import to_junit
from merge_advisor.report.markdown import to_markdown
from merge_advisor.report.terminal import to_text
from tests.support.report_world import NASTY

WORSE = tuple(GateRow(f"rows.jsonl:{n}", NASTY, "]]>", "yes", NASTY, -1.0) for n in range(1, 61))
FAILED = GateCheck(
    NASTY, "task", "accuracy", 80, -0.05, GateOutcome.FAILED, "failed: worse", 0.9, 0.15, -0.75, -0.8, -0.6, WORSE, 0
)
OPEN = GateCheck("open", "guard", "loss", 40, -0.05, GateOutcome.CANNOT_TELL, "cannot tell: few", 2.0, 2.1, -0.1)
SAME = GateCheck("same", "task", "loss", 40, -0.05, GateOutcome.PASSED, "passed: one model")
SIDE = GateSide(NASTY, "adapter", "ab" * 32, "alpaca")
REPORT = GateReport(
    1, GateOutcome.FAILED, SIDE, replace(SIDE, word="old"), (FAILED, OPEN, SAME), (NASTY,),
    GateCost(3.0, 160, 6, 2, 120, 1.0, 4.0, 2**30),
)  # fmt: skip


def test_junit_tells_failures_from_what_cannot_be_told() -> None:
    text = to_junit(REPORT)
    root = ET.fromstring(text)
    suite = root.find("testsuite")
    assert suite is not None and (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    cases = suite.findall("testcase")
    assert [[part.tag for part in case] for case in cases] == [["failure"], ["error"], ["system-out"]]
    body = cases[0].findtext("failure") or ""
    assert "rows.jsonl:1: wanted ']]>'" in body and "and 10 more rows, see the JSON" in body
    assert "rows.jsonl:51" not in body and "\x1b" not in text and "<script>" not in text
    assert to_junit(REPORT) == text


def test_losses_are_called_losses() -> None:
    row = GateRow("general.jsonl:3", "Once upon a time", "", "5.958", "6.132", -0.174)
    lost = replace(OPEN, outcome=GateOutcome.FAILED, worse=(row,))
    report = replace(REPORT, checks=(lost,))
    assert "general.jsonl:3: nats per token, was 5.958, is 6.132" in to_junit(report) and "wanted" not in to_junit(
        report
    )
    table = "| row | text | baseline, nats | candidate, nats |"
    assert table in to_markdown(gate_document(report)) and "wanted" not in to_text(gate_blocks(report))
    assert "| row | input | baseline, nats |" in to_markdown(
        gate_document(replace(report, checks=(replace(lost, kind="task"),)))
    )


def test_the_summary_shows_names_as_text_and_the_rows_that_got_worse() -> None:
    text = to_markdown(gate_document(REPORT))
    assert text.startswith("# Model gate: failed\n") and "\x1b" not in text
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "60 rows worse, the first 20" in text and "| rows.jsonl:20 |" in text and "rows.jsonl:21" not in text
    assert "| cannot tell | guard open | loss | 40 | 2.000 | 2.100 |" in text


def test_a_log_ends_with_the_outcome_and_shows_no_numbers_that_were_not_measured() -> None:
    text = to_text(gate_blocks(REPORT))
    assert text.splitlines()[-1] == printable(gate_headline(REPORT))
    same = next(line for line in text.splitlines() if " same " in line)
    assert same.split() == ["passed", "task", "same", "loss", "40", "-0.050"]
    assert "old" in gate_headline(REPORT) and gate_headline(REPORT).startswith("gate failed: ")
    cannot = replace(REPORT, outcome=GateOutcome.CANNOT_TELL, checks=(OPEN, SAME))
    assert gate_headline(cannot).endswith("on guard open") and "gate cannot tell" in gate_headline(cannot)
    passed = replace(REPORT, outcome=GateOutcome.PASSED, checks=(SAME,))
    assert gate_headline(passed).endswith("on 1 of 1 checks")


def test_costs_are_money_at_a_price_alone() -> None:
    cost = GateCost(3600.0, 160, 6, 2, 120, 1.0, 7200.0, None)
    told = cost_text(cost, price=2.0)
    assert told.startswith(
        "cost: 3600.0 s (2.00) in all; 2 of 6 measurements run now, 120 forward passes over one row, "
    )
    assert "7200.0 s (4.00)" in cost_text(cost, price=2.0) and "(" not in cost_text(cost)
    assert cost_text(replace(cost, scored=0, run=0)) == "cost: 3600.0 s in all; nothing had to be run"
    told = cost_text(replace(cost, candidates=100), price=3.6)
    every = "instead: scoring all 100 models of the hub folder on the same 160 rows: 16000 forward passes, "
    assert told.endswith(f"{every}360050.0 s (360.05)")
