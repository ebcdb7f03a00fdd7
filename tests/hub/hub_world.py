"""Hubs without models: entries and deltas that nothing was measured for. And what is asked of one with a tiny pool."""

from pathlib import Path
from typing import Any

import numpy as np

from merge_advisor.hub import Hub
from merge_advisor.hub.values import HubAdded, HubEntry
from merge_advisor.spaces import Space
from merge_advisor.types import Base

SPACE = Space("base", "delta_activations", "probes", "last", "last token", "float32", 4)
TIME = "2026-11-29T14:00:00+00:00"
LICENCES = ("apache-2.0", "mit", None, "mit")


def entry_of(number: int, **other: Any) -> HubEntry:
    """An entry that is not kept yet, unlike all of other numbers."""
    values: dict[str, Any] = {
        "fingerprint": f"f{number}", "rank": 4 if number < 2 else 8 * (number - 1), "modules": ("q_proj", "v_proj"),
        "licence": LICENCES[number % 4], "size": 1000 * number, "source": f"s{number}", "card": f"Card of {number}.",
        "languages": ("de", "en") if number % 2 else ("en",), "data_sets": ("squad",) if number == 0 else (),
        "tags": ("lora",), "added": TIME,
    }  # fmt: skip
    return HubEntry(0, (), "base", kind="adapter", **values | other)


def put(hub: Hub, number: int, name: str, delta: Any, space: int = 1) -> int:
    """A new entry of a name, with its delta."""
    entry = hub.catalogue.keep_entry(entry_of(number))
    hub.catalogue.keep_name("base", name, entry, TIME)
    hub.deltas.keep_delta(space, entry, np.asarray(delta, np.float32))
    hub.texts.keep_text(entry)
    return entry


def filled(folder: Path, count: int, space: Space = SPACE, seed: int = 0, index: bool = True) -> Hub:
    """A hub of so many models, `m0` and so on, with random deltas."""
    hub = Hub.open(folder, make=True)
    rng = np.random.default_rng(seed)
    with hub.catalogue.file.transaction():
        hub.catalogue.keep_base(Base("org/base", None, "base", "LlamaForCausalLM"), "org/base")
        number = hub.catalogue.keep_space(space)
        for item in range(count):
            put(hub, item, f"m{item}", rng.normal(size=space.dim), number)
    if index:
        hub.index.bring_up(number, space)
    return hub


def where(folder: Path) -> Any:
    """Where the store of a folder with a hub is."""
    return {"cache": folder / "cache"}


def added(world: Path, **more: Any) -> HubAdded:
    """What came of adding the pool of a folder to its hub."""
    with Hub.open(world / "hub") as hub:
        return hub.add(world / "pool", base=str(world / "base"), **where(world), **more)
