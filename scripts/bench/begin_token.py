"""What is a begin token worth to rows? On a base whose tokenizer puts one before a text.

    python scripts/bench/begin_token.py --base BASE --tasks DIR --only NAME ... --out eval/begin_token.jsonl
    python scripts/bench/begin_token.py --out eval/begin_token.jsonl --summary

Of each task 12 shots, 8 tuning rows and 40 held-out rows. The base, and a LoRA of the shots, are asked with the begin
token (as rows get it now, and as transformers, training tools and lm-eval give it) and without it (as rows had it
before); each LoRA is asked both ways, since one that was trained elsewhere saw the token. A line for each task and
model holds the loss that rows are judged by (nats over the choices where all have some, else per token), row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, options, read_lines

from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.measuring.prompted_model import PromptedModel
from merge_advisor.advisor.measuring.session import default_cache
from merge_advisor.advisor.measuring.shots_lora import target_parameters
from merge_advisor.backbone.choice_loss import choice_losses
from merge_advisor.backbone.finetune import finetune_lora
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.place import placed
from merge_advisor.machine_options import Machine
from merge_advisor.options import FinetuneSettings
from merge_advisor.tasks.files import read_rows
from merge_advisor.tasks.splits import split
from merge_advisor.templates import get
from merge_advisor.types import Row, Task
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.updates import WeightDelta

SHOTS, TUNING, HELDOUT = 12, 8, 40
MODELS = {
    "base, with": (None, True), "base, without": (None, False), "LoRA with, asked with": (True, True),
    "LoRA with, asked without": (True, False), "LoRA without, asked without": (False, False),
    "LoRA without, asked with": (False, True),
}  # fmt: skip
"""What a LoRA was trained with (None: no LoRA), and what it is asked with."""


class Asked:
    """The base, asked with its begin token and without."""

    def __init__(self, base: str, threads: int) -> None:
        local = resolve_base(base, cache=default_cache())
        self.model = PromptedModel(local, get("alpaca"), Machine(device="cpu", dtype="float32", threads=threads))
        self.lead = self.model.backbone.lead
        if not self.lead:
            raise SystemExit(f"the tokenizer of {base} puts nothing before a text; take a base where it does")

    def led(self, begin: bool) -> None:
        """From now on rows get the begin token, or do not."""
        # a cached property: what it was is kept in the instance, and what stands there is what rows get
        self.model.backbone.__dict__["lead"] = self.lead if begin else ()

    def losses(self, rows: Sequence[Row], delta: WeightDelta) -> list[float]:
        """Of each row, what it is judged by."""
        backbone = self.model.backbone
        with placed(backbone, delta):
            if loss_kind_of(rows) == "choices":
                return choice_losses(backbone, self.model.encode_choices(rows))
            return row_losses(backbone, self.model.encode(rows))

    def lora(self, task: Task) -> WeightDelta:
        """Trained on the shots, stopped by the tuning rows."""
        settings = FinetuneSettings()
        shots, tuning = (self.model.encode(rows, settings.max_length, cut=True) for rows in (task.shots, task.tuning))
        targets = target_parameters(self.model.local, ())
        return finetune_lora(self.model.backbone, shots, targets, settings, seed=0, watch=tuning).delta


def main() -> None:
    """Measure what is missing, print the summary."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="tasks")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.summary:
        done = {line["task"] for line in read_lines(arguments.out)}
        asked = Asked(arguments.base, arguments.threads)
        for name in arguments.only:
            if name not in done:
                for line in measured(asked, arguments.tasks / f"{name}.jsonl"):
                    add_line(arguments.out, line)
    print(summary(read_lines(arguments.out)))


def measured(asked: Asked, path: Path) -> list[dict[str, Any]]:
    """A line for each model of one task."""
    rows = read_rows(path).rows
    task = split(rows, name=path.stem, shots=SHOTS, tuning=TUNING, heldout=HELDOUT)[0]
    loras: dict[bool | None, WeightDelta] = {None: {}}
    for begin in (True, False):
        asked.led(begin)
        loras[begin] = asked.lora(task)
    lines = []
    for name, (trained, begin) in MODELS.items():
        asked.led(begin)
        losses = asked.losses(task.heldout, loras[trained])
        kind = loss_kind_of(task.heldout)
        lines.append({"task": task.name, "model": name, "judged by": kind, "losses": np.round(losses, 4).tolist()})
    return lines


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """A row for each task, a column for each model; and the means."""
    by_task: dict[str, dict[str, float]] = {}
    for line in lines:
        by_task.setdefault(line["task"], {})[line["model"]] = float(np.mean(line["losses"]))
    whole = {task: found for task, found in by_task.items() if len(found) == len(MODELS)}
    text = [f"| task | {' | '.join(MODELS)} |", "|---" * (len(MODELS) + 1) + "|"]
    for task, found in whole.items():
        text.append(f"| {task} | {' | '.join(f'{found[model]:.3f}' for model in MODELS)} |")
    means = (np.mean([found[model] for found in whole.values()]) for model in MODELS)
    return "\n".join([*text, f"| mean | {' | '.join(f'{mean:.3f}' for mean in means)} |"] if whole else text)


if __name__ == "__main__":
    main()
