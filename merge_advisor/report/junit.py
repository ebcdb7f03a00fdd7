"""A gate as JUnit XML, which CI systems show beside their own tests: a test case a check."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from merge_advisor.gate_values import GateCheck, GateOutcome, GateReport, GateRow
from merge_advisor.plain_text import printable
from merge_advisor.report.gate_document import check_line

_ROWS_TOLD = 50
"""Rows in the text of a failure; the JSON has all."""


def to_junit(report: GateReport) -> str:
    """Return a gate as JUnit XML, without times: the same decision gives the same bytes.

    A check that failed is a `failure`, one that cannot tell an `error`: either stops a pipeline, and they are told
    apart.

    Args:
        report: of a gate.
    """
    failures = sum(check.outcome == GateOutcome.FAILED for check in report.checks)
    errors = sum(check.outcome == GateOutcome.CANNOT_TELL for check in report.checks)
    counts = f'tests="{len(report.checks)}" failures="{failures}" errors="{errors}" skipped="0"'
    about = f"{report.candidate.word} against {report.baseline.word}"
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites {counts}>"]
    lines.append(f"  <testsuite name={_attribute(f'merge-advisor gate: {about}')} {counts}>")
    for check in report.checks:
        lines += _case(check)
    return "\n".join([*lines, "  </testsuite>", "</testsuites>"]) + "\n"


def _case(check: GateCheck) -> list[str]:
    head = f"    <testcase classname={_attribute(f'gate.{check.kind}')} name={_attribute(check.name)}"
    if check.outcome == GateOutcome.PASSED:
        return [f"{head}>", f"      <system-out>{_text(check_line(check))}</system-out>", "    </testcase>"]
    tag = "failure" if check.outcome == GateOutcome.FAILED else "error"
    told = [check_line(check)]
    told += [_row(row, losses=check.metric == "loss") for row in check.worse]
    if len(check.worse) > _ROWS_TOLD:
        told[_ROWS_TOLD + 1 :] = [f"and {len(check.worse) - _ROWS_TOLD} more rows, see the JSON"]
    body = "\n".join(_text(line) for line in told)
    opened = f"      <{tag} type={_attribute(str(check.outcome))} message={_attribute(check_line(check))}>"
    return [f"{head}>", f"{opened}{body}</{tag}>", "    </testcase>"]


def _row(row: GateRow, *, losses: bool) -> str:
    """A row that got worse: its losses, or what was wanted and answered."""
    if losses:
        return f"{row.place}: nats per token, was {row.before}, is {row.after}"
    return f"{row.place}: wanted {row.wanted!r}, was {row.before!r}, is {row.after!r}"


def _text(text: str) -> str:
    # printable: control characters are not allowed in XML, not even escaped
    return escape(printable(text))


def _attribute(text: str) -> str:
    return quoteattr(printable(text))
