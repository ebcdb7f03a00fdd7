"""The store keeps what it is given, under exactly its key."""

import sqlite3
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.errors import DamageWarning, RunError
from merge_advisor.spaces import Space
from merge_advisor.store import Store

SPACE = Space("base", "delta_activations", "probes", "last", "mean", "float32", 3)
OLD = """
CREATE TABLE spaces (digest TEXT PRIMARY KEY, space TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE deltas (space TEXT, fingerprint TEXT, delta BLOB NOT NULL, PRIMARY KEY (space, fingerprint));
CREATE TABLE measured (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE hashes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


def test_deltas_are_kept_by_space_and_fingerprint(tmp_path: Path) -> None:
    delta = np.array([1.0, -2.5, 3e-8], np.float32)
    with Store(tmp_path / "deep" / "store.sqlite") as store:
        store.keep_delta(SPACE, "f", delta)
    with Store(tmp_path / "deep" / "store.sqlite") as store:
        kept = store.delta(SPACE, "f")
        assert kept is not None and np.array_equal(kept, delta)
        assert store.delta(SPACE, "g") is None
        other = Space("base", "delta_activations", "probes", "last", "mean", "bfloat16", 3)
        assert store.delta(other, "f") is None
        with pytest.raises(ValueError, match="does not belong"):
            store.keep_delta(SPACE, "f", delta[:2])


def test_a_damaged_delta_is_measured_again(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        store.keep_delta(SPACE, "f", np.array([1, 2, np.nan], np.float32))
        assert store.delta(SPACE, "f") is None


def flip(path: Path, part: bytes) -> None:
    """Change one bit of a part that is in the file once."""
    data = bytearray(path.read_bytes())
    assert data.count(part) == 1
    data[data.index(part)] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_of_a_delta_is_noticed(tmp_path: Path) -> None:
    delta = np.array([1.25, -2.5, 3e-8], np.float32)
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.keep_delta(SPACE, "f", delta)
        store.keep_delta(SPACE, "g", -delta)
    flip(path, delta.tobytes())
    with Store(path) as store:
        assert store.check()["deltas of models"] == (2, 1)
        with pytest.warns(
            DamageWarning, match="store .*: deltas of models kept there were damaged; they are made anew"
        ):
            assert store.delta(SPACE, "f") is None
        other = store.delta(SPACE, "g")
        assert other is not None and np.array_equal(other, -delta)
        store.keep_delta(SPACE, "f", delta)
        assert store.check()["deltas of models"] == (2, 0)


def test_a_flipped_bit_of_a_measurement_or_hash_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.keep_measured("a digest", [0.71828])
        store.hashes["file"] = "3f2a"
    flip(path, b"0.71828")
    flip(path, b"3f2a")
    with Store(path) as store:
        with pytest.warns(DamageWarning, match="measurements"):
            assert store.measured("a digest") is None
        with pytest.warns(DamageWarning, match="hashes of files"):
            assert store.hashes.get("file") is None


def test_a_flipped_byte_anywhere_is_never_another_value(tmp_path: Path) -> None:
    """Every fifth byte: what comes is what was kept, nothing, or one line."""
    path = tmp_path / "store.sqlite"
    delta = np.array([1.25, -2.5, 3e-8], np.float32)
    with Store(path) as store:
        store.keep_delta(SPACE, "fingerprint", delta)
        store.keep_measured("a digest", [0.71828])
        store.hashes["file"] = "3f2a"
    whole = path.read_bytes()
    counts = dict.fromkeys(("kept", "nothing", "refused"), 0)
    used = [place for place in range(0, len(whole), 5) if any(whole[place : place + 5])]
    for place in used:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            with warnings.catch_warnings(), Store(path) as store:
                warnings.simplefilter("ignore", DamageWarning)
                found = store.delta(SPACE, "fingerprint")
                values = (
                    None if found is None else found.tolist(),
                    store.measured("a digest"),
                    store.hashes.get("file"),
                )
        except RunError:
            counts["refused"] += 1
        else:
            assert all(
                one in (None, right) for one, right in zip(values, (delta.tolist(), [0.71828], "3f2a"), strict=True)
            )
            counts["nothing" if None in values else "kept"] += 1
        for left in tmp_path.glob("store.sqlite-*"):
            left.unlink()
    assert all(counts.values()), counts


def test_a_schema_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    Store(path).close()
    flipped = path.read_bytes().replace(b"CREATE TABLE measured", b"CREATE TA\xfeLE measured")
    path.write_bytes(flipped)
    with pytest.raises(RunError, match="is damaged, or no store"):
        Store(path)


def test_a_store_of_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as old:
        old.executescript(OLD)
        old.execute("INSERT INTO deltas VALUES (?, 'f', ?)", (SPACE.digest, np.array([1, 2, 3], "<f4").tobytes()))
        old.execute("INSERT INTO measured VALUES ('a digest', '[0.5]')")
    with Store(path) as store:
        kept = store.delta(SPACE, "f")
        assert kept is not None and kept.tolist() == [1, 2, 3] and store.measured("a digest") == [0.5]
        assert store.check() == {
            "deltas of models": (1, 0), "measurements": (1, 0), "hashes of files": (0, 0), "names of spaces": (0, 0),
        }  # fmt: skip


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "store.sqlite").close()
    with sqlite3.connect(tmp_path / "store.sqlite") as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match=r"written by a newer merge-advisor .* name another `store`"):
        Store(tmp_path / "store.sqlite")


def test_measurements_and_hashes(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        assert store.measured("key") is None
        store.keep_measured("key", [1.25, 0.1])
        assert store.measured("key") == [1.25, 0.1]
        with pytest.raises(ValueError, match="not JSON compliant"):
            store.keep_measured("key", float("nan"))
        store.hashes["file"] = "abc"
        assert dict(store.hashes) == {"file": "abc"} and len(store.hashes) == 1
        del store.hashes["file"]
        with pytest.raises(KeyError):
            store.hashes["file"]
        with pytest.raises(KeyError):
            del store.hashes["file"]


def test_two_processes_may_write(tmp_path: Path) -> None:
    def write(start: int) -> None:
        with Store(tmp_path / "store.sqlite") as store:
            for number in range(start, start + 50):
                store.keep_measured(str(number), number)

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store(tmp_path / "store.sqlite") as store:
        assert all(store.measured(str(number)) == number for number in range(100))


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("this is text, long enough to be read as a header of something else" * 20)
    with pytest.raises(RunError, match="name another `store`"):
        Store(tmp_path / "store.sqlite")
