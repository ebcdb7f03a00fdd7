"""The store keeps what it is given, under exactly its key."""

import threading
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.errors import RunError
from merge_advisor.store import Store
from merge_advisor.types import Space

SPACE = Space("base", "delta_activations", "probes", "last", "mean", "float32", 3)


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
