"""`embed`, `score` and `plan` by workers: the bytes of a run of this process alone, also where a worker is killed."""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge_advisor import embed, plan, score
from merge_advisor.advisor import Machine, PlanOptions, Workers
from merge_advisor.advisor.measuring.deltas import EmbeddingWork
from merge_advisor.advisor.measuring.session import SessionOpening, open_session
from merge_advisor.errors import BaseModelError, ExternalError, PoolError, RunError
from merge_advisor.json_form import digest_of
from merge_advisor.owners import this_installation
from merge_advisor.store import Store
from merge_advisor.types import Candidate
from tests.support.ray_cluster import local_cluster, needs_ray

ONE = Machine(threads=1)
LOCAL = Workers(workers=2)
RAY = pytest.param(Workers("ray", workers=2), marks=[pytest.mark.slow, needs_ray], id="ray")


def rows_digest(store: Path) -> dict[str, str]:
    """A digest of the rows of each table of a store, in the order of their keys; of what was timed no seconds."""
    connection = sqlite3.connect(store)
    timed = {digest_of(["seconds", key]) for (key,) in connection.execute("SELECT key FROM measured")}
    found = {}
    for table in ("deltas", "measured", "spaces"):
        rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        rows = [row[:1] if row[0] in timed else row for row in rows]
        found[table] = f"{len(rows)} {hashlib.sha256(repr(rows).encode()).hexdigest()}"
    connection.close()
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_cluster(cpus=3):
        yield


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Workers:
    made: Workers = request.param
    if made.engine == "ray":
        request.getfixturevalue("cluster")
    return made


@pytest.fixture(scope="module")
def many(tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty adapters that differ, of which one cannot be embedded."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("many")
    for number in range(40):
        source = tiny_pool / "a0"
        shutil.copytree(source, folder / f"m{number:02}")
        tensors = load_file(source / "adapter_model.safetensors")
        factor = np.float32(1e20 if number == 7 else 1 + number / 100)
        save_file(
            {name: tensor * factor for name, tensor in tensors.items()},
            folder / f"m{number:02}" / "adapter_model.safetensors",
        )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param(LOCAL, id="local"), RAY], indirect=True)
