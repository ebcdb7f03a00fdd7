"""What a MODEL of `gate` is: a run folder, an adapter beside its base, a full model, or a model of a hub folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.advisor.measuring.in_context import in_context
from merge_advisor.advisor.measuring.meter import BASE, MergeMeter, ScoredModel
from merge_advisor.advisor.measuring.model_scores import FINAL
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.runs.reopening import find_members, reopen
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.errors import InputError
from merge_advisor.gate_values import GateSide
from merge_advisor.merges import WeightedMerge, merge_of
from merge_advisor.regular_files import home_expanded
from merge_advisor.session_options import Where, session_options
from merge_advisor.tasks import shared_choices
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG
from merge_advisor.weights.hub import parse_id

if TYPE_CHECKING:
    from merge_advisor.types import Row

_HUB = "hub:"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What a hub folder knows of one of its models.

    >>> KnownModel("adapters/law", base="base").template
    """

    place: str
    """Folder it was read from."""
    base: str | None = None
    """Where its base was; None where it is not known."""
    template: str | None = None
    """Prompt template of the pool it came from."""
    fingerprint: str | None = None


HubFinder = Callable[[str], KnownModel]
"""Gives what a hub folder knows of a model by its id."""


@dataclass(frozen=True, slots=True)
class GatedModel:
    """A MODEL as it was named, and what is there.

    >>> find_gated("run").kind, find_gated("adapters/a0").kind, find_gated("base").kind
    ('run', 'adapter', 'full model')
    """

    word: str
    kind: str
    """"run", "adapter" or "full model"."""
    place: str
    run: Run | None = None
    known: KnownModel | None = None
    """What a hub folder knows of it, where it is named by its id there."""

    @property
    def template(self) -> str | None:
        """The prompt template it is known to be used with."""
        known = self.known.template if self.known else None
        return self.run.plan.template if self.run else known

    @property
    def seen(self) -> frozenset[str]:
        """Inputs it is known to have learned from: scored on them, it would look too good."""
        tasks = self.run.tasks if self.run else ()
        return frozenset(row.plain_input for task in tasks for row in (*task.shots, *task.tuning))

    @property
    def labels(self) -> tuple[str, ...]:
        """Choices that all rows of its one task share."""
        tasks = self.run.tasks if self.run else ()
        return shared_choices((*tasks[0].shots, *tasks[0].tuning)) if len(tasks) == 1 else ()


def find_gated(word: str, *, find_in_hub: HubFinder | None = None) -> GatedModel:
    """Return what a MODEL is, by the files of its folder; nothing is opened yet.

    Args:
        word: a run folder, the folder of an adapter or of a full model, a `.gguf` file, a hub id of a full model, or
            `hub:ID`.
        find_in_hub: finds the ID of the last; None: there is no hub folder.

    Raises:
        InputError: there is nothing, or `hub:ID` without a hub folder, or of a model that is gone.
        RunError: a run folder that cannot be read.
    """
    if word.startswith(_HUB):
        if find_in_hub is None:
            raise InputError(f"{word}: no hub folder is named; give `hub=DIR`, or the folder of the model instead")
        known = find_in_hub(word.removeprefix(_HUB))
        if not Path(known.place).exists():
            raise InputError(f"{word}: its folder {known.place} is gone; put it back, or name the model by its folder")
        return replace(find_gated(known.place), word=word, known=known)
    folder = home_expanded(word)
    if (folder / "plan.json").is_file():
        return GatedModel(word, "run", str(folder), read_run(folder))
    if (folder / ADAPTER_CONFIG).is_file():
        return GatedModel(word, "adapter", str(folder))
    if not folder.exists() and parse_id(word) is None:
        raise InputError(f"{word}: no such folder; give a run folder, an adapter's folder, a full model, or hub:ID")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(
            f"{word}: is no model (no adapter_config.json, no config.json) and no run (no plan.json); give one of these"
        )
    return GatedModel(word, "full model", word)


@dataclass(frozen=True, slots=True, eq=False)
class OpenedModel:
    """A MODEL whose files are open.

    >>> with open_gated(find_gated("adapters/a0"), None, base="base").session as session:
    ...     len(session.pool.candidates)
    1
    """

    model: GatedModel
    session: Session
    merge: WeightedMerge

    @property
    def prompted(self) -> bool:
        """Whether it has the rows of its run in the prompt."""
        return self.model.run is not None and self.model.run.prompted

    @property
    def side(self) -> GateSide:
        """What it is, for the report."""
        run = self.model.run
        shown = [["prompted", *(task.digest for task in run.tasks)]] if run is not None and self.prompted else []
        digest = self.session.memo.digest([*self.merge.key, *shown])
        return GateSide(self.model.word, self.model.kind, digest, self.session.model.template.name)

    @property
    def without_prompt(self) -> ScoredModel:
        """Its weights alone, for what has no prompt."""
        return ScoredModel(self.model.word, self.merge)

    def scored(self, meter: MergeMeter, rows: tuple[Row, ...], metric: str) -> ScoredModel:
        """Return it as a model to be scored on rows.

        Args:
            meter: of its session, or of one with the same base and prompts.
            rows: what it is scored on.
            metric: "accuracy", "exact_match" or "loss".

        Raises:
            TaskError: not one of the examples fits into its prompt beside these rows.
        """
        if self.model.run is not None and self.prompted:
            shown = in_context(meter, self.model.run.tasks[0], rows, metric, FINAL, self.merge).model
            return replace(shown, label=self.model.word)
        return self.without_prompt


def open_gated(model: GatedModel, template: str | None, **where: Unpack[Where]) -> OpenedModel:
    """Return a MODEL opened; whoever asks closes its session.

    Args:
        model: the model.
        template: prompt template, of all but a run, which has its own; None: "alpaca".
        where: base of an adapter, where no hub folder knows it; for a run, base and pool where they are no longer where
            the plan found them.

    Raises:
        InputError: an adapter without a base, or one that is another than a hub folder knows.
        MergeAdvisorError: as `open_session` and `reopen`.
    """
    if model.run is not None:
        recorded = model.run.plan.environment.paths
        moved = {name for name in ("base", "pool") if not Path(recorded[name]).exists()}
        named = {"base": where.get("base") if "base" in moved else None}
        named |= {"pool": where.get("pool") if "pool" in moved else None}  # type: ignore[dict-item]
        run, session = reopen(Path(model.place), **Where(**session_options(where), **named))  # type: ignore[typeddict-item]
        try:
            return OpenedModel(model, session, merge_of(run.recipe, find_members(
                session.pool, session.local, run.folder, run.recipe)))  # fmt: skip
        except BaseException:
            session.memo.store.close()
            raise
    if model.kind == "full model":
        return OpenedModel(model, open_session(model.place, template=template, **session_options(where)), BASE)
    known = model.known or KnownModel(model.place)
    base = where.get("base") or known.base
    if base is None:
        raise InputError(f"{model.word}: is an adapter; name its base by `base`")
    session = open_session(base, model.place, template=template, **session_options(where))
    problem = ""
    if len(session.pool.candidates) != 1:
        problem = f"holds {len(session.pool.candidates)} models; name the folder of one"
    elif known.fingerprint not in (None, session.pool.candidates[0].fingerprint):
        problem = "has other weights than were added to the hub folder; add it again, or name the model by its folder"
    if problem:
        session.memo.store.close()
        raise InputError(f"{model.word}: {problem}")
    return OpenedModel(model, session, WeightedMerge(((session.pool.candidates[0], 1.0),)))
