"""Finetunes that adaptations ask for: each is done once, kept in the cache, and a candidate like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.adapt.values import Trained, TrainingRecord, TrainingRequest
from merge_advisor.advisor.measuring.shots_lora import TRAINING, is_kept, keep_lora, read_trained
from merge_advisor.json_form import digest_of, read_value, to_json
from merge_advisor.types import BACKWARD, RESIDUAL, Candidate
from merge_advisor.weights.updates import digest_of_delta

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.backbone.finetune import FinetuneResult
    from merge_advisor.backbone.training_loss import Example
    from merge_advisor.types import LossKind, Row
    from merge_advisor.weights.updates import WeightDelta

_VERSION = 1
"""Of a finetune: to be raised when the same request gives another adapter."""


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains on the base, and keeps what it trained.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> from merge_advisor.backbone.shapes import LoraShape
    >>> from merge_advisor.options import FinetuneSettings
    >>> from merge_advisor.types import Row
    >>> rows = (Row("say 1 twice", "1 1"), Row("say 2 twice", "2 2"))
    >>> shape = LoraShape(("model.layers.0.self_attn.q_proj.weight",), rank=2, alpha=4.0)
    >>> with open_session("base", "adapters") as session:
    ...     trainer = Trainer(session.meter, session.cache, kinds={})
    ...     trained = trainer.train(TrainingRequest(shape, rows, settings=FinetuneSettings(steps=2)))
    >>> trained.record.taken, trained.record.forwards, trained.record.numbers
    (2, 12, 128)
    """

    meter: MergeMeter
    cache: Path
    kinds: dict[str, LossKind]
    """By digest of a row, what it is judged by; one that is not named by its loss."""

    def train(self, request: TrainingRequest) -> Trained:
        """Return what a request trains: from the cache, or trained now.

        Args:
            request: what to train, from where, on what.

        Raises:
            InputError: the loss became infinite; a smaller rate is needed.
            RunError: the cache cannot be written.
        """
        memo = self.meter.memo
        kinds = [self.kinds.get(row.digest, "loss") for row in (*request.rows, *request.watch)]
        key = digest_of([list(memo.context), "adaptation", _VERSION, request.digest, kinds])
        folder = self.cache / "trained" / key / RESIDUAL
        if is_kept(folder):
            memo.hits += 1
        else:
            memo.misses += 1
            result, numbers = self._finetune(request)
            passes = BACKWARD * result.taken * min(request.settings.batch_size, len(request.rows))
            forwards = passes + len(result.watched) * len(request.watch)
            record = TrainingRecord(result.steps, result.taken, result.watched, result.rows, numbers, forwards)
            keep_lora(folder, result.delta, self.meter.model, to_json(record))
        record = read_value(TrainingRecord, folder.parent / TRAINING)
        return Trained(read_trained(folder, self.meter.model.local), record)

    def keep(self, delta: WeightDelta, name: str) -> Candidate:
        """Return a weight delta as a candidate, an adapter that is written into the cache.

        Args:
            delta: low-rank throughout.
            name: its id.

        Raises:
            RunError: the cache cannot be written.
        """
        folder = self.cache / "trained" / digest_of(["kept", digest_of_delta(delta), name]) / name
        if not is_kept(folder):
            keep_lora(folder, delta, self.meter.model)
        return read_trained(folder, self.meter.model.local)

    def _finetune(self, request: TrainingRequest) -> tuple[FinetuneResult, int]:
        import torch

        from merge_advisor.backbone.finetune import Pull, finetune, watcher

        model = self.meter.model
        backbone = model.backbone
        rows, watch = self.encoded(request.rows, request), self.encoded(request.watch, request)

        def progress(done: int, total: int) -> None:
            model.progress(f"training {request.what or 'on the rows'}", done, total)

        def train() -> tuple[FinetuneResult, int]:
            generator = torch.Generator().manual_seed(request.seed)  # here: where memory runs out, this runs again
            trainable = request.shape.build(backbone, generator)
            # what learns from no output may get worse from its first step on, and its rows may be many
            blind = not request.terms.needs_outputs
            result = finetune(
                backbone, trainable, rows, request.settings, generator=generator, watch=watcher(backbone, watch),
                weights=request.weights,
                terms=request.terms, pull=Pull(request.pull), start_counts=bool(request.start.members) or blind,
                check_rows=len(watch) if blind else None, progress=progress,
            )  # fmt: skip
            return result, trainable.size

        return self.meter.on_base(request.start, train)

    def encoded(self, rows: Sequence[Row], request: TrainingRequest) -> list[Example]:
        """Return rows as token ids, those judged by their choices with them.

        Args:
            rows: the rows.
            request: says how long a row may be.

        Raises:
            TaskError: a choice is longer than the context.
        """
        model = self.meter.model
        encoded: list[Example] = []
        for row in rows:
            if self.kinds.get(row.digest) == "choices":
                encoded += model.encode_choices([row])
            else:
                # cut on both sides: a row too long to train on whole still says what the answers look like
                encoded += model.encode([row], request.settings.max_length, cut=True)
        return encoded
