"""Vectors of a hub that are damaged, cut short or killed while they are written: noticed, not used, made anew."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.cli import main
from merge_advisor.errors import DamageWarning, InputError, RunError
from merge_advisor.hub import Hub
from merge_advisor.hub.vectors import VectorFiles
from tests.hub.hub_world import SPACE, filled, put
from tests.hub.vector_world import WIDE, by_hand, flip, found, pairs


def into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damages() -> dict[str, Callable[[Path], None]]:
    return {
        "a flipped byte of a row": lambda folder: flip(folder / "rows", 777),
        "a flipped byte of a key": lambda folder: flip(folder / "keys", 80),
        "a flipped byte of a sum": lambda folder: flip(next(folder.glob("sums-*")), 1),
        "no rows": lambda folder: (folder / "rows").unlink(),
        "rows cut short": lambda folder: os.truncate(folder / "rows", 1000),
        "an empty state": lambda folder: (folder / "state.json").write_text(""),
        "a state of others": lambda folder: (folder / "state.json").write_text('{"rows": 3}'),
        "rows of another space": lambda folder: (folder / "state.json").write_text(
            (folder / "state.json").read_text().replace(WIDE.digest, SPACE.digest)
        ),
        "a state that says more": lambda folder: (folder / "state.json").write_text(
            (folder / "state.json").read_text().replace('"rows": 60', '"rows": 59')
        ),
        "a state of fewer than no rows": lambda folder: (folder / "state.json").write_text(
            (folder / "state.json").read_text().replace('"rows": 60', '"rows": -60')
        ),
        "a state of half a row": lambda folder: (folder / "state.json").write_text(
            (folder / "state.json").read_text().replace('"rows": 60', '"rows": 60.5')
        ),
        "a state that is long": lambda folder: (folder / "state.json").write_text(
            " " * 2**20 + (folder / "state.json").read_text()
        ),
        "a state that is a pipe": lambda folder: into_a_pipe(folder / "state.json"),
        "sums that are a pipe": lambda folder: into_a_pipe(next(folder.glob("sums-*"))),
        "a deep state": lambda folder: (folder / "state.json").write_text("[" * 4000),
        "sums that say more": lambda folder: os.truncate(next(folder.glob("sums-*")), 2**30),
    }


@pytest.mark.parametrize("damage", damages())
def test_damaged_files_are_noticed_not_used_and_made_anew(tmp_path: Path, damage: str) -> None:
    filled(tmp_path, 60, WIDE).close()
    damages()[damage](tmp_path / "vectors" / "1")
    query = np.random.default_rng(5).normal(size=64)
    with Hub.open(tmp_path) as hub:
        with pytest.warns(
            DamageWarning, match=r"its vectors were damaged .* hub check --repair` makes the vectors anew"
        ):
            search = found(hub, query, 5)
        assert pairs(search) == by_hand(hub, query, 5)
        assert not hub.check().whole
        repaired = hub.check(repair=True)
        assert repaired.whole and repaired.index and "60 made anew" in repaired.repaired[-1]
        assert hub.check().index == () and pairs(found(hub, query, 5)) == by_hand(hub, query, 5)


def test_a_whole_number_may_be_written_as_a_float(tmp_path: Path) -> None:
    filled(tmp_path, 60, WIDE).close()
    state = tmp_path / "vectors" / "1" / "state.json"
    state.write_text(state.read_text().replace('"dim": 64', '"dim": 64.0'))
    query = np.random.default_rng(5).normal(size=64)
    with Hub.open(tmp_path) as hub:
        assert pairs(found(hub, query, 5)) == by_hand(hub, query, 5)


def test_who_adds_next_makes_damaged_files_anew(tmp_path: Path) -> None:
    with filled(tmp_path, 60, WIDE) as hub:
        flip(tmp_path / "vectors" / "1" / "rows", 700)
        with pytest.warns(DamageWarning, match="its vectors were damaged .*; they are made anew"):
            assert hub.index.bring_up(1, WIDE) == 60
        assert hub.check().whole


def test_damaged_rows_of_the_catalogue_are_told_dropped_and_never_searched_by(tmp_path: Path) -> None:
    query = np.random.default_rng(5).normal(size=64)
    with filled(tmp_path, 20, WIDE) as hub:
        file = hub.catalogue.file
        file.run("UPDATE deltas SET delta = zeroblob(256) WHERE row = 3")
        file.run("UPDATE entries SET licence = 'mit' WHERE number = 5")
        file.run("DELETE FROM texts WHERE rowid = 7")
        with pytest.raises(RunError, match=r"the delta of m2 was damaged; `merge-advisor hub check --repair` drops it"):
            found(hub, query, 20)
        with pytest.raises(
            RunError, match=r"the row of model #5 was damaged; `merge-advisor hub check --repair` drops"
        ):
            hub.entries()
        told = hub.check()
        assert not told.whole and told.damaged == (
            "models: 1 rows of the catalogue are not what was written",
            "deltas: 1 rows of the catalogue are not what was written",
        )
        assert told.index == ("texts: the index lacks 1 models and has 0 that are not there",)
        repaired = hub.check(repair=True)
        assert (
            repaired.whole
            and "models: 1 damaged rows dropped; what they held has to be added again" in repaired.repaired
        )
        assert hub.check().whole and hub.count() == 19 and hub.check().deltas == 18
        assert pairs(found(hub, query, 20)) == by_hand(hub, query, 20)
        assert [hit.entry.id for hit in hub.search(text="m6").hits] == ["m6"]
        with pytest.raises(InputError, match="has no model 'm4'"):
            hub.entry("m4")


def test_a_damaged_base_is_told_until_something_of_it_is_added_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with filled(tmp_path, 3, WIDE) as hub:
        (base,) = hub.bases()
        hub.catalogue.file.run("UPDATE bases SET id = 'org/other'")
    assert main(["hub", "check", "--repair", "--hub", str(tmp_path)]) == 1  # dropped, and nothing here knows it
    assert "wrong: bases: 3 models are of one that is not there; add a pool of it again" in capsys.readouterr().out
    assert main(["hub", "show", "m1", "--hub", str(tmp_path)]) == 0 and "m1: adapter of base" in capsys.readouterr().out
    with Hub.open(tmp_path) as hub:
        hub.catalogue.keep_base(base.base, base.place)
        assert hub.check().whole


def test_an_index_of_the_catalogue_that_lost_a_row_is_told_and_made_anew(tmp_path: Path) -> None:
    with filled(tmp_path, 9, WIDE) as hub:
        hub.catalogue.file.run("PRAGMA journal_mode = DELETE")
    path = tmp_path / "catalogue.sqlite"
    data = path.read_bytes()
    assert data.count(b"basealpaca") == 9  # base and template lie side by side in an index alone
    path.write_bytes(data.replace(b"basealpaca", b"basfalpaca", 1))
    with Hub.open(tmp_path) as hub:
        told = hub.check()
        assert not told.whole and told.index[0].startswith("catalogue: ")
        repaired = hub.check(repair=True)
        assert repaired.whole and repaired.repaired[0] == "catalogue: its indexes made anew"
        assert hub.check().whole and hub.count() == 9


def test_a_repair_makes_only_the_vectors_anew_that_are_wrong(tmp_path: Path) -> None:
    other = replace(WIDE, embedding="delta_logits")
    with filled(tmp_path, 9, WIDE) as hub:
        number = hub.catalogue.keep_space(other)
        hub.deltas.keep_delta(number, 1, np.ones(64, np.float32))
        hub.index.bring_up(number, other)
    (tmp_path / "vectors" / "1" / "state.json").unlink()
    with Hub.open(tmp_path) as hub:
        assert hub.check(repair=True).repaired == (
            "vectors of delta_activations in float32: 9 made anew from the catalogue",
        )


@pytest.mark.usefixtures("coded")
def test_a_damaged_mean_is_noticed_before_it_is_searched_by(tmp_path: Path) -> None:
    query = np.random.default_rng(5).normal(size=64)
    filled(tmp_path, 600, WIDE).close()
    flip(tmp_path / "vectors" / "1" / "mean", 5)
    with Hub.open(tmp_path) as hub:
        with pytest.warns(DamageWarning, match="mean: is not what was written"):
            assert pairs(found(hub, query, 3)) == by_hand(hub, query, 3)
        assert "mean: is not what was written" in hub.check().index[0]
        assert hub.check(repair=True).whole and hub.check().whole


def test_deleted_files_are_made_anew(tmp_path: Path) -> None:
    import shutil

    with filled(tmp_path, 10, WIDE) as hub:
        query = np.random.default_rng(5).normal(size=64)
        shutil.rmtree(tmp_path / "vectors")
        hub.index.close()
        assert pairs(found(hub, query, 5)) == by_hand(hub, query, 5)  # behind by all
        assert hub.index.bring_up(1, WIDE) == 10 and hub.check().whole


def test_a_catalogue_put_back_from_a_copy_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path, 30, WIDE).close()
    copy = (tmp_path / "catalogue.sqlite").read_bytes()
    with Hub.open(tmp_path) as hub:
        hub.remove("m3")
        hub.remove("m4")
        hub.index.rebuild(1, WIDE)
    (tmp_path / "catalogue.sqlite").write_bytes(copy)
    with Hub.open(tmp_path) as hub, pytest.warns(DamageWarning, match="28 rows, where the catalogue has 30"):
        assert len(found(hub, np.ones(64), 30).hits) == 30


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each write of an append: what was there is found, what was added is found, the next append goes on."""
    real = VectorFiles._write
    query = np.random.default_rng(5).normal(size=64)

    def full(name: str) -> Callable[..., None]:
        def write(self: VectorFiles, file: str, row: int, values: np.ndarray, *, sync: bool = True) -> None:
            if file == name:
                with (self.folder / file).open("r+b") as half:
                    half.seek(0, 2)
                    half.write(b"half a row")
                raise OSError(28, "No space left on device")
            real(self, file, row, values, sync=sync)

        return write

    for number, name in enumerate(("keys", "rows", "scales")):
        folder = tmp_path / str(number)
        with filled(folder, 20, WIDE) as hub:
            put(hub, 99, "late", query)
            with monkeypatch.context() as patch:
                patch.setattr(VectorFiles, "_write", full(name))
                with pytest.raises(RunError, match=r"cannot be written \(No space left on device\); check permissions"):
                    hub.index.bring_up(1, WIDE)
            assert pairs(found(hub, query, 3)) == by_hand(hub, query, 3) and pairs(found(hub, query, 1))[0][0] == "late"
            assert hub.index.bring_up(1, WIDE) == 1 and hub.check().whole and not hub.check().index


