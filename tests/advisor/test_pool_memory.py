"""What is held of a pool's weights does not grow with the pool."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.adapt.directions import by_weight, spectrum
from merge_advisor.advisor.measuring import pool_weights
from merge_advisor.advisor.measuring.pool_weights import PoolWeights
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.select.evidence import Evidence
from merge_advisor.select.gradient import Gradient
from merge_advisor.types import Candidate, Row
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta

ROWS = [Row(f"say {n}", f"{n}") for n in range(4)]


def factors(delta: WeightDelta) -> dict[str, LowRankUpdate]:
    return {name: update for name, update in delta.items() if isinstance(update, LowRankUpdate)}


@pytest.fixture
def session(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> Iterator[Session]:
    with open_session(str(tiny_llama), tiny_pool, cache=tmp_path) as opened:
        yield opened


def test_only_so_many_bytes_of_adapters_stay_in_memory(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = session.weights
    first = weights.of(session.pool.candidates[0])
    kept = factors(first)
    size = sum(update.a.nbytes + update.b.nbytes for update in kept.values()) + 2**10 * len(first)
    assert weights.of(session.pool.candidates[0]) is first
    monkeypatch.setattr(pool_weights, "KEPT_BYTES", 2 * size)
    last = [weights.of(candidate) for candidate in session.pool.candidates][-1]
    assert list(weights._read) == [candidate.fingerprint for candidate in session.pool.candidates[-2:]]
    assert weights.of(session.pool.candidates[-1]) is last
    again = weights.of(session.pool.candidates[0])
    assert again is not first and all(np.array_equal(factors(again)[name].a, kept[name].a) for name in kept)
    monkeypatch.setattr(pool_weights, "KEPT_BYTES", 1)
    assert weights.of(session.pool.candidates[3]) is weights.of(session.pool.candidates[3])  # the newest always stays


def updates_alive() -> int:
    gc.collect()
    return sum(type(one) is LowRankUpdate for one in gc.get_objects())


def test_gains_read_one_candidate_after_the_other(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = session.meter.gains(session.pool.candidates, ROWS[:2])
    assert np.isfinite(wanted).all() and len(set(wanted.tolist())) == 6
    monkeypatch.setattr(pool_weights, "KEPT_BYTES", 1)
    session.weights._read.clear()
    session.weights._sizes.clear()
    session.meter.memo.context = ("another", *session.meter.memo.context[1:])  # nothing is stored of it
    real, before, alive = PoolWeights.passing, updates_alive(), list[int]()

    def passing(self: PoolWeights, candidate: Candidate) -> WeightDelta:
        delta = real(self, candidate)
        alive.append(updates_alive() - before)
        return delta

    monkeypatch.setattr(PoolWeights, "passing", passing)
    assert session.meter.gains(session.pool.candidates, ROWS[:2]).tolist() == wanted.tolist()
    assert len(alive) == 6 and alive[0] == 4 and max(alive) <= 8  # this one's and the last one's


def test_an_unread_delta_is_what_a_read_one_is(session: Session) -> None:
    read = [dict(session.weights.of(candidate)) for candidate in session.pool.candidates]
    session.weights._read.clear()
    session.weights._sizes.clear()
    unread = [session.weights.unread(candidate) for candidate in session.pool.candidates]
    assert not session.weights._read
    names = sorted(read[0])
    one, other = (spectrum(by_weight(deltas, names), [1.0] * 6) for deltas in (read, unread))
    assert list(one) == list(other) == names
    for name in names:
        assert np.array_equal(one[name].out_shares, other[name].out_shares)


def test_distinct_picks_hold_two_candidates_at_once() -> None:
    rng = np.random.default_rng(0)
    factors = [(rng.normal(size=(2, 5)), rng.normal(size=(4, 2))) for _ in range(12)]
    held: list[weakref.ref[Any]] = []
    most = 0

    class Held(dict[str, LowRankUpdate]):
        pass

    def weights_of(position: int) -> WeightDelta:
        nonlocal most
        a, b = (part.astype(np.float32) for part in factors[position])
        made = Held(w=LowRankUpdate(a, b))
        held.append(weakref.ref(made))
        most = max(most, sum(one() is not None for one in held))
        return made

    evidence = Evidence(
        tuple(f"c{n}" for n in range(12)), np.eye(12), lambda: np.ones(12), weights_of=weights_of,
        gradient_gain=lambda weights, share=1.0: np.linspace(1, 2, 12),
    )  # fmt: skip
    assert len(Gradient(distinct=True).select(evidence, 4).picks) == 4
    assert most <= 3
