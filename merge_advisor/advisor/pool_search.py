"""`pool find`: the hub's finetunes of a base, ranked, as a pool that `plan` reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from merge_advisor.errors import OfflineError
from merge_advisor.hub_options import FindOptions
from merge_advisor.options import DEFAULT_SHOTS
from merge_advisor.pool.hub_models import HubListing, HubModel, list_hub_models
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.select.evidence import Evidence
from merge_advisor.select.text import text_similarity
from merge_advisor.tasks import read_rows, split
from merge_advisor.types import RefusedModel
from merge_advisor.weights.hub_errors import switched_off


@dataclass(frozen=True, slots=True)
class PoolSearch:
    """What was found for a pool, the best first.

    >>> search = PoolSearch("org/base", "0" * 40, (HubModel("org/a", "1" * 40, "adapter", "org/base", size=5),), "x")
    >>> search.download
    {'adapter': 5}
    """

    base: str
    """Id of the base, as the hub has it."""
    revision: str
    """The commit its main branch is at, or that was asked for."""
    models: tuple[HubModel, ...]
    ranked: str
    """What they are ranked by, in words."""
    refused: tuple[RefusedModel, ...] = ()
    """Those that could not be looked at."""
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> tuple[HubModel, ...]:
        """The models that a manifest lists."""
        return tuple(model for model in self.models if model.usable)

    @property
    def download(self) -> dict[str, int]:
        """Bytes that `plan` fetches of them, by kind."""
        sizes: dict[str, int] = {}
        for model in self.usable:
            sizes[model.kind] = sizes.get(model.kind, 0) + model.size
        return sizes

    @property
    def left_out(self) -> tuple[RefusedModel, ...]:
        """The models that a manifest does not list, with what to do."""
        return tuple(RefusedModel(model.id, _why_not(model)) for model in self.models if not model.usable)


def find_pool(
    base: str, options: FindOptions | None = None, *, offline: bool = False, progress: Progress = quiet_progress
) -> PoolSearch:
    """Return the hub's finetunes of a base, ranked by how like they are to a task, or by downloads.

    Args:
        base: hub id of the base, perhaps with a revision.
        options: how many, which of them, and the task.
        offline: refuse, since only the hub knows.
        progress: called with (what, done, total).

    Raises:
        TaskError: the task file cannot be used.
        OfflineError: fetching is off.
        InputError: no such base, or no finetune of it that fits the options.
        ExternalError: the hub cannot be reached, asks for a pause, or failed.
    """
    options = options or FindOptions()
    if offline or switched_off():
        raise OfflineError(
            f"{base}: only the hub knows its finetunes, and fetching is off; leave out `offline=True` and unset "
            "HF_HUB_OFFLINE"
        )
    query = None if options.task is None else _query(options.task, options.fields)  # before the hub is asked
    listing = list_hub_models(base, options, progress=progress)
    models, ranked = _ranked(listing, query)
    notes = list(listing.notes)
    if query is not None and not any(model.similarity for model in models):
        notes.append("no name and no card has a word in common with the examples, so the order is that of downloads")
    if options.top is not None and len(models) > options.top:
        notes.append(f"the first {options.top} of {len(models)} are kept")
        models = models[: options.top]
    return PoolSearch(
        listing.base.repo, listing.base.revision or "", tuple(models), ranked, listing.refused, tuple(notes)
    )


def _query(path: Path, fields: str | None) -> str:
    """The task as the strategy `text` sees it in a plan: the rows that choose, never those held out for scoring."""
    file = read_rows(path, fields=fields)
    task, _ = split(file.rows, name=file.name, shots=DEFAULT_SHOTS)
    return "\n".join(f"{row.input} {row.output}" for row in task.choosing)


def _ranked(listing: HubListing, query: str | None) -> tuple[list[HubModel], str]:
    models = list(listing.models)
    if query is None:
        return models, "downloads in the last month"
    none = np.zeros((len(models), 0))
    evidence = Evidence(
        tuple(model.id for model in models), none, lambda: np.zeros(0),
        texts=tuple(f"{model.id} {model.card}" for model in models), query=query,
    )  # fmt: skip
    scores = text_similarity(evidence)
    scored = [replace(model, similarity=float(score)) for model, score in zip(models, scores, strict=True)]
    # stable: models that are equally like the task stay in the order of their downloads
    words = "likeness of name and card to the examples (TF-IDF cosine, as strategy text), then downloads"
    return sorted(scored, key=lambda model: -(model.similarity or 0.0)), words


def _why_not(model: HubModel) -> str:
    if not model.granted:
        return "gated: ask for access on its page, set HF_TOKEN, then find the pool again"
    if model.weights == "none":
        return "no safetensors where PEFT and transformers look for them (the top of the repository); nothing to fetch"
    if model.kind == "adapter":
        return f"pickles only: rewrite it by `merge-advisor convert {model.id}@{model.revision} --out DIR`"
    return "pickles only: save it as safetensors first; pickles of full models are not opened"
