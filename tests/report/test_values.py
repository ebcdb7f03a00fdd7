"""The values of a report go through JSON."""

import json

from merge_advisor.json_form import from_json, to_json
from merge_advisor.report.values import Side, SimilarityMap, TuningReport
from tests.support.report_world import a_map, tuning


def test_values_go_through_json() -> None:
    told, found = tuning([(0.5, None), (0.25, 0.75)]), a_map(3)
    assert from_json(TuningReport, to_json(told), "tuning.json") == told
    assert from_json(SimilarityMap, to_json(found), "map.json") == found
    assert json.loads(to_json(found))["task"] == [0.1, 0.2]


def test_a_gain_is_positive_where_the_winner_is_better_whatever_the_metric() -> None:
    for metric, better, worse in (
        ("loss", 1.0, 2.0), ("choice loss", 0.4, 0.6), ("errors a row", 0.1, 0.3), ("accuracy", 0.9, 0.7),
    ):  # fmt: skip
        gain = Side("task", "tuning", metric, 8, reference=worse, winner=better).gain
        assert gain is not None and gain > 0
