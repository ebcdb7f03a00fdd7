"""A workbench for adaptations whose models are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from merge_advisor.adapt.values import Trained, TrainingRecord, TrainingRequest
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.json_form import digest_of
from merge_advisor.merges import WeightedMerge
from merge_advisor.types import RESIDUAL, Candidate, Row
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta

ROWS = tuple(Row(f"say {number}", f"{number}") for number in range(8))


class World:
    """Models are points on a line: the sum of their updates; a row's loss is its square distance from `wanted`.

    `least` is what a row loses under any model: where it is small, so is the noise that rows are taken to have.
    """

    def __init__(self, *, wanted: float, learned: float, merge: float, members: int = 1, least: float = 0.0) -> None:
        self.wanted, self.learned, self.least = wanted, learned, least
        self.values: dict[str, float] = {}
        self.requests: list[TrainingRequest] = []
        self.shown = 9.0  # loss with examples in the prompt
        pool = [self.candidate(f"m{place}", merge / members) for place in range(members)]
        chosen = WeightedMerge(tuple((candidate, 1.0) for candidate in pool))
        self.bench = Workbench(
            tasks=(ROWS,), tuning=frozenset(row.digest for row in ROWS[5:]), merge=chosen, candidates=tuple(pool),
            targets=("w",), run_training=self.train, run_losses=self.losses, weights_of=self.delta, keep=self.keep,
            run_prompted=lambda shown, asked, merge: [self.shown] * len(asked),
            run_choice=lambda rows: (self.bench.merge, 0),
        )  # fmt: skip

    def with_rows(self, count: int) -> World:
        """Have it learn from so many rows; none of them is set apart for tuning."""
        self.bench.tasks = (tuple(Row(f"say {number}", f"{number}") for number in range(count)),)
        self.bench.tuning = frozenset()
        return self

    def candidate(self, name: str, value: float) -> Candidate:
        fingerprint = digest_of([name, value])
        self.values[fingerprint] = value
        return Candidate(name, "adapter", "nowhere", fingerprint)

    def place(self, merge: WeightedMerge) -> float:
        return sum(weight * self.values[candidate.fingerprint] for candidate, weight in merge.members)

    def choosing_halves(self) -> list[tuple[Row, ...]]:
        """Have each part of the rows choose a member of its own, at 0.2, 0.4 and so on; the parts are listed."""
        asked: list[tuple[Row, ...]] = []

        def choose(rows: Sequence[Row]) -> tuple[WeightedMerge, int]:
            asked.append(tuple(rows))
            return WeightedMerge(((self.candidate(f"half {len(asked)}", 0.2 * len(asked)), 1.0),)), 100

        self.bench.run_choice = choose
        return asked

    def losses(self, merge: WeightedMerge, rows: Sequence[Row]) -> list[float]:
        return [self.least + (self.place(merge) - self.wanted) ** 2 for _ in rows]

    def train(self, request: TrainingRequest) -> Trained:
        """Go towards `wanted` by `learned` of the way."""
        assert not {row.digest for row in request.rows} & {row.digest for row in request.watch}
        self.requests.append(request)
        begun = self.place(request.start)
        step = self.learned * (self.wanted - begun)
        candidate = self.candidate(RESIDUAL, round(step, 9))
        counted = request.settings.steps  # a finetune of so many steps watches no rows
        rows = () if counted else tuple(self.least + (begun + step - self.wanted) ** 2 for _ in request.watch)
        return Trained(candidate, TrainingRecord(counted or 4, 4, (rows[0],) if rows else (), rows, 10, 60))

    def delta(self, candidate: Candidate) -> WeightDelta:
        value = np.array([[self.values[candidate.fingerprint]]], np.float32)
        return {"w": LowRankUpdate(np.ones((1, 1), np.float32), value)}

    def keep(self, delta: WeightDelta, name: str) -> Candidate:
        return self.candidate(name, round(float(delta["w"].dense()[0, 0]), 6))
