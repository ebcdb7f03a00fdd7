"""What each kind of input is: how a case is made, the command that reads it, and what to look at afterwards."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import mutators, seeds
from tests.fuzz.checks import Case, Check, check_answers, check_deltas, check_pool, check_recipe, check_rows, check_run
from tests.support.run_files import unchecked

MODEL = "@"
"""Stands for the name of a case's own model in the paths of a case that shares a command with others."""
_BAD_INPUT = frozenset({0, 2, 3})
_MADE = "made"
"""Run folder of a case that makes one."""
_POOL = ["--pool", "pool", "--base", "base"]
_PLAN = ["plan", "--task", "examples.jsonl", "--dry-run", "--offline", "--threads", "1"]


@dataclass(frozen=True)
class Target:
    """A kind of input."""

    make: Callable[[Random, Path], Case]
    """Takes chance and the world."""
    batch: int = 200
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


@functools.cache
def _of_world(world: Path, name: str) -> bytes:
    return (world / name).read_bytes()


@functools.cache
def _json_of_world(world: Path, name: str) -> Any:
    return json.loads(_of_world(world, name))


@functools.cache
def _unchecked_of_world(world: Path, name: str) -> Any:
    return unchecked(world / name)


@functools.cache
def _safetensors(world: Path) -> tuple[Any, bytes]:
    data = _of_world(world, "adapters/a0/adapter_model.safetensors")
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def _adapter(world: Path, **changed: bytes) -> dict[str, bytes]:
    files = {
        name: _of_world(world, f"adapters/a0/{name}") for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    return {f"pool/{MODEL}/{name}": data for name, data in {**files, **changed}.items()}


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
        return Case("manifests", {"pool.yaml": data}, (*_PLAN, "--pool", "pool.yaml", "--base", "base"))
    return Case("manifests", {"pool.yaml": data}, ("bench", "setup.yaml", "--dry-run", "--pool", "pool.yaml"))


def _setup(rng: Random, _: Path) -> Case:
    scalars = mutators.SCALARS + mutators.YAML_SCALARS
    if rng.random() < 0.7:
        data = mutators.json_bytes(rng.choice(seeds.SETUPS), rng, scalars)
    else:
        data = mutators.mutated_bytes(seeds.SETUP_YAML.encode(), rng, [seeds.SETUP_YAML.encode()], scalars)
    return Case("setups", {"own.yaml": data}, ("bench", "own.yaml", "--dry-run"))


def _families(rng: Random, world: Path) -> Case:
    data = mutators.json_bytes(_json_of_world(world, "families.json"), rng)
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
        [*_PLAN],
        ["convert", "absent", "--out", "x"],
    ]
    return Case("settings", {"merge-advisor.toml": data}, tuple(rng.choices(words, (3, 5, 1, 1))[0]))


def _adapter_config(rng: Random, world: Path) -> Case:
    config = _json_of_world(world, "adapters/a0/adapter_config.json")
    if rng.random() < 0.5:
        name = rng.choice(
            (*config, "modules_to_save", "layer_replication", "target_parameters", "lora_bias", "eva_config", "x")
        )
        config = config | {name: mutators.any_value(rng)}
    if rng.random() < 0.15:
        name = rng.choice(("rank_pattern", "alpha_pattern"))
        config = config | {name: {rng.choice(_PATTERNS): rng.choice((1, 2, 4, 8, 1e308, "x"))}}
        data = mutators.written(config).encode("utf-8", "surrogatepass")
    else:
        data = mutators.json_bytes(config, rng)
    return Case("adapter-configs", _adapter(world, **{"adapter_config.json": data}), (*_PLAN, *_POOL, "--json"))


_PATTERNS = (
    "q_proj", "(?i)q_proj", "(?x)q_proj # x", r"\1", r"(q)\1", "(?P<a>q)", "a{99999999999}", "a{1,2}{3}", "[", "(",
    "*", "(?<=a+)b", "q|", ".*", "^q", "$",
    "\\", "(?(1)a|b)", "\ud800", "", "model.layers.0.self_attn.q_proj", "(?a)(?u)x", "a{65536}" * 4,
    "(" * 120 + ")" * 120, "[a-\\d]", "(?#", "\\N{x}", "[[a]&&[b]]",
)  # fmt: skip


