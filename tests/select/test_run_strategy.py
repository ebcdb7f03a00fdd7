"""A strategy is held to what it says it used."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from merge_advisor import registry
from merge_advisor.errors import SpecError
from merge_advisor.select import Choice, Evidence, Pick, Resource
from merge_advisor.select.run_strategy import run_strategy
from tests.support.select_world import random_world, seeded


@dataclass(frozen=True)
class Secretive:
    """Use what it is given, and state what it is given."""

    calls_task_delta: bool = False
    draws: bool = False
    states: str = ""
    seen: list[int] = field(default_factory=list, init=False)

    def select(self, evidence: Evidence, k: int) -> Choice:
        if self.calls_task_delta:
            evidence.task_delta()
        if self.draws:
            evidence.rng.random()
        self.seen.append(k)
        stated: dict[str, frozenset[Resource]] = {"task_delta": frozenset({"task_delta"}), "rng": frozenset({"rng"})}
        return Choice((Pick(0),), "first", used=stated.get(self.states, frozenset()))


@pytest.fixture(autouse=True)
def secretive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda kind, name: Secretive)


def test_a_task_delta_used_and_not_stated_is_an_error() -> None:
    with pytest.raises(
        SpecError, match="'secretive:calls_task_delta=true' used the task delta and does not say so: add"
    ):
        run_strategy("secretive:calls_task_delta=true", random_world(), 1)
    choice = run_strategy("secretive:calls_task_delta=true,states=task_delta", random_world(), 1)
    assert choice.used == {"task_delta"}


def test_chance_used_and_not_stated_is_an_error() -> None:
    with pytest.raises(SpecError, match="'secretive:draws=true' drew from rng and does not say so: add"):
        run_strategy("secretive:draws=true", random_world(), 1)
    assert run_strategy("secretive:draws=true,states=rng", random_world(), 1).used == {"rng"}


def test_what_is_not_used_is_not_computed() -> None:
    def task_delta() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        raise AssertionError("a finetune")

    assert run_strategy("secretive", seeded(random_world(), task_delta=task_delta), 1).used == frozenset()


def test_k_is_cut_to_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = Secretive()
    monkeypatch.setattr(registry, "build", lambda kind, spec: strategy)
    run_strategy("secretive", random_world(5), 9)
    assert strategy.seen == [5]
