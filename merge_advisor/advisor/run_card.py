"""The model card of a run's result: front matter as the hub reads it, what it is made of, recipe, scores, commands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from merge_advisor import registry
from merge_advisor.advisor.merge_run import check_mergeable
from merge_advisor.advisor.runs.run_command import plan_commands
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.errors import InputError, MergeAdvisorError
from merge_advisor.formats.peft import auto_class, task_type
from merge_advisor.hub_options import CardOptions
from merge_advisor.plain_yaml import escaped_yaml
from merge_advisor.pool.licences import licence_conflicts, read_card
from merge_advisor.pool.shared_licence import licence_fields, shared_licence
from merge_advisor.report.document import (
    Block,
    BulletList,
    Code,
    Document,
    Facts,
    Heading,
    Headline,
    Paragraph,
    Section,
    Table,
)
from merge_advisor.report.markdown import to_markdown
from merge_advisor.report.score_table import METRIC_TITLES, SCORE_HEADERS, SCORE_RIGHT, score_rows
from merge_advisor.scores import Score
from merge_advisor.types import TRAINED, Recipe
from merge_advisor.version import __version__
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG
from merge_advisor.weights.hub import HubId, fetch_snapshot, parse_id

_ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class RunCard:
    """A model card.

    >>> RunCard("# a merge", "mit", "adapter", "org/base").notes
    ()
    """

    text: str
    """README.md."""
    licence: str
    relation: str
    """How the result relates to its base, in the hub's words: "adapter" or "merge"."""
    base: str
    """Hub id of the base."""
    notes: tuple[str, ...] = ()
    """What has to be known before it is shared, a sentence each."""


def card_of_run(
    run: str | Path, options: CardOptions | None = None, *, repo: str = "", offline: bool = False
) -> RunCard:
    """Return the model card of a run's result: its `adapter/`, or the model that `merge` wrote of it.

    >>> made = card_of_run("run", CardOptions(licence="mit", base_model="org/base"))
    >>> made.relation, made.text.splitlines()[:3]
    ('adapter', ['---', 'base_model: org/base', 'base_model_relation: adapter'])

    Args:
        run: the run folder.
        options: the licence, the base's hub id, the model where it is not the run's adapter.
        repo: its place on the hub; "": not known yet, and the run folder's name is the result's.
        offline: never ask the hub for the base's licence.

    Raises:
        RunError: no run folder.
        InputError: the licences differ or are unknown and none is given, the base has no hub id and none is given, or
            the result is the base itself.
    """
    options = options or CardOptions()
    opened = read_run(Path(run))
    recipe = opened.recipe
    check_mergeable(opened)
    if opened.is_base:
        raise InputError(f"{opened.folder}: its model is the base itself, there is nothing to share; plan another run")
    base = _base_id(opened, options)
    relation = "adapter" if is_adapter(opened, options) else "merge"
    stated = _licences(opened, base, options, offline=offline)
    licence = shared_licence(stated, options.licence)
    notes = list(licence_conflicts([*stated.values(), licence]))
    if _base(base) not in stated:
        notes.append("the base's licence was not looked at; the one you state has to fit it")
    if opened.plan.verdict is not None:
        notes.append(f"verdict {opened.plan.verdict}: {opened.plan.reason}")
    else:
        notes.append("it was not scored; `score(run)` before it is shared says what it is worth")
    if opened.prompted:
        notes.append(
            "it was measured with examples in its prompt, which its weights do not hold: share prompt/ as well"
        )
    made = RunCard("", licence, relation, base, tuple(notes))
    title = repo.rpartition("/")[2] or opened.folder.resolve().name
    body = _body(opened, made, Heading("", title), Code(_usage(recipe, made, repo or "ORG/NAME")), stated)
    return replace(made, text=f"---\n{_front_matter(opened, made, title)}\n---\n{body}")


def is_adapter(run: Run, options: CardOptions) -> bool:
    """Return whether a run's result is an adapter, and no full model.

    Args:
        run: the run.
        options: name the model where it is not the run's own adapter.
    """
    if options.model is not None:
        return (options.model / ADAPTER_CONFIG).is_file()
    return (run.folder / _ADAPTER / ADAPTER_CONFIG).is_file()


