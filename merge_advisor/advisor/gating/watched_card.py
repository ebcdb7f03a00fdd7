"""The model card of a model that came to a watched pool: what it is, and what it is worth on the known tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence

from merge_advisor.advisor.gating.watch_state import TaskDecision
from merge_advisor.report.document import Document, Facts, Heading, Headline, Paragraph, Section, Table
from merge_advisor.report.markdown import to_markdown
from merge_advisor.report.score_table import difference_text, value_text
from merge_advisor.types import Base, Candidate

_HEADERS = ("task", "metric", "rows", "best known", "with it", "difference", "95% interval", "how", "improves")


def watched_card(candidate: Candidate, base: Base, tasks: Sequence[TaskDecision]) -> str:
    """Return a model card in Markdown, its front matter as the hub reads it.

    Args:
        candidate: the model.
        base: what it was finetuned from.
        tasks: what it does for each task that is known.
    """
    kind = "adapter" if candidate.kind == "adapter" else "finetune"
    front = {
        "base_model": base.id, "base_model_relation": kind, "license": candidate.licence or "unknown",
        "tags": ["merge-advisor", *(["lora"] if kind == "adapter" else [])],
    }  # fmt: skip
    facts = Facts((
        ("base", base.id), ("kind", candidate.kind), ("rank", str(candidate.rank or "full")),
        ("modules", ", ".join(candidate.modules)), ("licence", candidate.licence or "not stated"),
        ("source", candidate.source or "a folder"), ("fingerprint", candidate.fingerprint),
    ))  # fmt: skip
    rows = tuple(
        (
            task.task, task.metric, str(task.rows), value_text(task.before, task.metric),
            value_text(task.after, task.metric), difference_text(task.difference, task.metric),
            " to ".join(difference_text(value, task.metric) for value in (task.lower, task.upper)), task.tried,
            "yes" if task.improves else "no",
        )
        for task in tasks
    )  # fmt: skip
    measured = Section("measured", Heading("Measured"), (
        Table("Measured", _HEADERS, rows, right=(2, 3, 4, 5, 6)),
        Paragraph("On rows held out of choosing how it is used; a difference is positive where the model is better."),
    ))  # fmt: skip
    stated = [Section("card", Heading("Stated by its own card"), (Paragraph(candidate.description),))]
    sections = (measured, *(stated if candidate.description else []))
    headline = Headline("Model", "none", candidate.id, "")
    document = Document(Heading("", candidate.id), headline, facts, (facts,), sections)
    # JSON is YAML, whatever characters a name holds
    lines = "\n".join(f"{name}: {json.dumps(value)}" for name, value in front.items())
    return f"---\n{lines}\n---\n{to_markdown(document)}"
