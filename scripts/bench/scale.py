"""What embedding and searching a pool costs, from measured constants, beside measured runs of 100 and 1,000 adapters.

python scripts/bench/scale.py --base BASE --pool POOL --work DIR [--counts 100 1000] [--few 20]
python scripts/bench/scale.py --mixes POOL OTHER_POOL --work DIR --counts 1000

Constants are measured on `--few` adapters, one step at a time; the model predicts whole runs from them, and whole runs
of each count are then measured: opening and embedding a pool with an empty cache, the same with everything stored, and
a search over all deltas. Adapters beyond those of POOL are copies of them, each scaled by a factor of its own. Last
comes a table for models of 8 billion parameters, whose assumptions stand below it. docs/scale.md says what follows.

With `--mixes` it makes a pool of adapters that all differ, and ends; `scripts/bench/memory.py` measures such a pool.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import random
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from merge_advisor import embed
from merge_advisor.advisor import Machine
from merge_advisor.advisor.measuring.deltas import cosine, embedding_space
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.backbone.place import placed
from merge_advisor.embeddings import PROBES
from merge_advisor.embeddings.activations import DeltaActivations
from merge_advisor.store import Store
from merge_advisor.weights.opened import read_candidate

WEIGHTS = "adapter_model.safetensors"
CLOCK = time.process_time
"""Seconds of the processor: with one thread, on a machine that does other things too, those of the wall say less."""


@dataclass(frozen=True)
class Constants:
    """Seconds and bytes of one step, on this machine."""

    parameters: int
    """Of the base."""
    tokens: int
    """Of the probes."""
    dimensions: int
    """Of a delta."""
    adapter_bytes: float
    load_base: float
    """Seconds to open a session and load the base."""
    open_adapter: float
    """Seconds to find, hash and check one adapter that is not known."""
    known_adapter: float
    """Seconds of the same for one whose hashes are stored."""
    read_adapter: float
    """Seconds to read its factors."""
    embed_adapter: float
    """Seconds of placing it, the forward of the probes, and taking it off."""
    forward: float
    """Seconds of the forward of the probes alone."""
    keep_delta: float
    """Seconds to store a delta."""
    find_delta: float
    """Seconds to read one back."""
    search_delta: float
    """Seconds a vector of one search over many: cosines and order."""
    open_byte: float
    """Seconds of hashing and checking a byte more of an adapter."""
    read_byte: float
    """Seconds of reading one."""
    stored_bytes: float
    """Of the store's file for each delta, its hashes counted."""

    def embedding(self, count: int) -> float:
        """Seconds of a run that embeds so many adapters, with an empty cache."""
        each = self.open_adapter + self.read_adapter + self.embed_adapter + self.keep_delta
        return self.load_base + count * each

    def again(self, count: int) -> float:
        """Seconds of the same run when everything is stored."""
        return count * (self.known_adapter + self.find_delta)


def timed(act: Callable[[], Any], rounds: int = 3) -> float:
    """Median seconds of an act."""
    seconds = []
    for _ in range(rounds):
        start = CLOCK()
        act()
        seconds.append(CLOCK() - start)
    return statistics.median(seconds)


def make_pool(source: Path, out: Path, count: int, *, wider: int = 1) -> Path:
    """A pool of so many adapters: those there are, then scaled copies; the factors repeated for a larger rank."""
    folders = [path for path in sorted(source.iterdir()) if (path / "adapter_config.json").is_file()]
    out.mkdir(parents=True)
    for number in range(count):
        folder = folders[number % len(folders)]
        target = out / f"m{number:05}"
        target.mkdir()
        config = json.loads((folder / "adapter_config.json").read_text())
        config |= {"r": config["r"] * wider, "lora_alpha": config["lora_alpha"] * wider}
        (target / "adapter_config.json").write_text(json.dumps(config))
        factor = np.float32(1.0 + number // len(folders) / 64)
        with safe_open(folder / WEIGHTS, "np") as file:
            scaled = {name: file.get_tensor(name) * (factor if "lora_B" in name else 1) for name in file.keys()}  # noqa: SIM118
        repeated = {
            name: np.concatenate([tensor] * wider, axis=0 if "lora_A" in name else 1).astype(np.float32)
            for name, tensor in scaled.items()
        }
        save_file(repeated, target / WEIGHTS)
    return out


def make_mixes(sources: Sequence[Path], out: Path, count: int, seed: int = 0) -> Path:
    """A pool of so many different adapters, each the weighted sum of two of those there are.

    Number n takes the n-th pair of a shuffled list of all pairs and two weights drawn from 0.2 to 1.2. The sum is exact
    but for float16: factors one below the other and side by side, the rank that of both together, `lora_alpha / r` of
    each in its factors.

    Args:
        sources: folders of adapters of one base that change the same modules.
        out: folder to make.
        count: how many; there have to be as many pairs.
        seed: of pairs and weights.
    """
    folders = [path for source in sources for path in sorted(source.iterdir()) if (path / WEIGHTS).is_file()]
    pairs = list(itertools.combinations(folders, 2))
    rng = random.Random(seed)
    rng.shuffle(pairs)
    out.mkdir(parents=True)
    for number, pair in enumerate(pairs[:count]):
        target = out / f"m{number:05}"
        target.mkdir()
        configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in pair]
        rank = sum(config["r"] for config in configs)
        (target / "adapter_config.json").write_text(json.dumps(configs[0] | {"r": rank, "lora_alpha": rank}))
        scales = [rng.uniform(0.2, 1.2) * config["lora_alpha"] / config["r"] for config in configs]
        factors = []
        for folder, scale in zip(pair, scales, strict=True):
            with safe_open(folder / WEIGHTS, "np") as file:
                read = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
            factors.append({name: tensor * (scale if "lora_B" in name else 1) for name, tensor in read.items()})
        one, other = factors
        if one.keys() != other.keys():
            raise SystemExit(f"{pair[0]} and {pair[1]}: change other modules")
        mixed = {
            name: np.concatenate([one[name], other[name]], axis=0 if "lora_A" in name else 1).astype(np.float16)
            for name in one
        }
        save_file(mixed, target / WEIGHTS)
    return out


