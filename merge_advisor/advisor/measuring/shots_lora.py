"""The LoRA of the shots: finetuned once, kept in the cache, a candidate like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import InputError, RunError
from merge_advisor.json_form import STRICT, digest_of, read_value, to_json
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import BACKWARD, SHOTS_LORA, Candidate, Row
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.adapter_writing import write_adapter
from merge_advisor.weights.updates import WeightDelta, digest_of_delta
from merge_advisor.whole_files import discard, write_text

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.memo import Memo
    from merge_advisor.advisor.measuring.prompted_model import PromptedModel
    from merge_advisor.backbone.finetune import FinetuneResult
    from merge_advisor.weights.base import LocalBase

TRAINING = "training.json"
"""File beside an adapter in the cache, which says how it was trained."""


@dataclass(frozen=True, slots=True)
class FinetuneRecord:
    """How the LoRA of the shots was trained.

    >>> FinetuneRecord(steps=8, taken=16, watched=(1.2, 1.1, 1.3), forwards=228).steps
    8
    """

    __pydantic_config__ = STRICT

    steps: int
    """Optimiser steps behind it."""
    taken: int
    """Optimiser steps taken; those after `steps` made the loss on the watched rows worse."""
    watched: tuple[float, ...]
    """Mean loss on the watched rows at each check, nats per token."""
    forwards: int
    """Cost in forward passes over one row."""


@dataclass(frozen=True, slots=True)
class ShotsLora:
    """The LoRA finetuned on the shots, and how it came about.

    >>> record = FinetuneRecord(steps=8, taken=16, watched=(), forwards=192)
    >>> ShotsLora(Candidate(SHOTS_LORA, "adapter", "cache/shots/x/shots_lora"), record).candidate.id
    'shots_lora'
    """

    candidate: Candidate
    record: FinetuneRecord


@dataclass(frozen=True, slots=True)
class Shots:
    """What the LoRA of the shots is trained on.

    >>> Shots((Row("2 + 2", "4"),)).watch
    ()
    """

    rows: tuple[Row, ...]
    """The shots of all tasks."""
    watch: tuple[Row, ...] = ()
    """Rows that say when to stop; none of the shots."""
    weights: tuple[float, ...] = ()
    """What each of these counts, summing to 1; empty where all count the same."""


def finetune_on_shots(
    model: PromptedModel, memo: Memo, cache: Path, shots: Shots, targets: Sequence[str], settings: FinetuneSettings,
    seed: int,
) -> ShotsLora:  # fmt: skip
    """Return the LoRA of the shots: from the cache, or finetuned now.

    Args:
        model: the base under the template.
        memo: what the LoRA depends on beside its rows; counts whether it was found.
        cache: folder of finetuned LoRAs.
        shots: the rows.
        targets: names of the parameters it changes.
        settings: rank, rate and length.
        seed: initial weights and order of the rows.

    Raises:
        InputError: the loss became infinite; a smaller `lr` is needed.
        RunError: the cache cannot be written.
    """
    # weights only where there are some: LoRAs from before there were any are found
    uneven = [list(shots.weights)] if shots.weights else []
    parts = [*([row.digest for row in part] for part in (shots.rows, shots.watch)), *uneven]
    # 2 is the version of the finetune: raise it when the same settings give another LoRA
    key = digest_of([list(memo.context), "lora", 2, parts, sorted(targets), settings_plain(settings), seed])
    folder = cache / "shots" / key / SHOTS_LORA
    if is_kept(folder):
        memo.hits += 1
    else:
        memo.misses += 1
        result = _finetune(model, shots, targets, settings, seed)
        trained = BACKWARD * result.taken * min(settings.batch_size, len(shots.rows))
        forwards = trained + len(result.watched) * len(shots.watch)
        record = FinetuneRecord(result.steps, result.taken, result.watched, forwards)
        keep_lora(folder, result.delta, model, to_json(record))
    record = read_value(FinetuneRecord, folder.parent / TRAINING)
    return ShotsLora(read_trained(folder, model.local, settings.rank), record)


def _finetune(
    model: PromptedModel, shots: Shots, targets: Sequence[str], settings: FinetuneSettings, seed: int
) -> FinetuneResult:
    from merge_advisor.backbone.finetune import finetune_lora

    # cut on both sides: a row too long to train on whole still says what the answers look like
    rows, watch = (model.encode(part, settings.max_length, cut=True) for part in (shots.rows, shots.watch))

    def progress(done: int, total: int) -> None:
        model.progress("finetuning on the shots", done, total)

    return finetune_lora(
        model.backbone, rows, targets, settings, seed=seed, watch=watch, weights=shots.weights, progress=progress
    )


def is_kept(folder: Path) -> bool:
    """Return whether an adapter is in the cache, whole: its configuration is written last.

    Args:
        folder: the adapter's.
    """
    return (folder / "adapter_config.json").is_file()


def keep_lora(folder: Path, delta: WeightDelta, model: PromptedModel, record: str = "") -> None:
    """Write an adapter into the cache; one that another process wrote there meanwhile is as good.

    Args:
        folder: the adapter's, named by all that it depends on.
        delta: its factors.
        model: the base.
        record: what `TRAINING` beside it says; empty: nothing.

    Raises:
        RunError: no permission, or no room.
    """
    if folder.exists() and not is_kept(folder):  # cut short, by a version that did not write folders whole
        discard(folder)
    if record:  # first: the folder, once it is there, says that all is there
        write_text(folder.parent / TRAINING, record)
    try:
        write_lora(folder, delta, model)
    except RunError:
        if not is_kept(folder):
            raise


def write_lora(
    folder: Path, delta: WeightDelta, model: PromptedModel, *, texts: Mapping[str, str] | None = None
) -> None:
    """Write a LoRA of this base in PEFT's layout, float32.

    Args:
        folder: a folder that is not there yet.
        delta: its factors.
        model: the base.
        texts: further files of it by name, such as its card.

    Raises:
        InputError: the folder is there, or cannot be written.
    """
    write_adapter(
        folder,
        delta,
        base_name=model.local.base.id,
        task_type=model.task_type,
        dtype="float32",
        texts=texts,
        base_shapes=model.local.shapes,
    )


def read_trained(folder: Path, local: LocalBase, rank: int = 0) -> Candidate:
    """Return the folder of an adapter that was trained on the rows as a candidate; its name is the id.

    Args:
        folder: an adapter's folder.
        local: the base.
        rank: to state; 0 where it is not known.

    Raises:
        PoolError: it is no adapter of this base.
    """
    delta = read_adapter(folder, local.shapes)
    modules = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in delta})
    return Candidate(
        id=folder.name,
        kind="adapter",
        path=str(folder),
        fingerprint=digest_of_delta(delta),
        source=folder.name,
        rank=rank,
        modules=tuple(modules),
        description="LoRA finetuned on the shots" if folder.name == SHOTS_LORA else "trained on top of the merge",
    )


def settings_plain(settings: FinetuneSettings) -> dict[str, Any]:
    """Return the settings as JSON values.

    Args:
        settings: of a finetune.
    """
    return {name: getattr(settings, name) for name in type(settings).__slots__}


_ATTENTION = {"q_proj", "v_proj", "q", "v", "c_attn", "query_key_value", "qkv_proj", "Wqkv", "W_pack"}
"""Modules of attention's queries and values, by the names that families give them; from `c_attn` on all in one."""


def target_parameters(local: LocalBase, candidates: Sequence[Candidate]) -> list[str]:
    """Return the parameters the LoRA of the shots changes: those the pool's adapters change, else attention's q and v.

    Where a base has q, k and v in one weight, that is changed as a whole.

    Args:
        local: the base.
        candidates: the pool's.

    Raises:
        InputError: the base has none of them.
    """
    kinds = {kind for c in candidates if c.kind == "adapter" for kind in c.modules} or _ATTENTION
    targets = [
        name
        for name, place in local.shapes.places.items()
        # a part of a larger weight in memory, as an expert of a mixture is, has no layer that a LoRA could run beside
        if len(place.shape) == 2 and place.module and name.removesuffix(".weight").rpartition(".")[2] in kinds
    ]
    if not targets:
        raise InputError(
            f"the base has no modules named {', '.join(sorted(kinds))}; no LoRA can be trained on the shots"
        )
    return sorted(targets)
