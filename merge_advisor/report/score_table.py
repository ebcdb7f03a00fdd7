"""The score table: what each model reached, and how the merge compares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_advisor.report.document import RowChange
from merge_advisor.scores import Comparison, ModelScore, Score
from merge_advisor.types import ICL, SHOTS_LORA, Row

SCORE_HEADERS = ("model", "score", "merge minus it", "95% interval", "won", "lost", "loss")
SCORE_RIGHT = (1, 2, 3, 4, 5, 6)
"""Columns aligned on the right."""
METRIC_TITLES = {"accuracy": "accuracy", "exact_match": "exact match", "loss": "loss (nats per token, less is better)"}
"""The metrics in words."""
_ANSWERS_SHOWN = 4
"""Right answers listed behind the first."""
_LOSSES = ("loss", "choice loss")
"""Metrics in nats: per token of the right answer, or of the right choice among a row's choices."""


def score_rows(score: Score) -> tuple[tuple[str, ...], ...]:
    """Return the cells of the score table under `SCORE_HEADERS`, one row per model, in the score's order.

    Shares are percentages and their differences points; losses are nats per token. A difference is positive where the
    merge is better. Won and lost count the held-out rows.

    Args:
        score: of one task.
    """
    comparisons = {comparison.against: comparison for comparison in score.comparisons}
    return tuple(_score_row(model, comparisons.get(model.label), score.metric) for model in score.models)


def _score_row(model: ModelScore, comparison: Comparison | None, metric: str) -> tuple[str, ...]:
    reached, loss = model.metrics.get(metric), model.metrics.get("loss")
    compared: tuple[str, ...] = ("", "", "", "")
    if comparison is not None:
        low, high = (difference_text(value, metric) for value in (comparison.lower, comparison.upper))
        difference = difference_text(comparison.difference, metric)
        compared = (difference, f"{low} to {high}", str(len(comparison.won)), str(len(comparison.lost)))
    score = "" if reached is None else value_text(reached, metric)
    return (model.label, score, *compared, "" if loss is None else f"{loss:.3f}")


def value_text(value: float, metric: str) -> str:
    """Return a score as text: a percentage, or nats.

    Args:
        value: a share from 0 to 1, or nats.
        metric: its name, e.g. "accuracy" or "loss".

    >>> value_text(0.375, "accuracy"), value_text(1.5, "loss")
    ('37.5%', '1.500')
    """
    return f"{value:.3f}" if metric in _LOSSES else f"{100 * value:.1f}%"


def difference_text(value: float, metric: str) -> str:
    """Return a difference of scores with its sign: percentage points, or nats.

    Args:
        value: a difference of shares, or of nats.
        metric: its name.

    >>> difference_text(0.525, "accuracy"), difference_text(-0.1, "loss")
    ('+52.5', '-0.100')
    """
    return f"{value:+.3f}" if metric in _LOSSES else f"{100 * value:+.1f}"


def hardest_rival(score: Score) -> str | None:
    """Return the label of the model hardest to beat among those a verdict could advise; None where none was compared.

    The rows won and lost are listed against it.

    Args:
        score: of one task.
    """
    # other models (majority, single members, uniform weights) are none that a verdict advises
    advised = ("base", ICL, "anchor", "start", SHOTS_LORA)
    rivals = [comparison for comparison in score.comparisons if comparison.against in advised]
    return min(rivals, key=lambda comparison: comparison.difference).against if rivals else None


def row_changes(
    score: Score, against: str, rows: Mapping[str, Row]
) -> tuple[tuple[RowChange, ...], tuple[RowChange, ...]]:
    """Return the held-out rows the merge won against a model and those it lost, in the order of the rows.

    Args:
        score: of one task.
        against: label of the model.
        rows: by digest; a row that is not there is shown by its digest alone.

    Returns:
        Rows won, rows lost.

    Raises:
        KeyError: the merge was not compared with such a model.
    """
    comparison = next((comparison for comparison in score.comparisons if comparison.against == against), None)
    if comparison is None:
        raise KeyError(against)
    places = {digest: place for place, digest in enumerate(score.row_digests)}
    other, merge = score.model(against).outputs, score.model("merge").outputs

    def change(digest: str) -> RowChange:
        row, place = rows.get(digest), places[digest]
        said, merged = (outputs[place] if outputs else "" for outputs in (other, merge))
        if row is None:
            return RowChange(digest[:8], "", "", said, merged)
        return RowChange(digest[:8], row.input, _wanted(row), said, merged, row.place or "")

    return tuple(map(change, comparison.won)), tuple(map(change, comparison.lost))


def _wanted(row: Row) -> str:
    """The right answer; of several the first, and how many more count."""
    others = row.right[1:]
    shown = ", ".join(others[:_ANSWERS_SHOWN]) + (", …" if len(others) > _ANSWERS_SHOWN else "")
    return f"{row.output} (or: {shown})" if others else row.output


def trade_off(scores: Sequence[Score]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return headers and rows of a table of models by tasks, for a merge that serves several.

    The last column says on which task a model gains least over the base, and how much.

    Args:
        scores: of two or more tasks.
    """
    # a row compares tasks: a model that one of them did not measure has none
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
        rows.append((label, *cells, "" if label == "base" else least))
    return ("model", *(score.task for score in scores), "least gain over the base"), tuple(rows)


def _measured(score: Score, label: str) -> bool:
    return any(model.label == label and score.metric in model.metrics for model in score.models)


def seconds_text(seconds: float, price: float | None) -> str:
    """Return seconds as text, and what they cost where a price is given.

    >>> seconds_text(90, 2.0)
    '90.0 s (0.05)'

    Args:
        seconds: measured.
        price: of an hour; None: they stay seconds.
    """
    return f"{seconds:.1f} s" + ("" if price is None else f" ({seconds / 3600 * price:.2f})")