def _adapter_weights(rng: Random, world: Path) -> Case:
    header, numbers = _safetensors(world)
    data, only_numbers = mutators.safetensors_bytes(header, numbers, rng)
    files = _adapter(world, **{"adapter_model.safetensors": data})
    return Case("adapter-weights", files, (*_PLAN, *_POOL, "--json"), {"other": only_numbers})


def _card(rng: Random, world: Path) -> Case:
    texts = [text.encode() for text in seeds.CARDS]
    data = mutators.mutated_bytes(rng.choice(texts), rng, texts, mutators.SCALARS + mutators.YAML_SCALARS)
    if rng.random() < 0.02:
        data = (
            rng.choice(texts)
            + rng.choice((b" ", b"<!--", b"\n", b"---\n", b"[More", b"\t\n")) * rng.choice((99, 20000, 60000))
            + b"x"
        )
    header, numbers = _safetensors(world)
    other = mutators.written(header).encode()
    weights = len(other).to_bytes(8, "little") + other + rng.randbytes(2).ljust(4, b"\0") + numbers[4:]
    files = _adapter(world, **{"README.md": data, "adapter_model.safetensors": weights})
    return Case("cards", files, (*_PLAN, *_POOL, "--json", *(["--licence", "*"] if rng.random() < 0.2 else [])))


def _archive(rng: Random, world: Path) -> Case:
    kind = rng.choice((".zip", ".zip", ".tar", ".tar.gz"))
    inside = {name.rpartition("/")[2]: data for name, data in _adapter(world).items()}
    return Case(
        "archives", {f"pool/{MODEL}{kind}": mutators.archive_bytes(inside, rng, kind)}, (*_PLAN, *_POOL, "--json")
    )


def _plan(rng: Random, world: Path) -> Case:
    """A whole plan from a pool with models that are almost right, and a task file of any name."""
    made = rng.choice((_adapter_config, _adapter_weights, _adapter_weights, _card, _archive))(rng, world)
    ending = rng.choice(_ODD_NAMES) if rng.random() < 0.2 else ""
    files = {name.replace(MODEL, MODEL + ending): data for name, data in made.files.items()}
    # the file's name is of the first of the cases that share a command
    task = f"rows{rng.choice(_ODD_NAMES)}.jsonl"
    words = ("plan", "--task", task, *_POOL, "--no-score", "--out", _MADE, "--strategy", "random", "--k", "2")
    words += ("--adaptation", "none", "--lora-steps", "1", "--shots", "8", "--offline", "--threads", "1")
    return Case("plans", files | {task: _of_world(world, "examples.jsonl")}, words)


_ODD_NAMES = (
    "",
    "",
    "\udcff",
    "\u202e",
    "\x1b[31m",
    "\n",
    " ",
    "%",
    "?a#b",
    "é",
    "|",
    "$x",
    "\\",
    "'",
    '"',
    "<b>",
    "{x}",
)
"""What names of files hold that must stay names."""


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
    content = _json_of_world(world, f"base/{name}")
    if name == "config.json" and rng.random() < 0.3:
        content = content | {rng.choice(_CONFIG_KEYS): mutators.any_value(rng)}
    template = rng.choice(("alpaca", "chat"))
    words = (*_PLAN, "--pool", "adapters", "--base", "base", "--template", template)
    data = mutators.json_bytes(content, rng)
    return Case("bases", {f"base/{name}": data}, words)


_CONFIG_KEYS = (
    "rope_scaling", "rope_parameters", "quantization_config", "auto_map", "model_type", "architectures",
    "torch_dtype", "dtype", "text_config",
    "layer_types", "head_dim", "num_key_value_heads", "vocab_size", "eos_token_id", "max_position_embeddings",
    "sliding_window", "id2label",
)  # fmt: skip


def _checkpoint(rng: Random, world: Path) -> Case:
    content = _json_of_world(world, "base/config.json")
    if rng.random() < 0.3:
        content = content | {rng.choice(_CONFIG_KEYS): mutators.any_value(rng)}
    files = {
        "config.json": mutators.json_bytes(content, rng),
        "model.safetensors": _of_world(world, "base/model.safetensors"),
    }
    return Case(
        "checkpoints", {f"pool/{MODEL}/{name}": data for name, data in files.items()}, (*_PLAN, *_POOL, "--json")
    )


