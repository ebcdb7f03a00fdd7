"""Commands that are killed, whose writes fail, or of which two run at once, and what is compared afterwards."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.backbone.generate import generate
from merge_advisor.hub import Hub
from merge_advisor.json_form import digest_of
from merge_advisor.machine_options import Machine
from merge_advisor.merges import WeightedMerge
from merge_advisor.store import Store
from merge_advisor.write_points import FAIL_AT
from tests.support.bench_setups import write_world

ROOT = Path(__file__).parents[2]
TRACEBACK = "Traceback (most recent call last)"
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}-[0-9]+\..*|.*(-wal|-shm|-journal|\.partial|\.tmp|\.old|\.holder)")
"""Names of what no command may leave."""
_PASSING = re.compile(r"[0-9]+(\.[0-9]+)? (seconds|s)\b")


@dataclass(frozen=True)
class Ended:
    """How a command ended; the code of a killed one is -9."""

    code: int
    seconds: float
    out: str
    err: str
    passed: Mapping[str, int]
    """How often it passed each point of writing; empty of one that was killed."""

    @property
    def lines(self) -> list[str]:
        """What it said on stderr."""
        return [line for line in self.err.splitlines() if line.strip()]


class ForkServer:
    """Runs commands in forks of a process that has imported everything, see `fork_server`."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._temporary = scratch / "tmp"
        self._temporary.mkdir()
        self._begun = 0
        self._places: dict[int, str] = {}
        self._learnt: list[str] = []
        self.seconds: dict[str, float] = {}
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1", "TMPDIR": str(self._temporary),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }  # fmt: skip
        environment.pop(FAIL_AT, None)
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "fork_server.py")], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def begin(self, argv: Sequence[str], cwd: Path, *, fail_at: str | None = None, limit: int | None = None) -> int:
        """Begin a command; return its number, for `wait`."""
        self._begun += 1
        out = str(self._scratch / f"command-{self._begun}")
        environment = {"MERGE_ADVISOR_CACHE": str(cwd / "cache")} | ({} if fail_at is None else {FAIL_AT: fail_at})
        request = {"argv": list(argv), "cwd": str(cwd), "env": environment, "out": out, "limit": limit}
        pid = int(self._ask(request)["pid"])
        self._places[pid] = out
        return pid

    def wait(self, pid: int, *, kill_after: float | None = None) -> Ended:
        """Wait for a command, or kill it after so many seconds."""
        answer = self._ask({"pid": pid, "kill_after": kill_after})
        out = Path(self._places.pop(pid))
        texts = [out.with_name(f"{out.name}.{name}") for name in ("stdout", "stderr")]
        told = out.with_name(f"{out.name}.json")
        # one that is killed at its end may have told half
        report = json.loads(told.read_text()) if told.exists() and answer["code"] != -9 else {"passed": {}}
        # one that is killed at once has not begun them
        said, told_wrong = (text.read_text() if text.exists() else "" for text in texts)
        found = Ended(answer["code"], answer["seconds"], said, told_wrong, report["passed"])
        for path in (*texts, told):
            path.unlink(missing_ok=True)
        self._learnt = report.get("modules", [])
        return found

    def run(
        self, argv: Sequence[str], cwd: Path, *, fail_at: str | None = None, limit: int | None = None,
        kill_after: float | None = None,
    ) -> Ended:  # fmt: skip
        """Run a command to its end."""
        return self.wait(self.begin(argv, cwd, fail_at=fail_at, limit=limit), kill_after=kill_after)

    def learn(self, argv: Sequence[str], cwd: Path) -> Ended:
        """Run a command, and import what it imported, so that the next ones need not."""
        found = self.run(argv, cwd, fail_at="")
        self._ask({"modules": self._learnt})
        return found

    def temporary_files(self) -> list[str]:
        """What lies among the temporary files of the commands."""
        return sorted(path.name for path in self._temporary.iterdir())

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server died"
        return dict(json.loads(answer))


