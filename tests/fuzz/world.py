"""A base, a pool, a run, a benchmark with results and a store, made once; and the folder that a case is put into."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, chdir, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.fuzz.seeds import PLAIN, jsonl
from tests.support.bench_setups import SETUP, write_world
from tests.support.models import LLAMA_MODULES, build_llama, write_lora
from tests.support.run_files import unchecked

KEPT = "cache"
"""Folder of a case's place that stays from case to case: it only remembers hashes."""
EXPECTED = "expected.npz"


def make_world(folder: Path) -> Path:
    """Make all that cases read beside the input that is fuzzed; returns the folder, which nothing may change."""
    from merge_advisor import plan, score, tune
    from merge_advisor.advisor import PlanOptions
    from merge_advisor.advisor.embedding_file import embed_to_file
    from merge_advisor.options import TuneOptions

    folder.mkdir(parents=True)
    build_llama(folder / "base")
    for number in range(3):
        card = f"---\nlicense: mit\nbase_model: tiny-llama\n---\nAdapter {number}.\n"
        write_lora(folder / "adapters" / f"{'aab'[number]}{'010'[number]}", LLAMA_MODULES, seed=number, card=card)
    (folder / "pool").mkdir()
    shutil.copytree(folder / "adapters" / "a0", folder / "pool" / "a-original")
    rows = [{"input": f"say {n} twice", "output": f"{n} {n}"} for n in range(30)]
    (folder / "examples.jsonl").write_bytes(jsonl(rows))
    (folder / "guard.jsonl").write_bytes(jsonl(PLAIN))
    write_world(folder, base="base", pool="adapters")
    store, pool, base = folder / "store.sqlite", str(folder / "adapters"), str(folder / "base")
    where: Any = {"pool": pool, "base": base, "cache": folder / KEPT}
    plan(
        folder / "examples.jsonl", pool=pool, base=base, out=folder / "run", scored=False, cache=folder / KEPT,
        options=PlanOptions(strategy="top_k", k=2, adaptation="none", shots=8),
    )  # fmt: skip
    score(folder / "run", **where)
    shutil.copytree(folder / "run", folder / "tuned")
    tune(folder / "tuned", options=TuneOptions(trials=5, sampler="random"), scored=False, **where)
    embed_to_file(folder / EXPECTED, pool=pool, base=base, store=store, cache=folder / KEPT)
    _unlink_paths(folder)
    _write_results(folder)
    _write_hub(folder)
    return folder


def _write_hub(folder: Path) -> None:
    """A hub of the pool, and what is known of the pool where it is watched; places as a case's place has them."""
    from merge_advisor.cli import main
    from merge_advisor.hub import Hub
    from tests.fuzz.kept_targets import WATCH

    with chdir(folder), redirect_stdout(io.StringIO()):
        with Hub.open("hub", make=True) as hub:
            hub.add("adapters", base="base", cache=Path(KEPT))
        assert main([*WATCH, "--cache", KEPT]) == 0