def test_embedding_gives_the_bytes_of_one_process(
    engine: Workers, many: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    made = {}
    for name, asked in (("alone", None), ("beside", engine)):
        made[name] = embed(pool=many, base=str(tiny_llama), cache=tmp_path / name, machine=ONE, beside=asked)
    assert made["alone"].ids == made["beside"].ids and len(made["alone"].ids) == 39
    assert made["alone"].array.tobytes() == made["beside"].array.tobytes()
    kept = {name: rows_digest(tmp_path / name / "store.sqlite") for name in made}
    assert kept["alone"] == kept["beside"]
    assert list((tmp_path / "beside" / "workers").iterdir()) == []
    again = embed(pool=many, base=str(tiny_llama), cache=tmp_path / "beside", machine=ONE)
    assert again.array.tobytes() == made["alone"].array.tobytes()


@pytest.mark.parametrize("engine", [pytest.param(LOCAL, marks=pytest.mark.slow, id="local"), RAY], indirect=True)
def test_scoring_gives_the_bytes_of_one_process(engine: Workers, example_world: Path, tmp_path: Path) -> None:
    guard = tmp_path / "guard.jsonl"
    guard.write_text('{"text": "Some text of no task."}\n{"text": "More of it, and longer."}\n')
    kept = {}
    for name, asked in (("alone", None), ("beside", engine)):
        run = Path(shutil.copytree(example_world / "run", tmp_path / f"run-{name}"))
        scored = score(run, guard=guard, metric="loss", cache=tmp_path / name, machine=ONE, beside=asked)
        table = [(model.label, model.metrics, model.rows) for model in scored.scores[0].models]
        kept[name] = (table, scored.scores[0].guard, rows_digest(tmp_path / name / "store.sqlite"))
        (cost,) = scored.plan.environment.scoring
        assert cost.models == cost.run == len([label for label, *_ in table if label != "majority"])
        assert cost.seconds_model and cost.seconds_run > cost.seconds_model
    assert kept["alone"] == kept["beside"]
    assert {"base", "icl", "anchor", "merge"} <= {label for label, _, _ in kept["alone"][0]}


@pytest.mark.slow
def test_a_plan_is_the_same(example_world: Path, tmp_path: Path) -> None:
    made = {}
    options = PlanOptions(strategy="top_k", k=2, adaptation="none")
    for name, asked in (("alone", None), ("beside", LOCAL)):
        run = plan(
            example_world / "examples.jsonl", pool=str(example_world / "adapters"), base=str(example_world / "base"),
            out=tmp_path / name, options=options, metric="loss", cache=tmp_path / f"cache-{name}", machine=ONE,
            beside=asked,
        )  # fmt: skip
        made[name] = (run.recipe.digest, [score.models for score in run.scores], run.plan.verdict)
        made[f"{name} counts"] = (run.plan.environment.store_hits, run.plan.environment.store_misses)  # type: ignore[assignment]
    assert made["alone"] == made["beside"]
    assert made["alone counts"] == made["beside counts"]


@pytest.fixture
def opening(tiny_llama: Path, tmp_path: Path) -> SessionOpening:
    with open_session(str(tiny_llama), cache=tmp_path / "cache", machine=ONE) as session:
        digest = session.local.base.digest
    return SessionOpening(str(tiny_llama), digest, "alpaca", tmp_path / "cache", offline=True, machine=ONE)


def test_what_a_worker_does_not_see_is_one_line(opening: SessionOpening, wide_llama: Path, tmp_path: Path) -> None:
    told = "workers need base, pool, cache and run folder under the same paths, on a disk that their machines share"
    with pytest.raises(BaseModelError, match=f"base {tmp_path}/gone: is not there on .*; {told}"):
        replace(opening, base=str(tmp_path / "gone")).open(1).__enter__()
    with pytest.raises(BaseModelError, match=f"is another model there; {told}"):
        replace(opening, base=str(wide_llama)).open(1).__enter__()
    with pytest.raises(RunError, match=f"cache {tmp_path}/elsewhere: is not there on .*; {told}"):
        replace(opening, before=tmp_path / "elsewhere" / "workers" / "copy.sqlite").open(1).__enter__()
    gone = Candidate("a0", "adapter", str(tmp_path / "a0"), "f")
    with opening.open(1) as do, pytest.raises(PoolError, match=f"a0: .* is not there on .*; {told}"):
        do(EmbeddingWork("delta_activations", (gone,)))


def test_an_engine_whose_workers_fail_is_one_line(
    many: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv:\n    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ExternalError, match=r"2 of 2 workers ended early \(signal 9\)"):
        embed(pool=many, base=str(tiny_llama), cache=tmp_path / "cache", machine=ONE, beside=LOCAL)


def test_copies_of_killed_processes_are_cleared(many: Path, tiny_llama: Path, tmp_path: Path) -> None:
    left = tmp_path / "workers" / f"{this_installation()}.999999999.0.sqlite"
    other = tmp_path / "workers" / "elsewhere.1.0.sqlite"
    namesake = tmp_path / "workers" / f"{this_installation()}.{os.getpid()}.999999999.sqlite"
    left.parent.mkdir()
    for path in (left, other, namesake):
        Store(path).close()
    with open_session(str(tiny_llama), cache=tmp_path, machine=ONE) as session:
        from merge_advisor.advisor.measuring.crew import copied_store

        with copied_store(session.memo.store, tmp_path) as copy:
            assert copy.is_file() and other.is_file() and not left.exists() and not namesake.exists()
            with copied_store(session.memo.store, tmp_path) as second:
                assert copy.is_file() and second.is_file()
    assert sorted(path.name for path in (tmp_path / "workers").iterdir()) == [other.name]