KILLED = """
import os, sys
from pathlib import Path
from merge_advisor.hub import Hub
from merge_advisor.hub.vectors import VectorFiles
from tests.hub.vector_world import WIDE
import merge_advisor.hub.stored_vectors as module
left = [int(sys.argv[2])]
def dying(real):
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return real(*args, **kwargs)
    return call
for name in ("_write", "_finish", "_replace"):
    setattr(VectorFiles, name, dying(getattr(VectorFiles, name)))
module.write_text = dying(module.write_text)
with Hub.open(sys.argv[1]) as hub:
    hub.index.bring_up(1, WIDE)
"""


def test_a_kill_at_any_write_leaves_files_that_go_on(tmp_path: Path) -> None:
    with filled(tmp_path, 20, WIDE) as hub, hub.catalogue.file.transaction():
        for item in range(100, 400):
            put(hub, item, f"late{item}", np.random.default_rng(item).normal(size=64))
    query = np.random.default_rng(5).normal(size=64)
    killed = 0
    for step in range(10):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(step)], capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.returncode in (0, 9), done.stderr
        killed += done.returncode == 9
        with Hub.open(tmp_path) as hub:
            assert pairs(found(hub, query, 9)) == by_hand(hub, query, 9)
        if not done.returncode:
            break
    assert killed >= 4
    with Hub.open(tmp_path) as hub:
        assert hub.check().whole and not hub.check().index