@dataclass(frozen=True)
class Command:
    """A command, and what has to be there before it."""

    name: str
    argv: tuple[str, ...]
    after: tuple[str, ...] = ()
    """Names of the commands that make what it needs."""
    twice: int | None = None
    """Exit code where it is called once more after it has ended well; None: 0."""
    twice_says: str = "is there already"
    """What it says then, where that is a refusal."""
    briefly: bool = False
    """Whether fewer of its points are walked and fewer disks tried: others write most of what it writes, too."""
    spoilt: str = ""
    """A file that is emptied before it."""
    kept: tuple[str, ...] = field(default=())
    """What may be left in the working folder of one that was killed and called again, beside what an undisturbed one
    leaves."""


_THREADS = ("--threads", "1")
_MODELS = ("--base", "base", "--pool", "adapters", *_THREADS)
_LORA = ("--lora-rank", "2", "--lora-epochs", "1", "--shots", "4", "--tuning", "4", "--heldout", "6")
_CHOICE = ("--strategy", "top_k", "--k", "2")
_PLAN = ("plan", "--task", "examples.jsonl", "--out", "run", *_MODELS, *_LORA, *_CHOICE)
_MERGE = ("merge", "run", "--out")
_HUB = ("--hub", "hub")
_ADD = ("hub", "add", "adapters", "--base", "base", *_HUB, *_THREADS)
_GATE = ("gate", "--base", "base", "--task", "examples.jsonl", *_HUB, *_THREADS)
_PAIR = ("adapters/a0", "--baseline", "adapters/b0", "--margin", "95", "--min-rows", "10")
_CARD = ("card", "run", "--out", "CARD.md", "--licence", "mit")
COMMANDS = {
    command.name: command
    for command in (
        Command("init", ("init", "--demo"), twice=2),
        Command("embed", ("embed", "--out", "deltas.npz", *_MODELS)),
        Command("plan", (*_PLAN, "--adaptation", "continue:folds=2"), twice=2),
        Command("plan-unscored", (*_PLAN, "--adaptation", "none", "--no-score"), twice=2),
        Command("plan-force", (*_PLAN, "--adaptation", "none", "--force"), after=("plan-unscored",)),
        Command("score", ("score", "run", *_THREADS), after=("plan-unscored",)),
        Command("tune", ("tune", "run", "--trials", "6", *_THREADS), after=("plan",)),
        Command("merge", (*_MERGE, "model", *_THREADS), after=("plan-unscored",), twice=2),
        Command("adapter", (*_MERGE, "lora", "--adapter", *_THREADS), after=("plan-unscored",), twice=2),
        Command("bench", ("bench", "setup.yaml", "--out", "results", *_MODELS)),
        Command("card", (*_CARD, "--base-model", "org/base", "--offline"), after=("plan-unscored",)),
        Command("hub-add-first", (*_ADD, "--include", "b*"), briefly=True),
        Command("hub-add", _ADD, after=("hub-add-first",), briefly=True),
        Command("hub-add-run", ("hub", "add-run", "run", *_HUB), after=("plan", "hub-add-first"), briefly=True),
        Command(
            "hub-remove", ("hub", "remove", "b0", *_HUB), after=("hub-add-first",), twice=2,
            twice_says="has no model 'b0'", briefly=True,
        ),
        Command(
            "hub-repair", ("hub", "check", "--repair", *_HUB), after=("hub-remove",), spoilt="hub/vectors/1/rows",
            briefly=True,
        ),
        Command("hub-export", ("hub", "export", "hub.parquet", *_HUB), after=("hub-add-first",), briefly=True),
        Command(
            "gate", (*_GATE, *_PAIR, "--junit", "gate.xml", "--summary", "gate.md"), after=("hub-add-first",),
            briefly=True,
        ),
        Command(
            "gate-watch", (*_GATE, "--watch", "few", "--once", "--judge-known"), after=("hub-add-first",),
            briefly=True,
        ),
        Command("explore-export", ("explore", "--export", "map.html", *_HUB), after=("hub-add-first",), briefly=True),
        Command("convert", ("convert", "pickles", "--out", "converted"), twice=2),
    )
}  # fmt: skip
"""The commands that write. Their models are tiny, and their rows few."""
BENCH = {
    "arms": [{"name": "nearest", "strategy": "top_k"}, {"name": "random", "strategy": "random", "match": "nearest"}],
    "primary": {"better": "nearest", "than": "random", "k": 2},
    "controls": ["base", "shots_lora", "best-single-oracle"],
    "draws": {"shots": 1, "selections": 1},
}  # fmt: skip


