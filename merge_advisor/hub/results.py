"""Results in a hub folder: what its models reached on tasks, and the runs that were planned from it with their cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

from merge_advisor.hub.values import HubJudged, HubRun, HubSavings, HubScore
from merge_advisor.json_form import to_plain
from merge_advisor.report.score_table import seconds_text
from merge_advisor.scores import RunCost

if TYPE_CHECKING:
    from merge_advisor.hub.catalogue import Catalogue


class HubResults:
    """The scores and runs of a catalogue.

    >>> from pathlib import Path
    >>> from merge_advisor.hub.catalogue import Catalogue
    >>> with Catalogue(Path("empty-hub")) as catalogue:
    ...     HubResults(catalogue).runs()
    ()

    Args:
        catalogue: open.

    Raises:
        RunError: of every method, that the catalogue cannot be read or written.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._file = catalogue.file

    def keep_score(self, entry: int, score: HubScore, added: str) -> None:
        """Keep a score; one of the same task, rows, metric and evaluator is replaced.

        Args:
            entry: number of the entry.
            score: what it reached.
            added: when.
        """
        self._file.keep(
            "scores", entry, score.task, score.task_digest, score.metric, score.evaluator, score.value, score.lower,
            score.upper, score.rows, added,
        )  # fmt: skip

    def scores(self, entry: int) -> tuple[HubScore, ...]:
        """Return the scores of an entry, by task.

        Args:
            entry: its number.
        """
        return tuple(score for _, score in self.scored(entry=entry))

    def scored(self, task: str | None = None, entry: int | None = None) -> list[tuple[int, HubScore]]:
        """Return scores, each with the number of its entry.

        Args:
            task: name of the task; None: all.
            entry: number of the entry; None: all.
        """
        rows = self._file.sound_rows(
            "scores", "WHERE (? IS NULL OR task = ?) AND (? IS NULL OR entry = ?) ORDER BY task, metric, entry",
            [task, task, entry, entry],
        )  # fmt: skip
        return [
            (int(number), HubScore(name, metric, value, lower, upper, count, evaluator, digest))
            for number, name, digest, metric, evaluator, value, lower, upper, count, _ in rows
        ]

    def keep_run(self, run: HubRun) -> None:
        """Keep a run that was planned from the hub; one of the same folder is replaced.

        Args:
            run: the run.
        """
        self._file.keep("runs", run.folder, run.added, json.dumps(run.tasks), run.verdict)
        if run.cost is None:
            self._file.run("DELETE FROM costs WHERE folder = ?", [run.folder])
        else:
            self._file.keep("costs", run.folder, json.dumps(to_plain(run.cost), sort_keys=True))

    def runs(self) -> tuple[HubRun, ...]:
        """Return the runs that were planned from the hub, the newest first."""
        costs = dict(self._file.sound_rows("costs"))
        rows = self._file.sound_rows("runs", "ORDER BY added DESC, folder")
        return tuple(
            HubRun(folder, added, tuple(json.loads(tasks)), verdict, _cost(costs.get(folder)))
            for folder, added, tasks, verdict in rows
        )

    def keep_judged(self, name: str, judged: HubJudged) -> None:
        """Keep a gate, or a decision on a watched pool, unless it is there.

        Args:
            name: its identity: one of the same name is listed already.
            judged: what was decided.
        """
        if self._file.rows("SELECT 1 FROM judged WHERE id = ?", [name]):
            return
        cost = None if judged.cost is None else json.dumps(to_plain(judged.cost), sort_keys=True)
        self._file.keep(
            "judged", name, judged.kind, judged.model, judged.against, json.dumps(judged.tasks), judged.outcome,
            judged.added, cost,
        )  # fmt: skip

    def judged_ids(self) -> frozenset[str]:
        """Return the identities of those, as `keep_judged` takes them."""
        return frozenset(str(row[0]) for row in self._file.rows("SELECT id FROM judged"))

    def judged(self) -> tuple[HubJudged, ...]:
        """Return the gates, and the decisions on watched pools, the newest first."""
        rows = self._file.sound_rows("judged", "ORDER BY number DESC")
        return tuple(
            HubJudged(kind, model, against, tuple(json.loads(tasks)), outcome, added, _cost(cost))
            for _, kind, model, against, tasks, outcome, added, cost in rows
        )


def _cost(text: str | None) -> RunCost | None:
    if text is None:
        return None
    known = {item.name for item in fields(RunCost)}
    return RunCost(**{name: value for name, value in json.loads(text).items() if name in known})


