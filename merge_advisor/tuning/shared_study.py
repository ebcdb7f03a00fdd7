"""A study that several processes search at the same time: each trial under way has its owner, who is seen to live.

A trial under way is RUNNING and carries its owner, a count of heartbeats and what is asked. Where the owner is gone
(`owners`) it is set to FAIL by whoever sees that first, who then measures the same anew. Nothing is locked: a process
that wakes up after it was taken for gone finds its trial failed, and drops what it measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from merge_advisor.errors import RunError
from merge_advisor.json_form import digest_of, to_plain
from merge_advisor.owners import OwnerWatch, this_owner
from merge_advisor.tuning.study import RECORD, Study, StudyPlace, trial_parameters
from merge_advisor.tuning.values import Ask, Point, SearchSpace, Trial

SHARED_BEAT = 15.0
"""Seconds between two heartbeats of a trial."""
SHARED_STALE = 60.0
"""Seconds without a heartbeat after which the owner of a trial is taken for gone."""
_TRIES, _PAUSE = 5, 0.5
"""How often the tables are looked for, and seconds between."""
_OWNER, _COUNT, _ASKED = "owner", "beat", "asked"
"""Names of the attributes of a trial under way."""


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial under way, in this process or another.

    >>> RunningTrial(3, "tpe", Ask(Point((0.5,), "exact"))).label
    'tpe'
    """

    number: int
    """Optuna's."""
    label: str
    """Empty until it is known what is asked."""
    ask: Ask | None


