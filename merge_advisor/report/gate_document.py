"""What a gate found, as blocks for a log and as a document for a pull request; one wording for both, and for JUnit."""

from __future__ import annotations

from merge_advisor.gate_values import GateCheck, GateCost, GateOutcome, GateReport
from merge_advisor.plain_text import printable, shortened
from merge_advisor.report.document import (
    Block,
    BulletList,
    Document,
    Facts,
    Heading,
    Headline,
    Paragraph,
    Section,
    Subheading,
    Table,
    TextBlock,
)
from merge_advisor.report.score_table import difference_text, seconds_text, value_text

OUTCOME_WORDS = {
    GateOutcome.PASSED: "passed",
    GateOutcome.FAILED: "failed",
    GateOutcome.CANNOT_TELL: "cannot tell",
}
_HEADERS = ("outcome", "check", "metric", "rows", "baseline", "candidate", "difference", "95% interval", "bar")
_RIGHT = (3, 4, 5, 6, 7, 8)
_ROWS_SHOWN = 20
"""Rows listed of a check; the rest is counted, and in the JSON."""
_CELL = 48
"""Characters of an input or an answer in a table of rows."""


def gate_headline(report: GateReport) -> str:
    """Return the outcome in one line, the checks that did not pass by name.

    Args:
        report: of a gate.
    """
    named = ", ".join(f"{check.kind} {check.name}" for check in report.checks if check.outcome == report.outcome)
    about = f"{report.candidate.word} against {report.baseline.word}"
    if report.outcome == GateOutcome.PASSED:
        return f"gate passed: {about} on {len(report.checks)} of {len(report.checks)} checks"
    return f"gate {'failed' if report.outcome == GateOutcome.FAILED else 'cannot tell'}: {about}, on {named}"


def gate_blocks(report: GateReport, price: float | None = None) -> list[TextBlock]:
    """Return what a log shows: the checks, why each decides as it does, the rows that got worse, what it cost.

    Args:
        report: of a gate.
        price: of an hour of this machine; None: costs stay seconds.
    """
    # names are anyone's: a line each, whatever they hold
    blocks: list[TextBlock] = [Paragraph("\n".join(map(printable, report.notes)))] if report.notes else []
    blocks.append(_checks(report))
    blocks.append(Paragraph("\n".join(printable(check_line(check)) for check in report.checks)))
    blocks += [_worse_rows(check) for check in report.checks if check.outcome != GateOutcome.PASSED and check.worse]
    if report.cost is not None:
        blocks.append(Paragraph(cost_text(report.cost, price)))
    blocks.append(Paragraph(printable(gate_headline(report))))
    return blocks


def gate_document(report: GateReport, price: float | None = None) -> Document:
    """Return the same as a document, for the summary of a pull request.

    Args:
        report: of a gate.
        price: as of `gate_blocks`.
    """
    word = OUTCOME_WORDS[report.outcome]
    opening: list[Block] = [
        Paragraph(f": {gate_headline(report).partition(': ')[2]}.", strong=word),
        _checks(report),
        BulletList(tuple(check_line(check) for check in report.checks)),
    ]
    for check in report.checks:
        if check.outcome != GateOutcome.PASSED and check.worse:
            opening += [Subheading(_worse_title(check)), _worse_rows(check)]
    facts = Facts(
        tuple(
            (name, f"{side.word} ({side.kind}, template {side.template}, digest {side.digest[:12]})")
            for name, side in (("candidate", report.candidate), ("baseline", report.baseline))
        )
    )
    closing = [*report.notes, *([cost_text(report.cost, price)] if report.cost else [])]
    sections = (Section("notes", Heading("Models, rows and cost"), (facts, BulletList(tuple(closing)))),)
    headline = Headline("Gate", str(report.outcome), word, gate_headline(report))
    return Document(Heading(f"Model gate: {word}"), headline, facts, tuple(opening), sections)


def check_line(check: GateCheck) -> str:
    """Return why a check decides as it does, in one line.

    Args:
        check: on a task or guard.
    """
    counted = f"; worse on {len(check.worse)}, better on {check.better}" if check.candidate is not None else ""
    return f"{check.kind} {check.name} {check.reason}{counted}"


def cost_text(cost: GateCost, price: float | None = None) -> str:
    """Return what a gate cost in one line, in measured figures.

    Args:
        cost: what was measured.
        price: of an hour of this machine; None: costs stay seconds.

    >>> cost_text(GateCost(20.0, 80, 2, 1, 80, 5.0, 4.0, 2**30), price=3.6)
    'cost: 20.0 s (0.02) in all, 1.0 GiB at most; 1 of 2 measurements run now, 80 forward passes ...
    """
    parts = [f"cost: {seconds_text(cost.seconds, price)} in all"]
    if cost.peak_bytes is not None:
        parts[0] += f", {cost.peak_bytes / 2**30:.1f} GiB at most"
    passes = f"{cost.forwards} forward passes over one row"
    parts.append(f"{cost.run} of {cost.scored} measurements run now, {passes}, {cost.seconds_run:.1f} s")
    if cost.kept:
        took = seconds_text(cost.seconds_kept, price)
        parts.append(f"{cost.kept} in the store, which took {took} when run")
    if not cost.scored:
        parts[1] = "nothing had to be run"
    if cost.candidates is not None:
        took = "" if cost.every_candidate_seconds is None else f", {seconds_text(cost.every_candidate_seconds, price)}"
        rows = f"all {cost.candidates} models of the hub folder on the same {cost.rows} rows"
        parts.append(f"instead: scoring {rows}: {cost.every_candidate_forwards} forward passes{took}")
    return "; ".join(parts)


def _checks(report: GateReport) -> Table:
    rows = []
    for check in report.checks:
        numbers = ("", "", "", "")
        if check.baseline is not None and check.candidate is not None:
            ends = " to ".join(difference_text(value, check.metric) for value in (check.lower, check.upper))
            reached = [value_text(value, check.metric) for value in (check.baseline, check.candidate)]
            numbers = (reached[0], reached[1], difference_text(check.difference, check.metric), ends)
        rows.append((
            OUTCOME_WORDS[check.outcome], f"{check.kind} {check.name}", check.metric, str(check.rows), *numbers,
            difference_text(check.bar, check.metric),
        ))  # fmt: skip
    return Table("", _HEADERS, tuple(rows), right=_RIGHT)


def _worse_title(check: GateCheck) -> str:
    more = f", the first {_ROWS_SHOWN}" if len(check.worse) > _ROWS_SHOWN else ""
    return f"{check.kind} {check.name}: {len(check.worse)} {'texts' if check.kind == 'guard' else 'rows'} worse{more}"


def _worse_rows(check: GateCheck) -> Table:
    shown = check.worse[:_ROWS_SHOWN]
    if check.metric == "loss":  # a text wants nothing, and an answer is not what is compared
        losses = tuple((row.place, shortened(printable(row.input), _CELL), row.before, row.after) for row in shown)
        text = "text" if check.kind == "guard" else "input"
        return Table(_worse_title(check), ("row", text, "baseline, nats", "candidate, nats"), losses, right=(2, 3))
    rows = tuple(
        (row.place, *(shortened(printable(cell), _CELL) for cell in (row.input, row.wanted, row.before, row.after)))
        for row in shown
    )
    return Table(_worse_title(check), ("row", "input", "wanted", "baseline", "candidate"), rows)
