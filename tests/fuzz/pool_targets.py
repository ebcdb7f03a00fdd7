"""Models of a pool that are almost right: adapters, checkpoints, cards, archives; and whole plans of them."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.fuzz import mutators, seeds
from tests.fuzz.checks import Case
from tests.fuzz.sources import CONFIG_KEYS, MODEL, PLAN, POOL, adapter_files, json_of_world, of_world, safetensors_of

_MADE = "made"
"""Run folder of a case that makes one."""


def make_adapter_config(rng: Random, world: Path) -> Case:
    """A case of `adapter_config`."""
    config = json_of_world(world, "adapters/a0/adapter_config.json")
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
    return Case("adapter-configs", adapter_files(world, **{"adapter_config.json": data}), (*PLAN, *POOL, "--json"))


_PATTERNS = (
    "q_proj", "(?i)q_proj", "(?x)q_proj # x", r"\1", r"(q)\1", "(?P<a>q)", "a{99999999999}", "a{1,2}{3}", "[", "(",
    "*", "(?<=a+)b", "q|", ".*", "^q", "$",
    "\\", "(?(1)a|b)", "\ud800", "", "model.layers.0.self_attn.q_proj", "(?a)(?u)x", "a{65536}" * 4,
    "(" * 120 + ")" * 120, "[a-\\d]", "(?#", "\\N{x}", "[[a]&&[b]]",
)  # fmt: skip


def make_adapter_weights(rng: Random, world: Path) -> Case:
    """A case of `adapter_weights`."""
    header, numbers = safetensors_of(world)
    data, only_numbers = mutators.safetensors_bytes(header, numbers, rng)
    files = adapter_files(world, **{"adapter_model.safetensors": data})
    return Case("adapter-weights", files, (*PLAN, *POOL, "--json"), {"other": only_numbers})


def make_card(rng: Random, world: Path) -> Case:
    """A case of `card`."""
    texts = [text.encode() for text in seeds.CARDS]
    data = mutators.mutated_bytes(rng.choice(texts), rng, texts, mutators.SCALARS + mutators.YAML_SCALARS)
    if rng.random() < 0.02:
        data = (
            rng.choice(texts)
            + rng.choice((b" ", b"<!--", b"\n", b"---\n", b"[More", b"\t\n")) * rng.choice((99, 20000, 60000))
            + b"x"
        )
    header, numbers = safetensors_of(world)
    other = mutators.written(header).encode()
    weights = len(other).to_bytes(8, "little") + other + rng.randbytes(2).ljust(4, b"\0") + numbers[4:]
    files = adapter_files(world, **{"README.md": data, "adapter_model.safetensors": weights})
    return Case("cards", files, (*PLAN, *POOL, "--json", *(["--licence", "*"] if rng.random() < 0.2 else [])))


def make_archive(rng: Random, world: Path) -> Case:
    """A case of `archive`."""
    kind = rng.choice((".zip", ".zip", ".tar", ".tar.gz"))
    inside = {name.rpartition("/")[2]: data for name, data in adapter_files(world).items()}
    return Case(
        "archives", {f"pool/{MODEL}{kind}": mutators.archive_bytes(inside, rng, kind)}, (*PLAN, *POOL, "--json")
    )


def make_plan(rng: Random, world: Path) -> Case:
    """A whole plan from a pool with models that are almost right, and a task file of any name."""
    kinds = (make_adapter_config, make_adapter_weights, make_adapter_weights, make_card, make_archive)
    made = rng.choice(kinds)(rng, world)
    ending = rng.choice(_ODD_NAMES) if rng.random() < 0.2 else ""
    files = {name.replace(MODEL, MODEL + ending): data for name, data in made.files.items()}
    # the file's name is of the first of the cases that share a command
    task = f"rows{rng.choice(_ODD_NAMES)}.jsonl"
    words = ("plan", "--task", task, *POOL, "--no-score", "--out", _MADE, "--strategy", "random", "--k", "2")
    words += ("--adaptation", "none", "--lora-steps", "1", "--shots", "8", "--offline", "--threads", "1")
    return Case("plans", files | {task: of_world(world, "examples.jsonl")}, words)


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


def make_checkpoint(rng: Random, world: Path) -> Case:
    """A case of `checkpoint`."""
    content = json_of_world(world, "base/config.json")
    if rng.random() < 0.3:
        content = content | {rng.choice(CONFIG_KEYS): mutators.any_value(rng)}
    files = {
        "config.json": mutators.json_bytes(content, rng),
        "model.safetensors": of_world(world, "base/model.safetensors"),
    }
    return Case("checkpoints", {f"pool/{MODEL}/{name}": data for name, data in files.items()}, (*PLAN, *POOL, "--json"))