def _base_weights(rng: Random, world: Path) -> Case:
    data = _of_world(world, "base/model.safetensors")
    start = 8 + int.from_bytes(data[:8], "little")
    changed, _ = mutators.safetensors_bytes(json.loads(data[8:start]), data[start:], rng)
    return Case("base-weights", {"base/model.safetensors": changed}, (*_PLAN, "--pool", "adapters", "--base", "base"))


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
        (*_PLAN, "--pool", "adapters", "--base", "base", "--template", "chat"),
    )


def _run_file(rng: Random, world: Path) -> Case:
    run = rng.choice(("run", "run", "tuned"))
    names = ["plan.json", "plan.json", "recipe.json", "tasks/0.json", "adapter/adapter_config.json"]
    names += ["score/0.json"] if run == "run" else ["tune.json", "plan/recipe.json"]
    name = rng.choice(names)
    if rng.random() < 0.7:
        # without its checksum, which would tell all: a file of before there were any
        data = mutators.json_bytes(_unchecked_of_world(world, f"{run}/{name}"), rng)
    else:
        data = mutators.mutated_bytes(_of_world(world, f"{run}/{name}"), rng)
    card = ["--licence", "mit", "--base-model", "org/base", "--offline"]
    words = [
        ["card", run, *card], ["push", run, "org/name", "--dry-run", *card], ["merge", run, "--out", "model",
        "--adapter", "--offline"],
        ["tune", run, "--dry-run", "--offline"], ["card", run, "--offline", "--json"],
    ]  # fmt: skip
    return Case("runs", {f"{run}/{name}": data}, tuple(rng.choices(words, (6, 4, 1, 1, 3))[0]))


def _store(rng: Random, world: Path) -> Case:
    data = mutators.mutated_bytes(_of_world(world, "store.sqlite"), rng)
    if rng.random() < 0.3:
        return Case(
            "stores",
            {"store.sqlite": data},
            ("embed", "--out", "x.npz", "--pool", "adapters", "--base", "base", "--store", "store.sqlite"),
        )
    return Case(
        "stores", {"store.sqlite": data}, (*_PLAN, "--pool", "adapters", "--base", "base", "--store", "store.sqlite")
    )


def _ledger(rng: Random, world: Path) -> Case:
    data = mutators.mutated_bytes(_of_world(world, "results/results.sqlite"), rng)
    words = ("bench", "small.yaml", "--out", "results", "--json", "--threads", "1")
    return Case("ledgers", {"results/results.sqlite": data}, words)


def _study(rng: Random, world: Path) -> Case:
    data = mutators.mutated_bytes(_of_world(world, "tuned/study.sqlite"), rng)
    words = ("tune", "tuned", "--trials", "5", "--sampler", "random", "--no-score", "--offline", "--threads", "1")
    return Case("studies", {"tuned/study.sqlite": data}, words)


TARGETS: dict[str, Target] = {
    "tasks": Target(_task, check=check_rows, weight=40),
    "map": Target(_map, weight=6),
    "parquet": Target(_parquet, weight=4),
    "manifests": Target(_manifest, weight=12),
    "setups": Target(_setup, weight=12),
    "families": Target(_families, weight=2),
    "settings": Target(_settings, weight=12),
    "adapter-configs": Target(_adapter_config, batch=800, together=40, codes={0, 3}, check=check_pool, weight=40),
    "adapter-weights": Target(_adapter_weights, batch=800, together=40, codes={0, 3}, check=check_pool, weight=40),
    "cards": Target(_card, batch=800, together=40, codes={0, 3}, check=check_pool, weight=20),
    "archives": Target(_archive, batch=200, together=20, codes={0, 3}, check=check_pool, weight=4),
    "plans": Target(_plan, batch=20, together=8, codes={0, 3}, check=check_run, weight=0.4),
    "bases": Target(_base, batch=50, weight=1),
    "checkpoints": Target(_checkpoint, together=10, codes={0, 3}, check=check_pool, weight=1),
    "base-weights": Target(_base_weights, batch=50, weight=1),
    "chat-templates": Target(_template, batch=50, weight=1),
    "runs": Target(_run_file, weight=6),
    "stores": Target(_store, batch=50, check=check_deltas, kept=False, weight=1),
    "ledgers": Target(_ledger, batch=5, check=check_answers, copied=("results",), kept=False, weight=0.02),
    "studies": Target(_study, batch=10, check=check_recipe, copied=("tuned",), kept=False, weight=0.05),
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
