"""Strategies: which candidates to merge. One file each, numpy on an `Evidence`; torch is not needed.

A strategy is a frozen dataclass, registered under its name (see `registry`). Its fields are its parameters and have
defaults. It has class attributes and one method:

    name: ClassVar[str]      the registered name
    centres: ClassVar[str]   whether it subtracts the pool's mean delta before comparing: "no", "yes", or "option"
                             where it has a parameter `centre`
    cost: ClassVar[str]      what choosing costs, in words, e.g. "n forward passes over the choosing rows"
    stops: ClassVar[str]     when it takes fewer than k, in words, e.g. "at a similarity of 0"; "" where it never does
    def select(self, evidence: Evidence, k: int) -> Choice

`select` keeps to this, for every evidence and every k from 1 to the number of candidates:

- It picks 1 to k different candidates, the anchor first. Only `all` takes more.
- A demanded anchor (`evidence.anchor`) is the first pick even where nothing speaks for it, and its weight is positive
  where the strategy sets weights (`Choice.direction`).
- It stops before k where another partner adds nothing, and says so in `Choice.stopped`, unless `stops` is "".
- Equal candidates tie to the smaller position, so that a choice does not depend on the machine.
- The same evidence and seed give the same choice. Chance comes from `evidence.rng` alone; nothing given is changed.
- `Choice.used` names "task_delta" if it called `evidence.task_delta`, and "rng" if it drew from `evidence.rng`. The
  finetune is charged by it; `run_strategy` refuses a strategy that leaves one out.
- Zero deltas, deltas of any length, and losses or gains that are NaN or infinite give a valid choice without a warning:
  gains are finite or None.

`tests/support/strategy_contract.py` tests all of it on every registered strategy. The helpers of `similarity` and
`ranking` keep most of it; `top_k` is the shortest strategy that uses them, and CONTRIBUTING.md adds one step by step.

>>> import numpy as np
>>> from merge_advisor.select.top_k import TopK
>>> evidence = Evidence(("a", "b", "c"), np.array([[1, 0], [0, 1], [1, 1]]), lambda: np.array([3, 1]))
>>> choice = TopK().select(evidence, 2)
>>> [evidence.ids[pick.position] for pick in choice.picks], choice.stopped, sorted(choice.used)
(['a', 'c'], 'k reached', ['task_delta'])
"""

from __future__ import annotations

from merge_advisor.select.evidence import Choice, Evidence, Pick, Resource, Strategy

__all__ = ["Choice", "Evidence", "Pick", "Resource", "Strategy"]