class SharedStudy(Study):
    """The study of one search that other processes search too.

    >>> SharedStudy.__mro__[1].__name__
    'Study'

    Args:
        place: where it is.
        made_for: all that the search depends on, in words or digests.
        space: gives the parameters their ranges.
        members: (k,) ids, for the names of the weights.
        values: how many values a trial has.

    Raises:
        RunError: it was made for something else, is damaged, or cannot be written; or it is to begin anew while others
            search it.
    """

    def __init__(
        self, place: StudyPlace, made_for: Mapping[str, str], space: SearchSpace, members: Sequence[str], values: int
    ) -> None:
        self._watch = OwnerWatch(SHARED_STALE)
        self._taken: list[RunningTrial] = []
        """Taken over while it was opened."""
        super().__init__(place, made_for, space, members, values)

    def look(self) -> tuple[list[Trial], list[RunningTrial], list[RunningTrial]]:
        """Return the finished trials by Optuna's number, those under way, and those taken over from who is gone.

        Raises:
            RunError: the study cannot be read, or was altered.
        """
        from optuna.trial import TrialState

        finished: list[Trial] = []
        under_way: list[RunningTrial] = []
        left, self._taken = self._taken, []
        with self._one_line_errors():
            kept = sorted(self._storage.get_all_trials(self._id, deepcopy=False), key=lambda one: one.number)
            for one in kept:
                if one.state in (TrialState.COMPLETE, TrialState.PRUNED):
                    # numbered anew: one of a smaller number may finish later
                    finished.append(
                        replace(self._read_any(one.user_attrs.get(RECORD), one.number), number=len(finished))
                    )
                elif not one.state.is_finished():
                    owner, beat = str(one.user_attrs.get(_OWNER)), int(one.user_attrs.get(_COUNT, 0))
                    running = _running(one)
                    if not self._watch.is_gone(one.number, owner, beat):
                        under_way.append(running)
                    elif self._fail(one._trial_id):
                        left.append(running)
        return finished, under_way, left

    @contextmanager
    def begun(self) -> Iterator[int]:
        """Begin a trial; a block that ends without `finish` leaves it failed.

        Yields:
            Optuna's number of it.
        """
        import optuna

        claim = {_OWNER: this_owner(), _COUNT: 0}
        running = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=claim)
        with self._one_line_errors():
            trial = self._trial = self._write("create_new_trial", self._id, running)
            number = int(self._storage.get_trial(trial).number)
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(trial, over), name="trial-heartbeat", daemon=True)
        beating.start()
        try:
            yield number
        finally:
            over.set()
            beating.join()
            if self._trial is not None:
                self._trial = None
                self._fail(trial)

    def rank(self, number: int) -> int:
        """Return how many trials that are finished or under way have a smaller number.

        Args:
            number: Optuna's.

        Raises:
            RunError: the study cannot be read.
        """
        from optuna.trial import TrialState

        with self._one_line_errors():
            trials = self._storage.get_all_trials(self._id, deepcopy=False)
        return sum(one.number < number and one.state != TrialState.FAIL for one in trials)

    def note_ask(self, label: str, ask: Ask) -> None:
        """Write what the trial begun asks: who takes it over measures the same.

        Args:
            label: of the trial.
            ask: what is asked.

        Raises:
            RunError: the study cannot be written, or the trial was taken over.
        """
        params, ranges = trial_parameters(ask.point, self._space, self._members)
        with self._one_line_errors():
            self._write("set_trial_user_attr", self._trial, _ASKED, {"label": label, **to_plain(ask)})
            for name, value in params.items():
                self._write("set_trial_param", self._trial, name, ranges[name].to_internal_repr(value), ranges[name])

    def finish(self, trial: Trial) -> None:
        """Record the trial begun, unless it was taken over from this process meanwhile.

        Args:
            trial: what was measured.

        Raises:
            RunError: the study cannot be written.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        record = to_plain(trial)
        with self._one_line_errors(), suppress(UpdateFinishedTrialError):
            self._write("set_trial_user_attr", self._trial, RECORD, record | {"digest": digest_of(record)})
            state = TrialState.COMPLETE if trial.whole else TrialState.PRUNED
            self._write("set_trial_state_values", self._trial, state, trial.values)
        self._trial = None

    def _open(self, values: int) -> None:
        """Open the storage, find or make the study; nothing is locked."""
        self._open_tables()
        fresh = self._find(values)
        if self._place.force and not fresh:
            if self.look()[1]:
                raise RunError(f"{self._where}: others search it now; wait for them, or stop them, then `force=True`")
            self._write("delete_study", self._id)
            self._find(values)

    def _open_tables(self) -> None:
        """Open the storage; of processes that make its tables at the same time all but one fail, and find them then."""
        from sqlalchemy.exc import DBAPIError

        for attempt in range(_TRIES):
            try:
                self._open_storage()
            except DBAPIError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_PAUSE)
            else:
                return

    def _recover(self) -> tuple[Trial, ...]:
        """Read the finished trials; those under way are other processes'."""
        self._digests = True
        finished, _, self._taken = self.look()
        return tuple(finished)

    def _read_any(self, record: Any, place: int) -> Trial:
        """The trial of a record, whatever its number."""
        known = record if isinstance(record, dict) else {}
        number = known.get("number", -1)
        return self._read(record, number, place)

    def _fail(self, trial: int) -> bool:
        """Set a trial to FAIL; False where another process was faster, or it has finished."""
        import optuna

        with suppress(optuna.exceptions.UpdateFinishedTrialError, RunError), self._one_line_errors():
            return bool(self._write("set_trial_state_values", trial, optuna.trial.TrialState.FAIL))
        return False

    def _beat(self, trial: int, over: threading.Event) -> None:
        count = 0
        while not over.wait(SHARED_BEAT):
            count += 1
            # out of reach for a moment, or taken over: what is measured next finds a lasting failure
            with suppress(Exception):
                self._storage.set_trial_user_attr(trial, _COUNT, count)


def _running(kept: Any) -> RunningTrial:
    """What a RUNNING trial of Optuna asks."""
    try:
        asked = dict(kept.user_attrs[_ASKED])
        point = asked["point"]
        weights, layers = (tuple(float(number) for number in point[name]) for name in ("weights", "layers"))
        gradient = tuple(int(row) for row in asked["gradient"])
        ask = Ask(Point(weights, str(point["composition"]), layers), gradient, dict(asked["notes"]))
        return RunningTrial(kept.number, str(asked["label"]), ask)
    except (KeyError, TypeError, ValueError):  # it was not known yet
        return RunningTrial(kept.number, "", None)