class FaultWorld:
    """A folder with models, rows and a setup, copied anew for every command that is disturbed."""

    def __init__(self, folder: Path, server: ForkServer, base: Path, pool: Path) -> None:
        self.folder, self.server = folder, server
        self._count = 0
        fresh = folder / "fresh"
        fresh.mkdir(parents=True)
        (fresh / "base").symlink_to(base)
        (fresh / "adapters").symlink_to(pool)
        write_answered_rows(fresh, folder / "answers")
        write_world(fresh, **BENCH)
        write_pickles(fresh / "pickles", pool)
        for name in ("a0", "b0"):
            shutil.copytree(pool / name, fresh / "few" / name)
        self._before: dict[tuple[str, ...], Path] = {(): fresh}
        self._undisturbed: dict[str, tuple[Path, Ended]] = {}
        self._wanted: dict[str, dict[str, str]] = {}

    def place(self, command: Command) -> Path:
        """A new folder with what a command needs, and nothing of it done."""
        self._count += 1
        place = shutil.copytree(
            self._prepared(command.after), self.folder / f"{command.name}-{self._count}", symlinks=True
        )
        if command.spoilt:
            (place / command.spoilt).write_bytes(b"")
        return place

    def _prepared(self, after: tuple[str, ...]) -> Path:
        if after not in self._before:
            *earlier, last = after
            before = COMMANDS[last]
            place = shutil.copytree(
                self._prepared((*earlier, *before.after)), self.folder / f"after-{'-'.join(after)}", symlinks=True
            )
            found = self.server.learn(before.argv, place)
            assert found.code == 0, found.err
            self._before[after] = place
        return self._before[after]

    def undisturbed(self, command: Command) -> tuple[Path, Ended]:
        """The folder of a command that nothing disturbed, and how it ended; points were counted."""
        if command.name not in self._undisturbed:
            place = self.place(command)
            found = self.server.learn(command.argv, place)
            assert found.code == 0, found.err
            self._undisturbed[command.name] = place, found
        return self._undisturbed[command.name]

    def differences(self, command: Command, place: Path) -> list[str]:
        """The files that are not as an undisturbed command leaves them.

        A command that refuses early does not open the store, whose log is a part of it until the next one does.
        """
        if (store := place / "cache" / "store.sqlite").exists():
            Store(store).close()
        if (place / "hub").exists():
            Hub.open(place / "hub").close()
        if command.name not in self._wanted:
            self._wanted[command.name] = snapshot(self.undisturbed(command)[0])
        wanted, found = self._wanted[command.name], snapshot(place)
        return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]

    def check_again(self, command: Command, place: Path) -> str:
        """Run a command that was disturbed once more; return what is wrong then, "" where all is as undisturbed."""
        again = self.server.run(command.argv, place)
        if TRACEBACK in again.err:
            return f"a traceback at the last call: {again.err}"
        if again.code not in (0, command.twice or 0):
            return f"exit code {again.code} at the last call: {again.err}"
        if differing := self.differences(command, place):
            return f"differs in {differing}"
        if again.code and again.code == command.twice and command.twice_says not in again.err:
            return f"refused, but not for being there: {again.err}"
        left = leftovers(place) + self.server.temporary_files()
        return f"left {left}" if left else ""


def write_answered_rows(folder: Path, cache: Path) -> None:
    """Write rows that a merge of two adapters of a folder's pool answers, so that a plan finds one."""
    with open_session(str(folder / "base"), folder / "adapters", cache=cache, machine=Machine(threads=1)) as session:
        known = {candidate.id: candidate for candidate in session.pool.candidates}
        merge, prompt = WeightedMerge(((known["a0"], 1.0), (known["a1"], 1.0))), session.model.template.prompt
        inputs = [f"say {number} now" for number in range(40)]

        def answers() -> list[str]:
            return [generate(session.model.backbone, prompt(text), max_new_tokens=3) for text in inputs]

        rows = [
            {"input": text, "output": answer}
            for text, answer in zip(inputs, session.meter.on_base(merge, answers), strict=True)
            if answer.strip()
        ]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_pickles(folder: Path, pool: Path) -> None:
    """Write two adapters of a pool as the pickles that older PEFT wrote."""
    import torch
    from safetensors.torch import load_file

    for name in ("a0", "b0"):
        (folder / name).mkdir(parents=True)
        torch.save(load_file(pool / name / "adapter_model.safetensors"), folder / name / "adapter_model.bin")
        shutil.copyfile(pool / name / "adapter_config.json", folder / name / "adapter_config.json")