def savings_of(runs: Iterable[HubRun], judged: Iterable[HubJudged] = ()) -> HubSavings:
    """Return what runs and gates took together, and what their alternatives would have: recorded figures alone.

    >>> one = HubRun("a", "", ("sums",), "merge", RunCost(10, 2.0, every_candidate_seconds=30.0))
    >>> savings_of([one, HubRun("b", "", ("sums",), "")]).without_figures
    1

    Args:
        runs: of a hub.
        judged: gates and decisions on watched pools.
    """
    runs = tuple(runs)
    gates = [one.cost for one in judged if one.cost is not None]
    known = [cost for cost in gates if cost.every_candidate_seconds is not None]
    costs = [run.cost for run in runs if run.cost is not None]
    scored = [cost for cost in costs if cost.every_candidate_seconds is not None]
    trained = [cost for cost in costs if cost.shots_forwards is not None]
    return HubSavings(
        runs=len(runs), without_figures=len(runs) - len(costs),
        forwards=sum(cost.forwards for cost in costs), seconds=round(sum(cost.seconds for cost in costs), 3),
        peak_bytes=max((cost.peak_bytes for cost in (*costs, *gates) if cost.peak_bytes is not None), default=None),
        scored=len(scored), scored_seconds=round(sum(cost.seconds for cost in scored), 3),
        every_candidate_seconds=round(sum(cost.every_candidate_seconds or 0.0 for cost in scored), 3),
        trained=len(trained), shots_forwards=sum(cost.shots_forwards or 0 for cost in trained),
        shots_seconds=round(sum(cost.shots_seconds or 0.0 for cost in trained), 3),
        every_candidate_forwards=sum(cost.every_candidate_forwards or 0 for cost in scored),
        judged=len(gates), judged_forwards=sum(cost.forwards for cost in gates),
        judged_seconds=round(sum(cost.seconds for cost in gates), 3), judged_known=len(known),
        judged_known_seconds=round(sum(cost.seconds for cost in known), 3),
        judged_every_seconds=round(sum(cost.every_candidate_seconds or 0.0 for cost in known), 3),
        judged_every_forwards=sum(cost.every_candidate_forwards or 0 for cost in known),
    )  # fmt: skip


def savings_lines(savings: HubSavings, price: float | None = None) -> list[str]:
    """Return what runs and gates of a hub took and what their alternatives would have, in lines.

    >>> savings_lines(HubSavings(runs=1, without_figures=1))
    ['1 run, none of which recorded what it took']

    Args:
        savings: the sums.
        price: of an hour of this machine; None: they stay seconds.
    """
    known = savings.runs - savings.without_figures
    runs = f"{savings.runs} run{'' if savings.runs == 1 else 's'}"
    if not known:
        none = f"{runs}, none of which recorded what it took" if savings.runs else "no runs planned from it yet"
        return [none, *_judged_lines(savings, price)]
    counted = f"{known} run{'' if known == 1 else 's'}"
    if savings.without_figures:
        counted += f" ({savings.without_figures} more recorded nothing, and are in no sum)"
    peak = "" if savings.peak_bytes is None else f"; {savings.peak_bytes / 2**30:.1f} GiB at most"
    took = f"{savings.forwards} forward passes and {seconds_text(savings.seconds, price)}"
    lines = [f"{counted}: {took}{peak}"]
    if savings.scored:
        lines.append(
            "instead: scoring every candidate, those that a shortlist left out too, on the rows of "
            f"{_of(savings.scored, known)}: {_forwards(savings.every_candidate_forwards)}"
            f"{seconds_text(savings.every_candidate_seconds, price)}, where planning and scoring took "
            f"{seconds_text(savings.scored_seconds, price)}"
        )
    if savings.trained:
        lines.append(
            f"instead: training the LoRA of the shots alone in {_of(savings.trained, known)}: "
            f"{savings.shots_forwards} forward passes, {seconds_text(savings.shots_seconds, price)} as measured there"
        )
    return lines + _judged_lines(savings, price)


def _judged_lines(savings: HubSavings, price: float | None) -> list[str]:
    if not savings.judged:
        return []
    one = savings.judged == 1
    took = f"{savings.judged_forwards} forward passes and {seconds_text(savings.judged_seconds, price)}"
    lines = [f"{savings.judged} gate{'' if one else 's'}, models judged for watched pools among them: {took}"]
    if savings.judged_known:
        every = {1: "it", 2: "both"}.get(savings.judged, f"all {savings.judged}")
        of = every if savings.judged_known == savings.judged else f"the {savings.judged_known} of them that measured it"
        lines.append(
            f"instead: scoring every candidate on the rows of {of}: {_forwards(savings.judged_every_forwards)}"
            f"{seconds_text(savings.judged_every_seconds, price)}, where they took "
            f"{seconds_text(savings.judged_known_seconds, price)}"
        )
    return lines


def _forwards(number: int) -> str:
    """Forward passes, where all who are summed recorded them: runs of before did not."""
    return f"{number} forward passes, " if number else ""


def _of(some: int, known: int) -> str:
    every = {1: "the run", 2: "both runs"}.get(known, f"all {known} runs")
    return every if some == known else f"the {some} of {known} runs that measured it"