def _base_id(run: Run, options: CardOptions) -> str:
    if options.base_model is not None:
        given = parse_id(options.base_model)
        if given is None:
            raise InputError(f"`base_model={options.base_model}`: is no hub id; give organisation/name")
        if run.recipe.base.revision is not None and given.repo != run.recipe.base.id:
            raise InputError(
                f"`base_model={options.base_model}`: the run was planned on {run.recipe.base.id}; leave it out"
            )
        return given.repo
    # the folder org/name of some machine looks like a hub id: only a commit shows that it is one
    if run.recipe.base.revision is None:
        raise InputError(
            f"{run.folder}: its base '{run.recipe.base.id}' came from a folder or file, so the hub does not know it; "
            "give `base_model=ORG/NAME`"
        )
    return run.recipe.base.id


def _licences(run: Run, base: str, options: CardOptions, *, offline: bool) -> dict[str, str | None]:
    """The licences of base and members as their cards state them; without the base where nobody had to ask.

    Raises:
        MergeAdvisorError: the base's licence is needed, and cannot be asked for.
    """
    stated: dict[str, str | None] = {}
    folder, given = Path(run.plan.environment.paths["base"]), options.licence is not None
    licence = read_card(folder).licence if folder.is_dir() else None
    if licence is None:
        try:
            # where the licence is given, nothing is fetched for a line of the table
            asked = HubId(base, run.recipe.base.revision)
            stated[_base(base)] = read_card(
                fetch_snapshot(asked, ("README.md",), offline=offline or given).path
            ).licence
        except MergeAdvisorError as error:
            if not given:
                raise type(error)(f"the base's licence: {error}; or state the result's with `licence=ID`") from error
    else:
        stated[_base(base)] = licence
    known = {candidate.fingerprint: candidate.licence for candidate in run.plan.candidates if candidate.fingerprint}
    for member in run.recipe.members:
        if member.id not in TRAINED and member.weight:  # what was trained here is the author's own
            stated[member.id] = known.get(member.fingerprint)
    return stated


def _base(name: str) -> str:
    """What the base is called among the members: one of them may have the same id."""
    return f"base {name}"


def _front_matter(run: Run, made: RunCard, name: str) -> str:
    """The YAML of the card, by the hub's own classes."""
    from huggingface_hub import ModelCardData

    recipe, adapter = run.recipe, made.relation == "adapter"
    merged = sum(member.id not in TRAINED and member.weight != 0 for member in recipe.members)
    tags = ["merge-advisor", *(["lora"] if adapter else []), *(["merge"] if merged else [])]
    data = ModelCardData(
        base_model=made.base if adapter else [made.base, *_hub_members(recipe)],
        library_name="peft" if adapter else "transformers",
        tags=tags, model_name=name, eval_results=_results(run) or None,
        pipeline_tag=_pipeline(recipe), base_model_relation=made.relation, **licence_fields(made.licence),
    )  # fmt: skip
    if data.eval_results is None:
        data.pop("model_name")
    order = ["base_model", "base_model_relation", "library_name", "pipeline_tag", "license", "license_name", "tags"]
    return escaped_yaml(data.to_yaml(original_order=[key for key in order if key in data]))


def _hub_members(recipe: Recipe) -> list[str]:
    """The members that the hub knows: those with a commit."""
    found = [member.source for member in recipe.members if member.revision is not None and member.weight]
    return list(dict.fromkeys(found))


def _pipeline(recipe: Recipe) -> str:
    return "text2text-generation" if task_type(recipe.base.architecture) == "SEQ_2_SEQ_LM" else "text-generation"


def _results(run: Run) -> list[Any]:
    """What the run's model reached, as the hub's `model-index` holds it."""
    from huggingface_hub import EvalResult

    results = []
    for score in run.scores:
        reached = next((model.metrics for model in score.models if model.label == "merge"), {})
        for metric in dict.fromkeys((score.metric, "loss")):
            value = reached.get(metric)
            if value is not None and math.isfinite(value):
                results.append(EvalResult(
                    task_type=_pipeline(run.recipe), dataset_type=score.task.removeprefix("lm-eval:"),
                    dataset_name=f"{score.task}, {len(score.row_digests)} held-out rows", metric_type=metric,
                    metric_name=METRIC_TITLES.get(metric, metric), metric_value=round(value, 6),
                ))  # fmt: skip
    return results


