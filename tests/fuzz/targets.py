"""What each kind of input is: how a case is made, the command that reads it, and what to look at afterwards."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import mutators, seeds
from tests.fuzz.checks import Case, Check, check_answers, check_deltas, check_pool, check_recipe, check_rows, check_run
from tests.fuzz.kept_targets import (
    make_hub,
    make_ledger,
    make_run_file,
    make_store,
    make_study,
    make_watch,
)
from tests.fuzz.pool_targets import (
    make_adapter_config,
    make_adapter_weights,
    make_archive,
    make_card,
    make_checkpoint,
    make_plan,
)
from tests.fuzz.sources import CONFIG_KEYS, MODEL, PLAN, json_of_world, of_world

_BAD_INPUT = frozenset({0, 2, 3})


@dataclass(frozen=True)
class Target:
    """A kind of input."""

    make: Callable[[Random, Path], Case]
    """Takes chance and the world."""
    batch: int = 800
    """Cases of a process."""
    together: int = 1
    """Cases that share a command: models of one pool."""
    codes: Collection[int] = _BAD_INPUT
    check: Check | None = None
    copied: tuple[str, ...] = ()
    """Folders of the world that the command may change."""
    kept: bool = True
    """Whether the input has to be afterwards what it was before; not of a store, which the command writes to."""
    weight: float = 1.0
    """Of its share of the cases of a campaign of all targets."""
    loads: bool = True
    """Whether torch and transformers are imported before the cases are run."""


def _task_bytes(rng: Random) -> tuple[bytes, str]:
    """A task file and its ending."""
    ending = rng.choice((".jsonl",) * 4 + (".json", ".json", ".csv", ".tsv", ".txt", ".jsonl.gz"))
    if rng.random() < 0.15:
        whole = rng.choice(seeds.WHOLE)
        return mutators.json_bytes(whole, rng), rng.choice((".json", ".jsonl"))
    rows = list(seeds.TASKS[rng.choice(list(seeds.TASKS))])
    if rng.random() < 0.6:
        at = rng.randrange(len(rows))
        changed = mutators.mutated_value(rows[at], rng)
        rows = [*rows[:at], changed, *rows[at + 1 :]] if rng.random() < 0.6 else [changed] * rng.choice((1, 2, 8))
        data = seeds.task_file(rows, ending, rng)
    else:
        others = [seeds.jsonl(found) for found in seeds.TASKS.values()]
        data = mutators.mutated_bytes(seeds.task_file(rows, ending, rng), rng, others)
    if ending == ".jsonl.gz":
        data = seeds.packed(data)
        if rng.random() < 0.5:
            data = mutators.mutated_bytes(data, rng)
    return data, ending


def _task(rng: Random, _: Path) -> Case:
    data, ending = _task_bytes(rng)
    name = f"rows{ending}"
    deep = rng.random() < 0.02
    use = rng.random()
    given = ["--task", name] if use < 0.8 else ["--task", "examples.jsonl", rng.choice(("--inputs", "--heldout")), name]
    base = ["--pool", "adapters", "--base", "base" if deep else "absent"]
    words = ["plan", *given, "--dry-run", *base, "--threads", "1"]
    if rng.random() < 0.15:
        words += ["--shots", rng.choice(("1", "2", "3", "0", "999999999999"))]
    if "--inputs" in given:  # what else there is does not read them
        words += ["--adaptation", "coefficients:objective=entropy"]
    if deep:
        words += ["--json"]
    lines = sum(1 for line in data.split(b"\n") if line.strip())
    return Case("tasks", {name: data}, tuple(words), {"lines": lines if ending == ".jsonl" and use < 0.8 else None})


def _map(rng: Random, _: Path) -> Case:
    kind = rng.choice(("plain", "squad", "labels", "letters", "hellaswag", "choices", "mmlu"))
    text = mutators.mutated_bytes(rng.choice(seeds.MAPS).encode(), rng, [m.encode() for m in seeds.MAPS]).decode(
        "utf-8", "surrogateescape"
    )
    data = seeds.jsonl(seeds.TASKS[kind])
    words = [
        "plan",
        "--task",
        "rows.jsonl",
        "--dry-run",
        "--pool",
        "adapters",
        "--base",
        "absent",
        f"--map={text.replace(chr(0), '')[:20000]}",
    ]
    return Case("map", {"rows.jsonl": data}, tuple(words))


def _parquet(rng: Random, _: Path) -> Case:
    import pyarrow
    import pyarrow.parquet

    rows = seeds.TASKS[rng.choice(list(seeds.TASKS))]
    table = pyarrow.Table.from_pylist(rows)
    if rng.random() < 0.4:
        column = pyarrow.array(*rng.choice(_COLUMNS)())
        table = pyarrow.table(
            {"input": [f"a{n}" for n in range(len(column))], rng.choice(("output", "choices", "label", "x")): column}
        )
    stream, compression = io.BytesIO(), rng.choice(("none", "snappy", "gzip"))
    try:
        pyarrow.parquet.write_table(table, stream, compression=compression)
    except pyarrow.ArrowException:  # a column that Parquet has no form for
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream, compression=compression)
    data = stream.getvalue()
    if rng.random() < 0.8:
        data = mutators.mutated_bytes(data, rng)
    words = ["plan", "--task", "rows.parquet", "--dry-run", "--pool", "adapters", "--base", "absent"]
    return Case("parquet", {"rows.parquet": data}, tuple(words))


def _columns() -> tuple[Callable[[], tuple[Any, ...]], ...]:
    def made(values: list[Any], kind: Callable[[Any], Any]) -> Callable[[], tuple[Any, ...]]:
        def column() -> tuple[Any, ...]:
            import pyarrow

            return values, kind(pyarrow)

        return column

    return (
        made([2**62, -(2**62), None], lambda pa: pa.timestamp("ns")), made([2**62, 0, None],
        lambda pa: pa.timestamp("s")),
        made([2**40, -5], lambda pa: pa.date64()), made([2**31 - 1, -(2**31)],
        lambda pa: pa.date32()),
        made([2**50, 0], lambda pa: pa.duration("s")), made([2**62, 1], lambda pa: pa.duration("ns")), made([1, 2],
        lambda pa: pa.time64("ns")),
        made([b"\xff", b"a"], lambda pa: pa.binary()), made(["1", "2"], lambda pa: pa.dictionary(pa.int8(),
        pa.string())),
        made([float("nan"), float("inf"), -0.0], lambda pa: pa.float16()), made([[("a", 1)], [("a", 1), ("a", 2)]],
        lambda pa: pa.map_(pa.string(), pa.int8())),
        made([None, None], lambda pa: pa.null()), made([[["a"]], None, []], lambda pa: pa.list_(pa.list_(pa.string()))),
        made([2**50, 5], lambda pa: pa.timestamp("s", tz="Mars/Phobos")), made([2**62, 5],
        lambda pa: pa.timestamp("us", tz="+99:00")),
    )  # fmt: skip


_COLUMNS = _columns()


def _manifest(rng: Random, _: Path) -> Case:
    if rng.random() < 0.5:
        data = mutators.json_bytes(seeds.MANIFEST, rng, mutators.SCALARS + mutators.YAML_SCALARS)
    else:
        texts = [text.encode() for text in seeds.MANIFESTS]
        data = mutators.mutated_bytes(rng.choice(texts), rng, texts, mutators.SCALARS + mutators.YAML_SCALARS)
    if rng.random() < 0.05:
        return Case("manifests", {"pool.yaml": data}, (*PLAN, "--pool", "pool.yaml", "--base", "base"))
    return Case("manifests", {"pool.yaml": data}, ("bench", "setup.yaml", "--dry-run", "--pool", "pool.yaml"))


def _setup(rng: Random, _: Path) -> Case:
    scalars = mutators.SCALARS + mutators.YAML_SCALARS
    if rng.random() < 0.7:
        data = mutators.json_bytes(rng.choice(seeds.SETUPS), rng, scalars)
    else:
        data = mutators.mutated_bytes(seeds.SETUP_YAML.encode(), rng, [seeds.SETUP_YAML.encode()], scalars)
    return Case("setups", {"own.yaml": data}, ("bench", "own.yaml", "--dry-run"))


def _families(rng: Random, world: Path) -> Case:
    data = mutators.json_bytes(json_of_world(world, "families.json"), rng)
    return Case("families", {"families.json": data}, ("bench", "setup.yaml", "--dry-run"))


def _settings(rng: Random, _: Path) -> Case:
    texts = [text.encode() for text in seeds.SETTINGS]
    text = rng.choice(seeds.SETTINGS)
    if rng.random() < 0.7:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = f"{lines[at].partition(' = ')[0]} = {rng.choice(mutators.TOML_SCALARS + mutators.SCALARS)}"
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
    else:
        data = mutators.mutated_bytes(text.encode(), rng, texts, mutators.TOML_SCALARS)
    words = [
        ["bench", "setup.yaml", "--dry-run"],
        ["plan", "--task", "absent.jsonl", "--dry-run"],
        [*PLAN],
        ["convert", "absent", "--out", "x"],
    ]
    return Case("settings", {"merge-advisor.toml": data}, tuple(rng.choices(words, (3, 5, 1, 1))[0]))


def _base(rng: Random, world: Path) -> Case:
    name = rng.choice(
        (
            "config.json",
            "config.json",
            "config.json",
            "tokenizer_config.json",
            "generation_config.json",
            "tokenizer.json",
        )
    )
    content = json_of_world(world, f"base/{name}")
    if name == "config.json" and rng.random() < 0.3:
        content = content | {rng.choice(CONFIG_KEYS): mutators.any_value(rng)}
    template = rng.choice(("alpaca", "chat"))
    words = (*PLAN, "--pool", "adapters", "--base", "base", "--template", template)
    data = mutators.json_bytes(content, rng)
    return Case("bases", {f"base/{name}": data}, words)


def _base_weights(rng: Random, world: Path) -> Case:
    data = of_world(world, "base/model.safetensors")
    start = 8 + int.from_bytes(data[:8], "little")
    changed, _ = mutators.safetensors_bytes(json.loads(data[8:start]), data[start:], rng)
    return Case("base-weights", {"base/model.safetensors": changed}, (*PLAN, "--pool", "adapters", "--base", "base"))


def _template(rng: Random, _: Path) -> Case:
    texts = [text.encode() for text in seeds.TEMPLATES]
    text = rng.choice(seeds.TEMPLATES)
    if rng.random() < 0.6:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(seeds.TEMPLATE_PARTS) + text[at:]
        data = text.encode("utf-8", "surrogatepass")
    else:
        data = mutators.mutated_bytes(text.encode(), rng, texts)
    return Case(
        "chat-templates",
        {"base/chat_template.jinja": data},
        (*PLAN, "--pool", "adapters", "--base", "base", "--template", "chat"),
    )


TARGETS: dict[str, Target] = {
    "tasks": Target(_task, check=check_rows, weight=40),
    "map": Target(_map, weight=6),
    "parquet": Target(_parquet, batch=400, weight=4),
    "manifests": Target(_manifest, weight=12),
    "setups": Target(_setup, weight=12),
    "families": Target(_families, batch=200, weight=2),
    "settings": Target(_settings, weight=12),
    "adapter-configs": Target(make_adapter_config, batch=2000, together=40, codes={0, 3}, check=check_pool, weight=40),
    "adapter-weights": Target(make_adapter_weights, batch=2000, together=40, codes={0, 3}, check=check_pool, weight=40),
    "cards": Target(make_card, batch=2000, together=40, codes={0, 3}, check=check_pool, weight=20),
    "archives": Target(make_archive, batch=800, together=20, codes={0, 3}, check=check_pool, weight=4),
    "plans": Target(make_plan, batch=80, together=8, codes={0, 3}, check=check_run, weight=0.4),
    "bases": Target(_base, batch=200, weight=1),
    "checkpoints": Target(make_checkpoint, batch=200, together=10, codes={0, 3}, check=check_pool, weight=1),
    "base-weights": Target(_base_weights, batch=200, weight=1),
    "chat-templates": Target(_template, batch=200, weight=1),
    "runs": Target(make_run_file, weight=6),
    "stores": Target(make_store, batch=200, check=check_deltas, kept=False, weight=1),
    "ledgers": Target(make_ledger, batch=20, check=check_answers, copied=("results",), kept=False, weight=0.02),
    "hubs": Target(make_hub, batch=200, copied=("hub",), kept=False, codes={0, 1, 2}, weight=1),
    "watches": Target(make_watch, batch=20, copied=("watched",), kept=False, codes={0, 1, 2, 3, 4}, weight=0.05),
    "studies": Target(make_study, batch=20, check=check_recipe, copied=("tuned",), kept=False, weight=0.05),
}
"""By name."""


def make_case(target: str, seed: int, number: int, world: Path) -> Case:
    """The same case for the same numbers."""
    return TARGETS[target].make(Random(f"{target} {seed} {number}"), world)


def placed(case: Case, number: int) -> dict[str, bytes]:
    """A case's files, those of its own model under the name it has beside others."""
    return {name.replace(MODEL, f"m{number}"): data for name, data in case.files.items()}


def with_file(case: Case, name: str, data: bytes) -> Case:
    """The case with another content of one file."""
    return dataclasses.replace(case, files={**case.files, name: data})
