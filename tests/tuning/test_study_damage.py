"""A trial that was damaged, altered or added by hand is found when a study is opened."""

import json
import sqlite3

import optuna
import pytest

from merge_advisor.errors import RunError
from merge_advisor.tuning.study import StudyPlace
from tests.tuning.test_study import find, place

__all__ = ["place"]


def test_a_trial_added_by_hand_is_found(place: StudyPlace) -> None:
    find(place)
    storage = optuna.storages.RDBStorage(f"sqlite:///{place.storage}")
    optuna.load_study(study_name="tune", storage=storage).add_trial(optuna.create_trial(value=0.0))
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(
        RunError, match=r"study\.sqlite: trial 6 was damaged, altered or added by hand; begin anew with `force=True`"
    ):
        find(place)


def test_a_flipped_digit_of_a_trial_is_found(place: StudyPlace) -> None:
    find(place)
    with sqlite3.connect(place.storage) as file:
        (number, text), *_ = file.execute(
            "SELECT trial_user_attribute_id, value_json FROM trial_user_attributes WHERE key = 'trial'"
        ).fetchall()
        losses = json.loads(text)["losses"]
        changed = text.replace(repr(losses[0]), repr(losses[0] + 1.0), 1)
        assert changed != text
        query = "UPDATE trial_user_attributes SET value_json = ? WHERE trial_user_attribute_id = ?"
        file.execute(query, (changed, number))
    with pytest.raises(RunError, match="trial 0 was damaged, altered or added by hand"):
        find(place)


def test_a_date_that_is_none_is_one_line(place: StudyPlace) -> None:
    find(place)
    with sqlite3.connect(place.storage) as file:
        file.execute("UPDATE trials SET datetime_start = substr(datetime_start, 1, 20) || 'Y'")
    with pytest.raises(RunError, match=r"study\.sqlite: is damaged \(.*\); begin anew with `force=True`"):
        find(place)


def test_a_study_of_before_there_were_digests_goes_on(place: StudyPlace) -> None:
    found = find(place)
    with sqlite3.connect(place.storage) as file:
        rows = file.execute(
            "SELECT trial_user_attribute_id, value_json FROM trial_user_attributes WHERE key = 'trial'"
        ).fetchall()
        for number, text in rows:
            record = {name: value for name, value in json.loads(text).items() if name != "digest"}
            query = "UPDATE trial_user_attributes SET value_json = ? WHERE trial_user_attribute_id = ?"
            file.execute(query, (json.dumps(record), number))
    with pytest.raises(RunError, match="trial 0 was damaged, altered or added by hand"):
        find(place)
    with sqlite3.connect(place.storage) as file:
        file.execute("DELETE FROM study_user_attributes WHERE key = 'digest'")
    assert find(place) == found


def test_what_is_no_text_any_more_is_not_printed(place: StudyPlace, capfd: pytest.CaptureFixture[str]) -> None:
    """Optuna logs a row that it cannot read, escapes for terminals and all."""
    find(place)
    with sqlite3.connect(place.storage) as file:
        escape = "CAST(CAST(distribution_json AS BLOB) || x'1b5b33316dff' AS TEXT)"
        file.execute(f"UPDATE trial_params SET distribution_json = {escape}")
    with pytest.raises(RunError, match=r"study\.sqlite: is damaged"):
        find(place)
    told = capfd.readouterr()
    assert not told.out and not told.err
