"""What our own commands kept, damaged: run folders, stores, ledgers, studies, hub folders, what a gate watches."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.fuzz import mutators
from tests.fuzz.checks import Case
from tests.fuzz.sources import PLAN, of_world, unchecked_of_world


def make_run_file(rng: Random, world: Path) -> Case:
    """A case of `run_file`."""
    run = rng.choice(("run", "run", "tuned"))
    names = ["plan.json", "plan.json", "recipe.json", "tasks/0.json", "adapter/adapter_config.json"]
    names += ["score/0.json"] if run == "run" else ["tune.json", "plan/recipe.json"]
    name = rng.choice(names)
    if rng.random() < 0.7:
        data = mutators.json_bytes(unchecked_of_world(world, f"{run}/{name}"), rng)
    else:
        data = mutators.mutated_bytes(of_world(world, f"{run}/{name}"), rng)
    card = ["--licence", "mit", "--base-model", "org/base", "--offline"]
    words = [
        ["card", run, *card], ["push", run, "org/name", "--dry-run", *card], ["merge", run, "--out", "model",
        "--adapter", "--offline"],
        ["tune", run, "--dry-run", "--offline"], ["card", run, "--offline", "--json"],
    ]  # fmt: skip
    return Case("runs", {f"{run}/{name}": data}, tuple(rng.choices(words, (6, 4, 1, 1, 3))[0]))


def make_store(rng: Random, world: Path) -> Case:
    """A case of `store`."""
    data = mutators.mutated_bytes(of_world(world, "store.sqlite"), rng)
    if rng.random() < 0.3:
        return Case(
            "stores",
            {"store.sqlite": data},
            ("embed", "--out", "x.npz", "--pool", "adapters", "--base", "base", "--store", "store.sqlite"),
        )
    return Case(
        "stores", {"store.sqlite": data}, (*PLAN, "--pool", "adapters", "--base", "base", "--store", "store.sqlite")
    )


def make_ledger(rng: Random, world: Path) -> Case:
    """A case of `ledger`."""
    data = mutators.mutated_bytes(of_world(world, "results/results.sqlite"), rng)
    words = ("bench", "small.yaml", "--out", "results", "--json", "--threads", "1")
    return Case("ledgers", {"results/results.sqlite": data}, words)


def make_study(rng: Random, world: Path) -> Case:
    """A case of `study`."""
    data = mutators.mutated_bytes(of_world(world, "tuned/study.sqlite"), rng)
    words = ("tune", "tuned", "--trials", "5", "--sampler", "random", "--no-score", "--offline", "--threads", "1")
    return Case("studies", {"tuned/study.sqlite": data}, words)


def make_hub(rng: Random, world: Path) -> Case:
    """A case of `hubs`: catalogue, vectors or their state damaged, read by whatever only reads a hub."""
    names = sorted(path.relative_to(world).as_posix() for path in (world / "hub").rglob("*") if path.is_file())
    name = rng.choice([*names, "hub/catalogue.sqlite", "hub/catalogue.sqlite"])
    data = mutators.mutated_bytes(of_world(world, name), rng)
    words = [
        ["hub", "list"], ["hub", "show", "a0"], ["hub", "check"], ["hub", "search", "--text", "adapter"],
        ["hub", "search", "--like", "a0"], ["hub", "check", "--repair"], ["hub", "remove", "a0"],
    ]  # fmt: skip
    return Case("hubs", {name: data}, (*rng.choice(words), "--hub", "hub"))


def make_watch(rng: Random, world: Path) -> Case:
    """A case of `watches`: what is known of a watched pool, damaged, when the pool is looked at again."""
    data = mutators.mutated_bytes(of_world(world, "watched/watch.sqlite"), rng)
    return Case("watches", {"watched/watch.sqlite": data}, WATCH)


WATCH = (
    "gate", "--watch", "adapters", "--once", "--out", "watched", "--task", "examples.jsonl", "--base", "base",
    "--threads", "1", "--offline",
)  # fmt: skip
"""The command of a watched pool; all its models are known in the world."""