def opening_seconds(base: str, pool: Path, cache: Path, machine: Machine) -> tuple[float, float]:
    """Seconds an adapter of opening a pool that is not known, and of reading its factors."""
    count = len(list(pool.iterdir()))
    start = CLOCK()
    with open_session(base, cache=cache, machine=machine):
        empty = CLOCK() - start
    start = CLOCK()
    with open_session(base, pool, cache=cache, machine=machine) as session:
        opened = CLOCK() - start - empty
        local, candidates = session.local, session.pool.candidates
        read = timed(lambda: [dict(read_candidate(one, local)) for one in candidates])
    return opened / count, read / count


def measure(base: str, pool: Path, wide: Path, work: Path, machine: Machine) -> Constants:
    """The constants, from a small pool, and from one of larger adapters for what a byte takes."""
    cache = work / "constants"
    count = len(list(pool.iterdir()))
    with open_session(base, cache=work / "warm", machine=machine) as session:
        _ = session.model.backbone  # what is imported once is no part of a run
    start = CLOCK()
    with open_session(base, cache=cache, machine=machine) as session:
        _ = session.model.backbone
    load_base = CLOCK() - start
    with open_session(base, cache=cache, machine=machine):
        pass
    open_adapter, read_adapter = opening_seconds(base, pool, cache, machine)
    open_wide, read_wide = opening_seconds(base, wide, cache, machine)
    start = CLOCK()
    with open_session(base, cache=cache, machine=machine):
        empty = CLOCK() - start
    start = CLOCK()
    with open_session(base, pool, cache=cache, machine=machine) as session:
        known_adapter = (CLOCK() - start - empty) / count
        local, candidates, backbone = session.local, session.pool.candidates, session.model.backbone
        deltas = [dict(read_candidate(one, local)) for one in candidates]
        embedding = DeltaActivations()
        embedding.features(backbone)
        forward = timed(lambda: embedding.features(backbone), 9)

        def place_all() -> None:
            for delta in deltas:
                with placed(backbone, delta):
                    embedding.features(backbone)

        embed_adapter = timed(place_all) / count
        _, space = embedding_space(session.model, "delta_activations")
        tokens = sum(len(session.model.tokenizer(text)["input_ids"]) for text in PROBES)
        parameters = sum(int(np.prod(place.shape)) for place in local.shapes.places.values())
    vectors = np.random.default_rng(0).normal(size=(4000, space.dim)).astype(np.float32)
    with Store(work / "vectors.sqlite") as store:
        begin = CLOCK()
        for number, vector in enumerate(vectors):
            store.keep_delta(space, f"{number:064}", vector)
        keep_delta = (CLOCK() - begin) / len(vectors)
        begin = CLOCK()
        for number in range(len(vectors)):
            store.delta(space, f"{number:064}")
        find_delta = (CLOCK() - begin) / len(vectors)
    many = np.tile(vectors, (10, 1))
    search_delta = timed(lambda: np.argsort(-cosine(many, vectors[0]), kind="stable")) / len(many)
    (work / "vectors.sqlite").unlink()
    size, large_size = (statistics.mean((one / WEIGHTS).stat().st_size for one in of.iterdir()) for of in (pool, wide))
    open_byte, read_byte = (
        (of_wide - of_small) / (large_size - size)
        for of_wide, of_small in ((open_wide, open_adapter), (read_wide, read_adapter))
    )
    return Constants(
        parameters, tokens, space.dim, size, load_base, open_adapter, known_adapter, read_adapter, embed_adapter,
        forward, keep_delta, find_delta, search_delta, open_byte, read_byte, 0.0,
    )  # fmt: skip