def leftovers(folder: Path) -> list[str]:
    """Names below a folder that no command may leave."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if LEFTOVER.fullmatch(path.name) and not path.is_symlink()
    )


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder by name, as a digest of what it says; what depends on the time is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and not name.startswith(("base/", "adapters/")):
            found[name] = hashlib.sha256(repr(_content(path)).encode()).hexdigest()
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".sqlite":
        return _rows(path)
    data = path.read_bytes()
    if path.name == "plan.json":
        plan = json.loads(data)
        del plan["environment"]
        return plan
    if path.name == "cost.txt":  # of the time and the machine from beginning to end
        return ""
    if path.name == "log.jsonl":
        return [_decided(line) for line in data.decode().splitlines()]
    if path.name in ("report.md", "report.html", "gate.md"):
        return "\n".join(line for line in data.decode().splitlines() if not _of_time(line))
    if path.name == "results.csv":
        names, *rows = csv.reader(data.decode().splitlines())
        return [dict(zip(names, row, strict=True)) | {"seconds": ""} for row in rows]
    return data


def _of_time(line: str) -> bool:
    return bool(_PASSING.search(line)) or "store" in line.lower() or "UTC" in line


def _rows(path: Path) -> dict[str, Any]:
    """What stands in the tables of an SQLite file. Of a study that is the records of its finished trials, in order."""
    if path.with_name(f"{path.name}-wal").exists():
        return {"unfinished": True}
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as file:
        names = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        if "trial_user_attributes" in names:
            kept = file.execute(
                "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) "
                "WHERE state IN ('COMPLETE', 'PRUNED') ORDER BY trial_id"
            )
            return {"trials": kept.fetchall()}
        tables = {name: sorted(file.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}
        if path.name == "catalogue.sqlite":
            return {name: _of_catalogue(file, name) for name in names if not name.startswith("texts_")}
    if path.name == "watch.sqlite":
        return {**tables, "lines": [_decided(line) for _, line, _ in tables["lines"]]}
    if path.name == "results.sqlite":
        tables["results"] = [_timeless(row) for row in tables["results"]]
    if "measured" in tables:  # what scoring a model took stands beside its score
        times = {digest_of(["seconds", name]) for name, *_ in tables["measured"]}
        tables["measured"] = [row for row in tables["measured"] if row[0] not in times]
    if "hashes" in tables:  # keyed by path and time of a file: by name of the file here
        tables["hashes"] = sorted({value for _, value, *_ in tables["hashes"]})
    return tables


def _decided(line: str) -> dict[str, Any]:
    """A decision on a watched pool, without what depends on the time and on what was in the store."""
    passing = ("at", "seconds", "measured", "forwards", "peak_bytes", "all_candidates_seconds")
    return {name: value for name, value in json.loads(line).items() if name not in passing}


def _of_catalogue(file: sqlite3.Connection, table: str) -> list[Any]:
    """The rows of a table of a hub's catalogue, without times, and without where things are.

    Of gates each call is one, so that one which was killed at its end is there twice: they are a set.
    """
    found = file.execute(f"SELECT * FROM {table}")
    passing = ("added", "checksum", "place", "folder", "cost", *(("number", "id") if table == "judged" else ()))
    kept = [at for at, (name, *_) in enumerate(found.description) if name not in passing]
    rows = [tuple(row[at] for at in kept) for row in found]
    return sorted(set(rows) if table == "judged" else rows, key=repr)


def _timeless(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of a ledger without its seconds and its checksum."""
    result = json.loads(row[-2])
    result.pop("seconds", None)
    return (*row[:-2], json.dumps(result, sort_keys=True))
