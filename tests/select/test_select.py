"""What every registered strategy keeps to, other packages' included: one registry line and it is tested here."""

import pytest

from merge_advisor import registry
from merge_advisor.errors import SpecError
from tests.support.strategy_contract import StrategyContract

VARIANTS = [
    "top_k:centre=true",
    "anchor_random:centre=true",
    "anchor_diverse:objective=facility",
    "anchor_diverse:objective=kdpp",
    "anchor_diverse:objective=mmr,centre=true,diversity=0.6",
    "anchor_diverse:objective=facility,centre=true",
    "anchor_diverse:objective=kdpp,centre=true,least=0",
    "additive:centre=true,least=0",
    "cluster:method=kmeans",
    "cluster:centre=true",
    "weight_kinship:kinship=high",
    "gradient:distinct=true",
    "shot_loss:greedy=true",
    "rerank:first=delta,pool=3",
    "rerank:first=text",
    "best_single:by=shot_loss",
    "best_single:by=gradient",
    "all:centre=true",
]


@pytest.mark.parametrize("spec", [*registry.names("strategy"), *VARIANTS])
class TestRegisteredStrategies(StrategyContract):
    """Every registered strategy, and what its parameters make of it."""


@pytest.mark.parametrize(
    "spec",
    [
        "anchor_diverse:objective=best",
        "anchor_diverse:diversity=0",
        "anchor_diverse:diversity=1",
        "anchor_diverse:least=1",
        "additive:least=-0.1",
        "cluster:method=dbscan",
        "weight_kinship:kinship=none",
        "shot_loss:least=2",
        "rerank:first=luck",
        "rerank:pool=0",
        "rerank:least=nan",
        "best_single:by=luck",
        "top_k:centred=true",
        "random:seed=3",
    ],
)
def test_a_wrong_parameter_is_named(spec: str) -> None:
    with pytest.raises(SpecError, match=f"strategy '{spec}'"):
        registry.build("strategy", spec)
