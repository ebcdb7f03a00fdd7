"""Tasks some of whose rows have choices: each row is judged, and its gradient taken, by its own kind of loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.adapt.task_weights import row_weights
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.measuring import adapting
from merge_advisor.advisor.measuring.adapting import AdaptationRequest, adapt_merge
from merge_advisor.advisor.measuring.in_context import prompted_losses
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.planning.dry_run import describe_plan
from merge_advisor.errors import TaskError
from merge_advisor.merges import WeightedMerge
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import LossKind, Row, Task
from tests.support.task_files import write_task

CHOOSING = tuple(Row(f"pick {number}", ("yes", "no")[number % 2], ("yes", "no")) for number in range(23))
FREE = Row("say 1 twice", "1 1")
MIXED = Task("mixed", (*CHOOSING[20:], FREE), CHOOSING[:20], ())
"""One row that does not choose has no choices."""
TARGETS = ("model.layers.0.self_attn.q_proj.weight",)


@pytest.fixture
def session(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> Session:
    return open_session(str(tiny_llama), tiny_pool, template="plain", cache=tmp_path)


def request_of(session: Session, spec: str, *tasks: Task) -> AdaptationRequest:
    pool = session.pool.candidates
    merge = WeightedMerge(((pool[0], 0.5),))
    return AdaptationRequest(spec, tasks, TARGETS, merge, pool, settings=FinetuneSettings(rank=2, epochs=1))


def test_rows_with_examples_in_the_prompt_are_judged_by_their_own_kind(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[LossKind, bool]] = []
    real = prompted_losses

    def prompted(meter: Any, shown: Sequence[Row], rows: Sequence[Row], kind: LossKind, merge: Any) -> list[float]:
        asked.extend((kind, bool(row.choices)) for row in rows)
        return real(meter, shown, rows, kind, merge)

    monkeypatch.setattr(adapting, "prompted_losses", prompted)
    with session:
        for task in (MIXED, Task("mixed", (FREE, *MIXED.shots[:-1]), MIXED.tuning, ())):  # it leads a fold, or does not
            found = adapt_merge(session.meter, session.cache, request_of(session, "prompt:folds=2", task)).model
            assert np.isfinite(found.losses).all() and len(found.losses) == 24
            assert sorted(asked) == [("choices", True)] * 23 + [("loss", False)]
            asked.clear()


def test_a_gradient_is_that_of_each_row_by_its_own_kind_and_task(session: Session) -> None:
    plain = Task("plain", tuple(Row(f"say {number}", f"{number} {number}") for number in range(4)), (), ())
    with session:
        meter, start = session.meter, WeightedMerge(((session.pool.candidates[0], 0.5),))
        kinds = adapting.kinds_of([MIXED, plain], "auto")
        rows = (*MIXED.shots, *plain.shots)
        weights = row_weights([MIXED.shots, plain.shots], rows)
        found = adapting._mean_gradient(
            rows, weights, kinds, lambda part, kind: meter.gradient(part, TARGETS, start, kind)
        )
        by_choices = meter.gradient(MIXED.shots[:-1], TARGETS, start, "choices")[TARGETS[0]]
        of_one, of_others = (meter.gradient(rows, TARGETS, start)[TARGETS[0]] for rows in ((FREE,), plain.shots))
        wanted = (3 / 4 * by_choices + 1 / 4 * of_one + of_others) / 2
        np.testing.assert_allclose(found[TARGETS[0]], wanted, rtol=1e-3, atol=1e-6)
        made = adapt_merge(meter, session.cache, request_of(session, "coefficients:folds=2", MIXED, plain)).model
        assert len(made.losses) == 28


def test_several_tasks_are_refused_at_once_for_a_prompt(tmp_path: Path) -> None:
    files = [write_task(tmp_path / f"{name}.jsonl") for name in ("one", "two")]
    files[1].write_text(files[1].read_text().replace("even", "odd"))
    with pytest.raises(TaskError, match="one prompt cannot show the examples of 2 tasks"):
        describe_plan(files, pool=tmp_path / "none", base="none", options=PlanOptions(adaptation="prompt"))
