"""The study: every trial in an Optuna storage, to go on from where a search was killed, and for optuna-dashboard.

A trial is RUNNING while it is measured, then COMPLETE, or PRUNED where racing stopped it. What a killed search left
RUNNING is set to FAIL when the study is next opened, and asked for again. The attribute "trial" of a finished one is
what the history is read back from, to the last bit; parameters and values beside it are for people to look at.

The calls are those of `optuna.storages.BaseStorage`, which `study.ask` and `study.tell` are made of: these two read
every trial back several times, which more than doubles the cost of recording one (scripts/bench/study_writes.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from merge_advisor.errors import RunError
from merge_advisor.json_form import digest_of, to_plain
from merge_advisor.tuning.density import split_density, without_density
from merge_advisor.tuning.lock import HolderLock, StudyHeartbeat
from merge_advisor.tuning.storages import open_storage, shown_storage, storage_file, without_password
from merge_advisor.tuning.values import Point, SearchSpace, Trial
from merge_advisor.write_points import write_point

RECORD, _MADE_FOR, _COORDINATOR, _DIGEST = "trial", "made_for", "coordinator", "digest"
"""Names of the attributes: of a trial, and of the study; the last is of a trial's record, and says of a study that its
records have one."""
STUDY_FORMAT = "2"
"""Version of what is kept of a trial: 2 since the rows of a gradient are kept with it."""


@dataclass(frozen=True, slots=True)
class StudyPlace:
    """Where the trials of a search are kept, and what the search must have been made for.

    >>> StudyPlace(Path("study.sqlite"), {"plan": "a1b2"}).name
    'tune'
    """

    storage: Path | str
    """An SQLite file, or the URL of an Optuna storage."""
    made_for: Mapping[str, str]
    """What the problem depends on, in words or digests: "task rows", "pool", …; a study of anything else is refused."""
    name: str = "tune"
    """Name of the study; a storage shared by several runs needs one for each."""
    force: bool = False
    """Begin anew, deleting the study of that name."""
    timeout: float = 5.0
    """Seconds to wait for a locked SQLite file, up to five times."""
    share: bool = False
    """Whether other processes may search it at the same time (`shared_study.SharedStudy`)."""


class Study:
    """The study of one search, held by this process until `close`.

    >>> point = Point((0.5, 0.5), "exact")
    >>> place = StudyPlace(Path("example.sqlite"), {})
    >>> with Study(place, {}, SearchSpace(point), ("math", "law"), values=1) as study, study.trial(point):
    ...     study.finish(Trial(0, "plan", point, (1.0, 2.0), (1.5,), whole=True, forwards=2))
    >>> with Study(place, {}, SearchSpace(point), ("math", "law"), values=1) as study:
    ...     study.history[0].losses
    (1.0, 2.0)

    Args:
        place: where it is.
        made_for: all that the search depends on, in words or digests.
        space: gives the parameters their ranges.
        members: (k,) ids, for the names of the weights.
        values: how many values a trial has.

    Raises:
        RunError: another process holds it, it was made for something else, it is damaged, or it cannot be written.
    """

    history: tuple[Trial, ...]
    """The trials finished before this session, by number."""

    def __init__(
        self, place: StudyPlace, made_for: Mapping[str, str], space: SearchSpace, members: Sequence[str], values: int
    ) -> None:
        self._place, self._space, self._members = place, space, tuple(members)
        self._where = shown_storage(place.storage)
        self._lock: HolderLock | StudyHeartbeat | None = None
        self._storage: Any = None
        self._trial: int | None = None
        try:
            with self._one_line_errors():
                self._open(values)
                self._check(dict(made_for))
                self.history = self._recover()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def trial(self, point: Point) -> Iterator[None]:
        """Record that a point is being measured; a block that ends without `finish` leaves the trial failed.

        Args:
            point: what is measured.

        Yields:
            Nothing; the trial is RUNNING in the meantime.
        """
        import optuna

        params, ranges = trial_parameters(point, self._space, self._members)
        running = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, params=params, distributions=ranges)
        with self._one_line_errors():
            self._trial = self._write("create_new_trial", self._id, running)
        try:
            yield
        finally:
            left, self._trial = self._trial, None
            if left is not None:
                with suppress(RunError), self._one_line_errors():  # the first error is the one to report
                    self._write("set_trial_state_values", left, optuna.trial.TrialState.FAIL)

    def report(self, rows: int, value: float) -> None:
        """Record an intermediate value of the running trial.

        Args:
            rows: how many it has seen.
            value: as estimated from them.

        Raises:
            RunError: the study cannot be written.
        """
        with self._one_line_errors():
            self._write("set_trial_intermediate_value", self._trial, rows, value)

    def finish(self, trial: Trial) -> None:
        """Record the running trial; it is finished once this returns, and not before.

        Args:
            trial: what was measured.

        Raises:
            RunError: the study cannot be written, or another coordinator took it over.
        """
        from optuna.trial import TrialState

        with self._one_line_errors():
            self._held().check()
            # the record first: a process killed between the two leaves a RUNNING trial, which is asked for again
            record = to_plain(trial)
            self._write("set_trial_user_attr", self._trial, RECORD, record | {_DIGEST: digest_of(record)})
            state = TrialState.COMPLETE if trial.whole else TrialState.PRUNED
            self._write("set_trial_state_values", self._trial, state, trial.values)
        self._trial = None

    def close(self) -> None:
        """Let go of the study; another process may open it then."""
        lock, self._lock = self._lock, None
        try:
            if lock is not None:
                with self._one_line_errors():
                    lock.release()
        finally:
            if self._storage is not None:
                self._storage.remove_session()
                self._storage.engine.dispose()
                self._storage = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, call: str, *values: Any) -> Any:
        """Call the storage with what changes it."""
        write_point("study to be written", call)
        done = getattr(self._storage, call)(*values)
        write_point("study written", call)
        return done

    def _held(self) -> HolderLock | StudyHeartbeat:
        if self._lock is None:
            raise ValueError("the study is closed")
        return self._lock

    def _open(self, values: int) -> None:
        """Take the lock, open the storage, find or make the study."""
        file = storage_file(self._place.storage)
        if file is not None:
            self._lock = HolderLock(file.with_name(f"{file.name}.lock"))
        self._open_storage()
        fresh = self._find(values)
        if self._lock is None:
            where = f"{self._where}: study '{self._place.name}'"
            self._lock = StudyHeartbeat(where, lambda: self._attributes().get(_COORDINATOR), self._set_claim)
        if self._place.force and not fresh:
            self._write("delete_study", self._id)
            self._find(values)
            if isinstance(self._lock, StudyHeartbeat):
                self._lock.beat()  # the claim was deleted with the study

    def _open_storage(self) -> None:
        place = self._place
        self._storage = open_storage(place.storage, storage_file(place.storage), place.timeout)

    def _find(self, values: int) -> bool:
        """Set the study's id; True where it had to be made."""
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        try:
            self._id = self._storage.get_study_id_from_name(self._place.name)
        except KeyError:
            directions = [StudyDirection.MINIMIZE] * values
            try:
                self._id = self._write("create_new_study", directions, self._place.name)
            except DuplicatedStudyError:  # made meanwhile by another process
                self._id = self._storage.get_study_id_from_name(self._place.name)
                return False
            return True
        return False

    def _attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = self._storage.get_study_user_attrs(self._id)
        return attributes

    def _set_claim(self, claim: Any) -> None:
        self._write("set_study_user_attr", self._id, _COORDINATOR, claim)

    def _check(self, made_for: dict[str, str]) -> None:
        """Refuse a study of something else; sign a new one."""
        signed = self._attributes().get(_MADE_FOR)
        if signed is None and not self._storage.get_all_trials(self._id, deepcopy=False):
            self._write("set_study_user_attr", self._id, _DIGEST, True)
            self._write("set_study_user_attr", self._id, _MADE_FOR, made_for)
        elif not isinstance(signed, dict):
            raise RunError(
                f"{self._where}: study '{self._place.name}' is not merge-advisor's; "
                "give another `storage` or run folder"
            )
        elif changed := [key for key in sorted({*signed, *made_for}) if signed.get(key) != made_for.get(key)]:
            changes = ", ".join(_change(key, signed.get(key), made_for.get(key)) for key in changed)
            raise RunError(
                f"{self._where}: its study was made for another {changes}; give another `storage` or run folder, "
                "or begin anew with `force=True`"
            )

    def _recover(self) -> tuple[Trial, ...]:
        """Fail what was left running and read the finished trials."""
        from optuna.trial import TrialState

        self._digests = bool(self._attributes().get(_DIGEST))

        finished: list[Trial] = []
        for kept in sorted(self._storage.get_all_trials(self._id, deepcopy=False), key=lambda kept: kept.number):
            if not kept.state.is_finished():
                self._write("set_trial_state_values", kept._trial_id, TrialState.FAIL)
            elif kept.state != TrialState.FAIL:  # numbers count finished trials, so failed ones leave no gap
                finished.append(self._read(kept.user_attrs.get(RECORD), len(finished), kept.number))
        return tuple(finished)

    def _read(self, record: Any, number: int, place: int) -> Trial:
        try:
            known = dict(record)
            digest = known.pop(_DIGEST, None)
            if digest is None and self._digests:  # a study begun before there were any has none
                raise ValueError("no digest")
            if digest is not None and digest != digest_of(known):
                raise ValueError("another digest")
            trial = read_trial(known)
        except (KeyError, TypeError, ValueError) as error:
            raise self._altered(place) from error
        if trial.number != number:  # one was deleted or added by hand: later asks followed from another history
            raise self._altered(place)
        return trial

    def _altered(self, place: int) -> RunError:
        return RunError(
            f"{self._where}: trial {place} was damaged, altered or added by hand; begin anew with `force=True` (losses "
            "that were measured are stored)"
        )

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Turn what a storage may raise into a RunError of one line."""
        import optuna
        import sqlalchemy.exc

        storage = (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error)
        try:
            yield
        except (*storage, OSError, ImportError, RuntimeError) as error:
            raise RunError(f"{self._where}: {without_password(_advice(error), self._place.storage)}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # what Optuna and SQLAlchemy read of a damaged row: a date that is none, a state that there is not
            reason = " ".join(str(error).split())[:200]
            reason = without_password(reason, self._place.storage)
            raise RunError(f"{self._where}: is damaged ({reason}); begin anew with `force=True`") from error


def read_trial(record: Mapping[str, Any]) -> Trial:
    """Return the trial that a JSON object was recorded of, exactly as it was.

    >>> trial = Trial(0, "plan", Point((0.5,), "exact"), (1.0, None), (1.0,), whole=False, forwards=1)
    >>> read_trial(to_plain(trial)) == trial
    True

    Args:
        record: the attribute "trial" of a trial in a study.

    Raises:
        KeyError, TypeError, ValueError: it is no such object.
    """
    point, gradient = record["point"], record["gradient"]
    return Trial(
        number=int(record["number"]),
        label=str(record["label"]),
        point=Point(_floats(point["weights"]), str(point["composition"]), _floats(point["layers"])),
        losses=tuple(None if loss is None else float(loss) for loss in record["losses"]),
        values=_floats(record["values"]),
        whole=bool(record["whole"]),
        forwards=int(record["forwards"]),
        gradient=None if gradient is None else _floats(gradient),
        sloped=tuple(int(row) for row in record["sloped"]),
        notes=dict(record["notes"]),
    )


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def trial_parameters(point: Point, space: SearchSpace, members: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a dashboard shows of a point: parameters and their ranges, widened where a start lies outside.

    Optuna refuses a value outside the range of its distribution, and starts may lie anywhere.

    Args:
        point: what is tried.
        space: gives the ranges.
        members: (k,) ids, for the names of the weights.
    """
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    params: dict[str, Any] = {}
    ranges: dict[str, BaseDistribution] = {}

    def add(name: str, value: float, low: float, high: float) -> None:
        params[name], ranges[name] = value, FloatDistribution(min(low, value), max(high, value))

    for member, weight in zip(members, point.weights, strict=True):
        add(f"weight {member}", weight, *space.bounds)
    for number, factor in enumerate(point.layers, start=1):
        add(f"layers {number}", factor, 0.0, 2.0)
    name, density = split_density(point.composition)
    if density is not None:
        add("density", density, 0.0, 1.0)
    choices = tuple(dict.fromkeys(without_density(spec) for spec in (space.start.composition, *space.compositions)))
    if len(choices) > 1 and name in choices:
        params["composition"], ranges["composition"] = name, CategoricalDistribution(choices)
    return params, ranges


def _change(key: str, old: object, new: object) -> str:
    """A changed part in words, both sides where they are short enough to read: digests are not."""
    if old is None or new is None or len(f"{old}{new}") > 60:
        return key
    return f"{key} ({old}, now {new})"


def _advice(error: Exception) -> str:
    """The root of an error, on one line, and what to do about it."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = (str(root).strip().splitlines() or [type(root).__name__])[0][:200]
    if "locked" in text:
        return f"locked by another program ({text}); close it and start again, the finished trials are kept"
    if any(words in text for words in ("not a database", "malformed", "Could not decode")):
        return f"is damaged ({text}); delete it and tune again, or give another `storage`"
    if isinstance(error, ImportError):
        return f"its driver is not installed ({text}); install it or give another `storage`"
    return f"the study cannot be written or read ({text}); check the place, permissions and free space"
