"""The score table: what each model reached, and how the merge compares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_advisor.scores import Comparison, ModelScore, Score
from merge_advisor.types import Row

SCORE_HEADERS = ("model", "score", "merge minus it", "95% interval", "won", "lost", "loss")
SCORE_RIGHT = (1, 2, 3, 4, 5, 6)
"""Columns aligned on the right."""
METRIC_TITLES = {"accuracy": "accuracy", "exact_match": "exact match", "loss": "loss (nats per token, less is better)"}
"""The metrics in words."""
LOSSES = ("loss", "choice loss")
"""Metrics in nats: per token of the right answer, or of the right choice among a row's choices."""


def score_rows(score: Score) -> list[list[str]]:
    """Return the cells of the score table under `SCORE_HEADERS`, one row per model, in the score's order.

    Shares are percentages and their differences points; losses are nats per token. A difference is positive where the
    merge is better. Won and lost count the held-out rows.
    """
    comparisons = {found.against: found for found in score.comparisons}
    return [_score_row(model, comparisons.get(model.label), score.metric) for model in score.models]


def _score_row(model: ModelScore, found: Comparison | None, metric: str) -> list[str]:
    reached = model.metrics.get(metric)
    cells = [model.label, "" if reached is None else value_text(reached, metric)]
    if found is None:
        cells += ["", "", "", ""]
    else:
        low, high = (difference_text(value, metric) for value in (found.lower, found.upper))
        cells += [
            difference_text(found.difference, metric),
            f"{low} to {high}",
            str(len(found.won)),
            str(len(found.lost)),
        ]
    loss = model.metrics.get("loss")
    return [*cells, "" if loss is None else f"{loss:.3f}"]


def value_text(value: float, metric: str) -> str:
    """Return a score in words: a percentage, or nats."""
    return f"{value:.3f}" if metric in LOSSES else f"{100 * value:.1f}%"


def difference_text(value: float, metric: str) -> str:
    """Return a difference of scores with its sign: percentage points, or nats."""
    return f"{value:+.3f}" if metric in LOSSES else f"{100 * value:+.1f}"


def hardest_rival(score: Score) -> str | None:
    """Return the label of the model hardest to beat among base, anchor and `shots_lora`; None where none was compared.

    The rows won and lost are told against it.
    """
    rivals = [found for found in score.comparisons if found.against in ("base", "anchor", "shots_lora")]
    return min(rivals, key=lambda found: found.difference).against if rivals else None


def row_changes(score: Score, against: str, rows: Mapping[str, Row]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the held-out rows the merge won against a model and those it lost, in the order of the rows.

    Args:
        score: the score.
        against: label of the model.
        rows: by digest; a row that is not there is told by its digest alone.

    Returns:
        Won and lost; each entry is digest (8 characters), input, wanted output, what the model gave, what the merge
        gave (empty where a metric has no outputs).

    Raises:
        KeyError: the merge was not compared with such a model.
    """
    found = next((found for found in score.comparisons if found.against == against), None)
    if found is None:
        raise KeyError(against)
    places = {digest: place for place, digest in enumerate(score.row_digests)}
    other, merge = score.model(against).outputs, score.model("merge").outputs

    def entry(digest: str) -> list[str]:
        row, place = rows.get(digest), places[digest]
        given = [outputs[place] if outputs else "" for outputs in (other, merge)]
        return [digest[:8], row.input if row else "", row.output if row else "", *given]

    return [entry(digest) for digest in found.won], [entry(digest) for digest in found.lost]


def trade_off(scores: Sequence[Score]) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows of a table of models by tasks, for a merge that serves several.

    The last column tells on which task a model gains least over the base, and how much.
    """
    common = [m.label for m in scores[0].models if all(_measured(score, m.label) for score in scores)]
    rows = []
    for label in common:
        values = [score.model(label).metrics[score.metric] for score in scores]
        gains = [
            (value - score.model("base").metrics[score.metric]) * (-1 if score.metric == "loss" else 1)
            for value, score in zip(values, scores, strict=True)
        ]
        worst = min(range(len(gains)), key=lambda index: (gains[index], index))
        least = f"{difference_text(gains[worst], scores[worst].metric)} ({scores[worst].task})"
        cells = [value_text(value, score.metric) for value, score in zip(values, scores, strict=True)]
        rows.append([label, *cells, "" if label == "base" else least])
    return ["model", *(score.task for score in scores), "least gain over the base"], rows


def _measured(score: Score, label: str) -> bool:
    return any(model.label == label and score.metric in model.metrics for model in score.models)
