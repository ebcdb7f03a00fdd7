"""The document of a benchmark: its answer, what was run, and the sections in their order."""

from __future__ import annotations

import re

from merge_advisor.benchmark.analysis.findings import Findings
from merge_advisor.benchmark.report.arm_sections import arms_section, ranks_section, tasks_section
from merge_advisor.benchmark.report.auto_sections import calibration_section, taken_section
from merge_advisor.benchmark.report.choice_sections import chosen_section, promises_section
from merge_advisor.benchmark.report.common_blocks import bench_section, cut_table, titled
from merge_advisor.benchmark.report.limits import limits
from merge_advisor.benchmark.report.question_section import contrasts_section
from merge_advisor.benchmark.report.setup_yaml import setup_text
from merge_advisor.benchmark.report.size_and_cost_sections import costs_section, sizes_section
from merge_advisor.benchmark.report.wording import bench_facts, headline_words, plural
from merge_advisor.benchmark.values import Unit
from merge_advisor.report.document import BulletList, Code, Document, Facts, Heading, Headline, Paragraph, Section

_FAILED = 40
"""Failed results listed; `tables/failed.csv` has all."""


def bench_document(findings: Findings) -> Document:
    """Return the document of a benchmark; sections with nothing to say are left out.

    Args:
        findings: all that the report says.

    >>> from merge_advisor.benchmark.analysis.findings import make_findings
    >>> from merge_advisor.benchmark.values import Arm, Question, Setup, Tasks
    >>> arms = (Arm("ours", "top_k"),)
    >>> setup = Setup("small", "base", "adapters", Tasks("rows"), arms, Question("ours", "base"), 1.0)
    >>> document = bench_document(make_findings(setup, (), ()))
    >>> document.headline.word, [section.id for section in document.sections]
    ('No answer', ['limits', 'setup'])
    """
    kind, word, sentence = headline_words(findings)
    facts = Facts(tuple(bench_facts(findings)))
    # first the answers and what they cannot say, then what describes, last what repeats the benchmark
    builders = (
        contrasts_section,
        arms_section,
        _limits,
        ranks_section,
        tasks_section,
        taken_section,
        chosen_section,
        sizes_section,
        costs_section,
        promises_section,
        calibration_section,
        _failed,
        _setup,
    )
    sections = (build(findings) for build in builders)
    return Document(
        heading=Heading("Benchmark ", findings.setup.name),
        headline=Headline("Primary contrast", kind, word, f"{sentence}."),
        facts=facts,
        opening=(
            Paragraph(f" — {sentence}.", strong=word),
            facts,
            Paragraph("The plots are in report.html, the numbers behind each in tables/."),
        ),
        sections=tuple(section for section in sections if section is not None),
    )


def _limits(findings: Findings) -> Section:
    return bench_section("limits", "What this cannot show", BulletList(tuple(limits(findings))))


def _failed(findings: Findings) -> Section | None:
    failed = findings.failed
    if not failed:
        return None
    headers = ("arm", "task", "view", "k", "draws (shots, selection, tuner)", "reason")
    rows = tuple((r.arm, r.unit.task, r.view, str(r.k), _draws(r.unit), r.reason) for r in failed[:_FAILED])
    count = plural(len(failed), "result", "results")
    more = f" The first {_FAILED} are listed, tables/failed.csv has all." if len(failed) > _FAILED else ""
    text = f"{count} of {len(findings.results):,} failed.{more} The same command again tries them anew."
    title = "Failed results"
    return bench_section("failed", title, Paragraph(text), cut_table(title, headers, rows, (3,)))


def _draws(unit: Unit) -> str:
    return f"{unit.shot_draw}, {unit.selection_draw}, {unit.tuner_seed}"


def _setup(findings: Findings) -> Section:
    """The setup as a file to copy and the command that repeats the benchmark."""
    setup = findings.setup
    rows = tuple(
        (
            arm.name,
            arm.strategy,
            arm.adaptation,
            arm.composition,
            ", ".join(map(str, arm.k or setup.k)),
            "member" if arm.shots_lora else "",
            arm.match,
            "" if arm.tuner is None else f"{arm.tuner.sampler}, {arm.tuner.trials} trials, {arm.tuner.objective}",
        )
        for arm in setup.arms
    )
    headers = ("arm", "strategy", "adaptation", "composition", "k", "shots_lora", "budget of", "tuner")
    # the name becomes a file name that a reader pastes into a shell
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", setup.name).strip("-.") or "setup"
    text = f"This text as {name}.yaml, beside what its paths lead to, and the command under it repeat the benchmark."
    return bench_section(
        "setup",
        "Setup",
        Paragraph(text),
        *titled(cut_table("Arms", headers, rows)),
        Code(tuple(setup_text(setup).split("\n"))),
        Code((f"merge-advisor bench {name}.yaml --out {name}-again",)),
    )