def _body(run: Run, made: RunCard, title: Heading, usage: Code, stated: Mapping[str, str | None]) -> str:
    """The card below its front matter, as Markdown; all text from elsewhere is escaped."""
    what = "A LoRA adapter" if made.relation == "adapter" else "A merged model"
    rows = sum(len(task.shots) + len(task.tuning) for task in run.plan.tasks)
    tasks = ", ".join(f"'{task.name}'" for task in run.plan.tasks)
    words = f"{what} of {made.base}, chosen and made by merge-advisor {__version__} for {tasks}; it saw {rows} rows."
    shown = " It was measured with examples in its prompt, which no weights hold." if run.prompted else ""
    opening = (Paragraph(f"{words} Prompts: template {run.plan.template}.{shown}"), usage)
    sections = [
        Section("members", Heading("What it is made of"), (_members(run, made, stated),)),
        Section("recipe", Heading("Recipe"), _recipe(run)),
        Section("scores", Heading("Scores"), tuple(_scores(run))),
        Section("again", Heading("Made again by"), _again(run, made.base)),
        Section("licence", Heading("Licence"), _licence(made, stated)),
    ]
    none = Headline("", "none", "", "")
    return to_markdown(Document(title, none, Facts(()), opening, tuple(sections)))


def _usage(recipe: Recipe, made: RunCard, repo: str) -> tuple[str, ...]:
    auto = auto_class(recipe.base.architecture)
    if made.relation != "adapter":
        return (f"from transformers import {auto}", "", f'model = {auto}.from_pretrained("{repo}")')
    pinned = "" if recipe.base.revision is None else f', revision="{recipe.base.revision}"'
    return (
        "from peft import PeftModel",
        f"from transformers import {auto}",
        "",
        f'base = {auto}.from_pretrained("{made.base}"{pinned})',
        f'model = PeftModel.from_pretrained(base, "{repo}")',
    )


def _members(run: Run, made: RunCard, stated: Mapping[str, str | None]) -> Table:
    named = stated[_base(made.base)] or "unknown" if _base(made.base) in stated else "see its page"
    rows = [("base", made.base, run.recipe.base.revision or "", named, "")]
    for member in run.recipe.members:
        if not member.weight:
            continue
        trained = member.id in TRAINED
        place = "trained on the examples" if trained else member.source
        licence = "" if trained else stated.get(member.id) or "unknown"
        rows.append((member.id, place, member.revision or "", licence, f"{member.weight:.6g}"))
    return Table("", ("member", "source", "revision", "licence", "weight"), tuple(rows), (4,))


def _recipe(run: Run) -> tuple[Block, ...]:
    recipe, adaptation = run.recipe, run.plan.adaptation
    meaning = registry.load("composition", recipe.composition.partition(":")[0].strip()).weight_means
    pairs = [("composition", recipe.composition), ("a weight is", meaning)]
    if recipe.rank is not None:
        lost = f"relative error {run.plan.rank_error:.3g} of the Frobenius norm"
        pairs.append(("cut to rank", f"{recipe.rank} by truncated SVD, {lost}"))
    if recipe.layers:
        factors = ", ".join(f"{factor:.6g}" for factor in recipe.layers)
        pairs.append(("by layer group, first to last, all weights times", factors))
    pairs.append(("chosen by", f"strategy {run.plan.selection.strategy}: {run.plan.selection.stopped}"))
    if adaptation is not None and adaptation.start is not None:
        pairs.append(("adaptation", f"{adaptation.chosen}: {adaptation.reason}"))
    if run.tuning is not None:
        pairs.append(("tuned", f"by {len(run.tuning.trials)} trials"))
    pairs.append(("digest", recipe.digest))
    return (Facts(tuple(pairs)), Paragraph("recipe.json beside this card holds it in full."))


def _scores(run: Run) -> Sequence[Block]:
    if not run.scores:
        return (Paragraph("Not scored."),)
    blocks: list[Block] = []
    for score in run.scores:
        blocks += _score(score)
    if run.plan.verdict is not None:
        blocks.append(Paragraph(f": {run.plan.reason}", strong=f"verdict {run.plan.verdict}"))
    return blocks


def _score(score: Score) -> list[Block]:
    rows = f"{len(score.row_digests)} held-out rows"
    head = f"{score.task}: {METRIC_TITLES.get(score.metric, score.metric)} on {rows}, {score.evaluator}. merge is this "
    notes = [BulletList(score.notes)] if score.notes else []
    return [Paragraph(head + "model."), Table("", SCORE_HEADERS, score_rows(score), SCORE_RIGHT), *notes]


def _again(run: Run, base: str) -> tuple[Block, ...]:
    words = (
        "Files and folders under the names the author has; recipe.json gives the same weights without choosing anew."
    )
    return (Code(tuple(plan_commands(run, base))), Paragraph(words))


def _licence(made: RunCard, stated: Mapping[str, str | None]) -> tuple[Block, ...]:
    conflicts = licence_conflicts([*stated.values(), made.licence])
    listed: tuple[Block, ...] = (BulletList(conflicts),) if conflicts else ()
    return (Paragraph(f"{made.licence}. No legal advice: the terms of the base and of all members apply."), *listed)
