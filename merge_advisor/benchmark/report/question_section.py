"""The section about the setup's questions: each answered by the difference of two arms, with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from merge_advisor.benchmark.analysis.findings import Findings
from merge_advisor.benchmark.report.common_blocks import (
    bench_section,
    better_entry,
    cut_table,
    figures,
    folded,
    other_entry,
    worse_entry,
)
from merge_advisor.benchmark.report.wording import (
    UNIT_WORDS,
    amount,
    interval_text,
    listed_contrasts,
    p_phrase,
    p_text,
    unanswered,
    win_counts,
)
from merge_advisor.benchmark.values import Contrast, Metric
from merge_advisor.report.document import Figure, LegendEntry, Paragraph, Section
from merge_advisor.report.plots import Whisker, forest_plot


def contrasts_section(findings: Findings) -> Section | None:
    """Return the answers to the setup's questions; None where none was computed.

    Args:
        findings: with the contrasts, the primary first.
    """
    if not findings.contrasts:
        return None
    text = (
        "A difference is one number a family: units are averaged within their task, tasks within their family."
        " Intervals are 95%, families resampled; p is of the sign-flip test over families, Holm-adjusted among the"
        " secondaries."
    )
    metrics: tuple[Metric, ...] = ("accuracy", "loss", "judged")
    drawn = [
        (metric, [c for c in findings.contrasts if c.question.metric == metric and c.families]) for metric in metrics
    ]
    headers = ("contrast", "metric", "difference", "95% interval", "p", "adjusted p", "Wilcoxon p", "won/tied/lost")
    listed = listed_contrasts(findings.contrasts)
    rows = [_contrast_row(findings, contrast) for contrast in listed]
    reasons = [(c.question.text, c.question.metric, c.reason) for c in listed[1:]]
    texts = filter(None, (text, unanswered(findings.contrasts)))
    return bench_section(
        "contrasts",
        "Contrasts",
        *map(Paragraph, texts),
        *figures(_forest(findings, metric, group) for metric, group in drawn if group),
        cut_table("Contrasts", (*headers, "standing"), rows, right=(2, 3, 4, 5, 6, 7)),
        *folded(cut_table("The secondaries in words", ("contrast", "metric", "what it says"), reasons)),
    )


def _contrast_row(findings: Findings, c: Contrast) -> tuple[str, ...]:
    metric, first = c.question.metric, c.question == findings.setup.primary
    name = c.question.text + (" (primary)" if first else "")
    if not c.families:
        return name, metric, *[""] * 6, "no results in common"
    return (
        name,
        metric,
        amount(c.mean, metric),
        interval_text(c.lower, c.upper, metric),
        p_text(c.sign_flip),
        "" if first else p_text(c.adjusted),
        p_text(c.wilcoxon),
        f"{c.wins}/{c.ties}/{c.losses}",
        c.standing + ("" if c.agree else " (tests disagree)"),
    )


def _forest(findings: Findings, metric: Metric, group: Sequence[Contrast]) -> Figure:
    gains = {contrast.smallest_gain for contrast in group}
    # questions about different smallest gains share no band
    band = gains.pop() or 0.0 if len(gains) == 1 else 0.0
    title = f"Differences, {UNIT_WORDS[metric]}, with 95% intervals"
    legend = [better_entry("better"), worse_entry("worse"), other_entry("undecided or equivalent")]
    if band:
        legend.append(LegendEntry("below the smallest gain that matters", "band", "--band"))
    rows = [_whisker(findings, contrast) for contrast in group]
    svg = forest_plot(f"forest-{metric}", title, rows, ends=("worse", "better"), band=band)
    return Figure(title, svg, tuple(legend))


def _whisker(findings: Findings, c: Contrast) -> Whisker:
    metric, first = c.question.metric, c.question == findings.setup.primary
    interval = interval_text(c.lower, c.upper, metric)
    name = f"{c.question.better} − {c.question.than}" + (" (primary)" if first else "")
    value = amount(c.mean, metric) + (f" ({interval})" if interval else "")
    p = p_phrase(c.sign_flip) if first else "adjusted " + p_phrase(c.adjusted)
    note = f"{c.question.view}, k = {c.question.k}; {p}; {win_counts(c)}"
    side = c.standing if c.standing in ("better", "worse") else "even"
    return Whisker(name, c.mean, c.lower, c.upper, value, note, strong=first, side=side)
