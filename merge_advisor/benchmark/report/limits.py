"""What a benchmark cannot show: one sentence for each thing that a reader might take from it and should not."""

from __future__ import annotations

from itertools import groupby

from merge_advisor.benchmark.analysis.findings import Findings
from merge_advisor.benchmark.analysis.means import without_tried
from merge_advisor.benchmark.analysis.resampling import ENOUGH_FAMILIES
from merge_advisor.benchmark.report.wording import p_text, plural


def limits(findings: Findings) -> list[str]:
    """Return what the benchmark cannot show, one sentence each.

    Args:
        findings: results, contrasts and the setup.
    """
    return [
        "One base and one pool: nothing here is about others.",
        *_few_families(findings),
        *_tried(findings),
        *_draws(findings),
        *_tuner_seed(findings),
        *_own_adapters(findings),
        (
            "Intervals are over families: they speak of tasks of other families like these, and the same held-out rows"
            " serve all draws of a task."
        ),
        *_arms_missing_on_units(findings),
        "Only the primary contrast was fixed as the one question; the tables and plots of all arms describe.",
        *_late_additions(findings),
        *_failed(findings),
    ]


def _few_families(findings: Findings) -> list[str]:
    primary = findings.primary
    if primary is None or not 0 < len(primary.families) < ENOUGH_FAMILIES:
        return []
    families = len(primary.families)
    least = 2.0 ** (1 - families)  # two of the 2^n sign patterns are as extreme as all differences on one side
    return [
        (
            f"{plural(families, 'family', 'families')} of tasks: no sign-flip test over so few goes below"
            f" p = {p_text(least)}; at least {ENOUGH_FAMILIES} can reach p < .05."
        )
    ]


def _tried(findings: Findings) -> list[str]:
    there = {result.unit.family for result in findings.results}
    tried = [family for family in findings.setup.tasks.tried if family in there]
    if not tried:
        return []
    return [f"Strategies were tried out on {', '.join(tried)}: in the tables by task, in no contrast and no mean."]


def _draws(findings: Findings) -> list[str]:
    """What chance was drawn once, and what the setup asks for that was not run."""
    asked, units, sentences = findings.setup.draws, {result.unit for result in findings.results}, []
    for name, run, wanted in (
        ("shots", len({unit.shot_draw for unit in units}), asked.shots),
        ("selections", len({unit.selection_draw for unit in units}), asked.selections),
    ):
        if min(run or wanted, wanted) == 1:
            of_more = f" (the setup asks for {wanted})" if wanted > 1 else ""
            sentences.append(f"One draw of {name}{of_more}: how much that chance matters is not seen.")
        elif 0 < run < wanted:
            sentences.append(f"{run} of {wanted} draws of {name} were run.")
    return sentences


def _tuner_seed(findings: Findings) -> list[str]:
    tuned = [arm.name for arm in findings.setup.arms if arm.tuner is not None]
    if not tuned or findings.setup.draws.tuners != 1:
        return []
    return [f"One tuner seed ({', '.join(tuned)}): how much that chance matters is not seen."]


def _own_adapters(findings: Findings) -> list[str]:
    views = findings.setup.views
    if not findings.own or "own-out" in views or "family-out" in views:
        return []
    return ["The adapter trained on a task is in its pool: nothing here is about new tasks."]


def _arms_missing_on_units(findings: Findings) -> list[str]:
    done = [r for r in without_tried(findings.results, findings.setup.tasks.tried) if r.status == "done"]
    if len({r.unit for r in done}) * len({(r.arm, r.view, r.k) for r in done}) <= len(done):
        return []
    return [
        (
            "Not every arm was run on every unit: compare contrasts, and what arms gained over the base, which take the"
            " units that both sides have; not the other columns."
        )
    ]


def _late_additions(findings: Findings) -> list[str]:
    sentences = []
    for number, added in groupby(findings.added, key=lambda addition: addition.results):
        names = [addition.name for addition in added]
        arms = {name.removeprefix("arm ") for name in names if name.startswith("arm ")}
        # a new arm brings its sizes along: "k 4 of NAME" says nothing beside "arm NAME"
        listed = [n for n in names if not (n.startswith("k ") and n.partition(" of ")[2] in arms)]
        sentences.append(
            f"Added when {plural(number, 'result was', 'results were')} there, so not fixed before them:"
            f" {'; '.join(listed)}."
        )
    return sentences


def _failed(findings: Findings) -> list[str]:
    if not findings.failed:
        return []
    return [
        (
            f"{plural(len(findings.failed), 'result', 'results')} failed and are in no mean;"
            " a contrast takes the units on which both of its arms are done."
        )
    ]
