"""`doctor --check`: whether what is kept is what was written, and what making it anew takes."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from merge_advisor import tune
from merge_advisor.benchmark.running.ledger import LEDGER_FILE, Ledger
from merge_advisor.benchmark.values import Result, Unit
from merge_advisor.cli import main
from merge_advisor.cli.kept import check_place
from merge_advisor.errors import InputError
from merge_advisor.hub import Hub
from merge_advisor.options import TuneOptions
from merge_advisor.spaces import Space
from merge_advisor.store import Store


def change(path: Path, statement: str, *values: object) -> None:
    """Change a file as no command of ours does."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


def test_a_store_says_what_its_damaged_values_take(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20.sqlite"
    space = Space("base", "delta_activations", "probes", "last", "last token", "float32", 4)
    with Store(path) as store:
        for name in ("one", "two", "three"):
            store.keep_delta(space, name, np.ones(4, np.float32))
        store.keep_measured("losses", [0.5] * 40)
        store.hashes["/models/a|2500000|1|1"] = "digest"
        store.hashes["values|digest"] = ""
    found = check_place(path)
    assert found.ok and "deltas of models: 3 kept, 0 damaged; measurements: 1 kept" in found.says
    change(path, "UPDATE deltas SET delta = ? WHERE fingerprint != 'one'", b"0" * 16)
    change(path, "UPDATE measured SET value = replace(value, '0.5', '0.6')")
    change(path, "UPDATE hashes SET value = 'other'")
    change(path, "UPDATE spaces SET space = replace(space, 'last token', 'first token')")
    for _ in range(2):  # looking changes nothing
        found = check_place(path)
        assert not found.ok and found.what == "store"
        assert "names of spaces: 1 kept, 1 damaged" in found.says
        wanted = (
            "takes 10 forward passes for deltas and about 40 for measurements and reading 2.5 MB of files; no command"
        )
        assert wanted in found.says
    assert {file.name for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))} == {path.name}


def test_a_ledger_says_what_its_damaged_results_take(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.claim({"seed": "0"})
        for number, forwards in enumerate((100, 200, 600)):
            ledger.keep(Result(Unit(f"t{number}", "f"), "nearest", "own-out", 4, accuracy=0.5, forwards=forwards))
    for place in (tmp_path, tmp_path / LEDGER_FILE):
        assert check_place(place).ok
    change(tmp_path / LEDGER_FILE, "UPDATE results SET value = replace(value, '0.5', '0.9') WHERE task = 't2'")
    for _ in range(2):
        found = check_place(tmp_path)
        assert not found.ok and "results: 3 kept, 1 damaged" in found.says
        assert "about 150 forward passes, by the mean of the others" in found.says
    change(tmp_path / LEDGER_FILE, "UPDATE made_for SET value = '1'")
    assert "What it was made for cannot be told any more" in check_place(tmp_path).says


def test_a_run_and_its_study_are_checked(example_world: Path, tmp_path: Path) -> None:
    run = shutil.copytree(example_world / "run", tmp_path / "run")
    found = check_place(run)
    assert found.ok and "0 damaged or changed" in found.says
    tune(run, options=TuneOptions(trials=4, sampler="random"), scored=False, cache=tmp_path / "cache")
    found = check_place(run)
    assert found.ok and "its study: 4 trials, 0 damaged" in found.says
    change(run / "study.sqlite", "UPDATE trial_user_attributes SET value_json = replace(value_json, '.', '.1')")
    for name in ("plan.json", "tasks/0.json"):
        (run / name).write_text((run / name).read_text().replace("say", "sag", 1).replace('"seed": 0', '"seed": 1'))
    found = check_place(run)
    assert not found.ok and "2 damaged or changed" in found.says and "its study: 4 trials, 4 damaged" in found.says
    assert found.says.count("was changed after it was written") == 2
    alone = check_place(run / "study.sqlite")
    assert alone.what == "study" and not alone.ok


def test_a_hub_is_checked(tmp_path: Path) -> None:
    with Hub.open(tmp_path / "hub", make=True):
        pass
    assert check_place(tmp_path / "hub") == check_place(tmp_path / "hub" / "catalogue.sqlite")._replace(
        says=check_place(tmp_path / "hub").says
    )
    assert check_place(tmp_path / "hub").what == "hub"


def test_doctor_checks_each_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Store(tmp_path / "own.sqlite").close()
    (tmp_path / "text").write_text("no store")
    assert main(["doctor", "--check", "own.sqlite"]) == 0
    assert "ok      store: own.sqlite: deltas of models: 0 kept" in capsys.readouterr().out
    assert main(["doctor", "--check", "own.sqlite", "--check", "text", "--check", "absent"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN  check: text: is damaged, or no store" in out
    assert (
        "BROKEN  check: absent: is no run folder, hub folder, store, study or results of a benchmark; name one" in out
    )
    assert not (tmp_path / "cache").exists()  # looking makes nothing
    with pytest.raises(InputError):
        check_place(tmp_path)
