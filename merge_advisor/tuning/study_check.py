"""Are the trials of a study what was written? Looked at without knowing what they were measured for."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from merge_advisor.errors import RunError
from merge_advisor.json_form import digest_of
from merge_advisor.tuning.storages import open_storage
from merge_advisor.tuning.study import RECORD, read_trial

_DIGEST = "digest"
"""Attribute of a trial's record, and of a study whose records have one."""


def check_study(path: Path) -> tuple[int, int, int]:
    """Return how many trials a file of studies holds, how many are damaged, and the forward passes these took.

    A damaged trial's own count is not to be trusted: it counts as the mean of the others.

    >>> check_study(Path("absent.sqlite"))
    Traceback (most recent call last):
    merge_advisor.errors.RunError: absent.sqlite: no such file; name the file of a study

    Args:
        path: an SQLite file of Optuna's.

    Raises:
        RunError: it is not there, or no such file.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; name the file of a study")
    import optuna
    import sqlalchemy.exc

    failures = (
        optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError, RuntimeError,
        ValueError, LookupError, TypeError, AttributeError,
    )  # fmt: skip
    try:
        storage = open_storage(path, path, 5.0)
        studies = [
            (bool(storage.get_study_user_attrs(study._study_id).get(_DIGEST)), storage.get_all_trials(study._study_id))
            for study in storage.get_all_studies()
        ]
    except failures as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{path}: is damaged, or no study ({reason}); `tune(run, force=True)` begins anew, losses that were "
            "measured are stored"
        ) from error
    sound, damaged = list[int](), 0
    for digests, trials in studies:
        for trial in trials:
            if trial.state not in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED):
                continue
            try:
                known = dict(trial.user_attrs[RECORD])
                digest = known.pop(_DIGEST, None)
                if digest != digest_of(known) and (digests or digest is not None):
                    raise ValueError("another digest")
                sound.append(read_trial(known).forwards)
            except (KeyError, TypeError, ValueError):
                damaged += 1
    mean = sum(sound) / len(sound) if sound else 0
    return len(sound) + damaged, damaged, round(mean * damaged)