def whole_run(base: str, pool: Path, work: Path, machine: Machine) -> tuple[float, float, float]:
    """Seconds of embedding a pool with an empty cache and with a full one, and bytes of the store for each adapter."""
    cache = work / f"run-{pool.name}"
    seconds = []
    for _ in range(2):
        start = CLOCK()
        made = embed(pool=pool, base=base, cache=cache, machine=machine)
        seconds.append(CLOCK() - start)
    stored = (cache / "store.sqlite").stat().st_size / len(made.ids)
    shutil.rmtree(cache)
    return seconds[0], seconds[1], stored


# ---- models of 8 billion parameters: all that is not measured here

LARGE = 8.03e9
"""Parameters of Llama 3.1 8B, by its model card."""
LARGE_DIM = 4096
"""Its hidden size, by its configuration."""
LARGE_ADAPTER = 2 * 16 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
"""Bytes of a bfloat16 LoRA of rank 16 on all linear layers of its 32 blocks: 2 · r · blocks · Σ (in + out)."""
PEAK = 989e12
"""Products and sums a second of an H100 SXM in bfloat16 without sparsity, by NVIDIA's data sheet."""
USED = 0.3
"""Share of that which the forward of a batch of probes reaches: an assumption."""
READ = 2e9
"""Bytes a second that a GPU's adapters come from disk at: an assumption, of about one NVMe disk for each GPU."""
MEMORY = 50e9
"""Bytes a second that a search reads from memory: an assumption, of a quarter of a server's sockets."""


def large(constants: Constants, count: int, gpus: int) -> dict[str, float]:
    """Seconds and bytes of so many models of 8 billion parameters."""
    tokens = constants.tokens
    forward = 2 * LARGE * tokens / (PEAK * USED)
    more = LARGE_ADAPTER - constants.adapter_bytes
    opened = constants.open_adapter + constants.open_byte * more
    read = LARGE_ADAPTER / READ + constants.read_adapter + constants.read_byte * more
    return {
        "deltas": count * (constants.stored_bytes - 4 * constants.dimensions + 4 * LARGE_DIM),
        "adapters": count * LARGE_ADAPTER,
        "forwards": count * len(PROBES),
        "forward": count * forward / gpus,
        "read": count * read / gpus,
        "opened": count * opened,  # by the process that was called, alone
        "kept": count * constants.keep_delta,
        "found": count * constants.find_delta,
        "searched": count * 4 * LARGE_DIM / MEMORY,
    }


def told(seconds: float) -> str:
    """A duration as people say it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def main() -> None:
    """Measure, predict, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base")
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder to fill, which is not there yet")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--few", type=int, default=20, help="adapters that the constants are measured on")
    parser.add_argument("--mixes", type=Path, nargs="+", metavar="POOL", help="make a pool of mixed adapters in --work")
    arguments = parser.parse_args()
    if arguments.mixes:
        make_mixes(arguments.mixes, arguments.work, max(arguments.counts))
        return
    if arguments.base is None or arguments.pool is None:
        parser.error("name --base and --pool")
    work, machine = arguments.work, Machine(device="cpu", dtype="float32", threads=1)
    work.mkdir(parents=True)
    few = make_pool(arguments.pool, work / "few", arguments.few)
    wide = make_pool(arguments.pool, work / "wide", arguments.few, wider=8)
    constants = measure(arguments.base, few, wide, work, machine)
    shutil.rmtree(wide)
    print(f"{datetime.date.today()}, {platform.machine()}, one thread, seconds of the processor")
    stored = 0.0
    for count in arguments.counts:
        pool = make_pool(arguments.pool, work / f"pool-{count}", count)
        first, again, stored = whole_run(arguments.base, pool, work, machine)
        shutil.rmtree(pool)
        for what, seconds, model in (
            ("embedded", first, constants.embedding(count)), ("known", again, constants.again(count)),
        ):  # fmt: skip
            print(f"{count} adapters {what}: measured {seconds:.2f} s, predicted {model:.2f} s, {model / seconds:.2f}x")
    constants = Constants(**{**asdict(constants), "stored_bytes": stored})
    print(json.dumps({name: float(f"{value:.4g}") for name, value in asdict(constants).items()}, indent=1))
    print(f"forward: {constants.forward / constants.tokens / constants.parameters:.3g} s a token and parameter")
    print(f"\n8 billion parameters, rank 16 on all linear layers ({LARGE_ADAPTER / 1e6:.0f} MB an adapter)")
    for count in (10_000, 1_000_000, 10_000_000):
        for gpus in (1, 8, 64):
            cost = large(constants, count, gpus)
            times = ", ".join(f"{name} {told(cost[name])}" for name in ("forward", "read"))
            print(f"{count:>9} models, {gpus:>2} GPUs: {times}")
        once = ", ".join(f"{name} {told(cost[name])}" for name in ("opened", "kept", "found", "searched"))
        sizes = f"deltas {cost['deltas'] / 1e9:.2f} GB, adapters {cost['adapters'] / 1e12:.2f} TB"
        print(f"{count:>9} models: {once}; {sizes}, {cost['forwards']:.3g} forwards")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