def _unlink_paths(folder: Path) -> None:
    """Have the runs name base and pool as a case's place has them."""
    for run in ("run", "tuned"):
        path = folder / run / "plan.json"
        plan = unchecked(path)
        plan["environment"]["paths"] |= {"base": "base", "pool": "adapters"}
        path.write_text(json.dumps(plan, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _write_results(folder: Path) -> None:
    """The results of a small benchmark, and what it answers by them."""
    from merge_advisor.benchmark.bench import bench
    from merge_advisor.json_form import to_json

    small = {
        "arms": SETUP["arms"][2:],
        "primary": {"better": "nearest", "than": "base", "k": 2},
        "controls": ["base", "majority"],
    }
    setup = folder / "small.yaml"
    setup.write_text(
        json.dumps(SETUP | small | {"base": "base", "pool": "adapters", "draws": {"shots": 1, "selections": 1}})
    )
    done = bench(setup, folder / "results", cache=folder / KEPT)
    (folder / "answers.json").write_text(to_json(done.contrasts))


def expected_deltas(world: Path) -> Mapping[str, list[float]]:
    """The deltas of the world's pool, by id."""
    with np.load(world / EXPECTED, allow_pickle=False) as arrays:
        return {str(name): delta.tolist() for name, delta in zip(arrays["ids"], arrays["deltas"], strict=True)}


class Place:
    """The folder that a case is put into: links to the world, and the case's own files in place of some of it.

    Args:
        folder: made where it is not there.
        world: of `make_world`.
    """

    def __init__(self, folder: Path, world: Path) -> None:
        self.folder, self.world = folder.resolve(), world.resolve()
        self._shared = {path.name: str(path) for path in sorted(self.world.iterdir()) if path.name != KEPT}
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / KEPT).mkdir(parents=True)
        self.clear()

    def clear(self) -> None:
        """Take away what a case and its command left, and link the world anew."""
        there = set()
        with os.scandir(self.folder) as entries:  # thrice as fast as `Path`, and every case waits for it
            for entry in entries:
                if entry.is_symlink() and entry.name in self._shared:
                    there.add(entry.name)
                elif entry.name != KEPT:
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)  # noqa: PTH108
        for name in self._shared.keys() - there:
            os.symlink(self._shared[name], f"{self.folder}/{name}")  # noqa: PTH211
        for part in ("pool", "base"):  # copies that a plan makes of archives and the like
            shutil.rmtree(self.folder / KEPT / part, ignore_errors=True)
        (self.folder / "tmp").mkdir()

    def put(self, files: Mapping[str, bytes], copied: tuple[str, ...] = ()) -> None:
        """Write a case's files, and copy what of the world its command may change."""
        for name in copied:
            self._open(self.folder, name)
        for name, data in files.items():
            *folders, last = name.split("/")
            at = self.folder
            for part in folders:
                at = self._open(at, part)
            (at / last).unlink(missing_ok=True)
            (at / last).write_bytes(data)
        for name in copied:
            for path in (self.folder / name).rglob("*"):
                if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
                    _copy(path)

    @staticmethod
    def _open(at: Path, part: str) -> Path:
        """A folder below another; a link to one becomes a folder of hard links to what is in there.

        Hard ones, since links that lead out of a pool are not followed.
        """
        folder = at / part
        if folder.is_symlink():
            target = folder.resolve()
            folder.unlink()
            if target.is_file():
                shutil.copyfile(target, folder)
                return folder
            folder.mkdir()
            for inside in target.iterdir():
                own = folder / inside.name
                shutil.copytree(inside, own, copy_function=_link) if inside.is_dir() else _link(inside, own)
        folder.mkdir(exist_ok=True)
        return folder


def _link(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where the world lies on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _copy(link: Path) -> None:
    """Put a copy in place of a link, hard or soft."""
    target = link.resolve()
    if target.is_dir():
        link.unlink()
        shutil.copytree(target, link)
    else:
        data = target.read_bytes()
        link.unlink()
        link.write_bytes(data)


def without_children() -> AbstractContextManager[object]:
    """Adapters that are more than plain LoRA are refused here, not given to a child process that takes seconds."""
    from merge_advisor.pool.merged_by_peft import PeftMerges

    def refuse(asked: Mapping[str, Any], *_: object) -> tuple[list[dict[str, Any]], str]:
        return [{"error": "no child process here"}] * len(asked["jobs"]), ""

    return mock.patch("merge_advisor.pool.opening.PeftMerges", functools.partial(PeftMerges, run=refuse))


ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100",
}  # fmt: skip
"""What is set before anything is imported."""


def settle_environment() -> None:
    """Set it, for this process and those it forks."""
    os.environ.update(ENVIRONMENT)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MERGE_ADVISOR_CACHE"):
        os.environ.pop(name, None)
