"""What a test knows of the kind of an update."""

from merge_advisor.weights.updates import LowRankUpdate, WeightDelta


def low_rank(delta: WeightDelta, name: str) -> LowRankUpdate:
    """The update of a parameter; the test fails where it is no low-rank one."""
    update = delta[name]
    assert isinstance(update, LowRankUpdate), f"{name} is {type(update).__name__}"
    return update
