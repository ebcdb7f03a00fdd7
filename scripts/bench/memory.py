"""Peak memory and seconds of `embed` and `plan` by the size of pool and task, as whole processes.

    PYTHONPATH=. python scripts/bench/memory.py --adapters 100 1000 --rows 1000 10000 [--base BASE] [--pool POOL]

Makes random adapters of the base's attention (rank 4) and rows, in a scratch folder; without --base of the tests' tiny
Llama; with --pool that pool is measured instead. Each command runs twice, with nothing stored and with everything
stored. The memory is the process's own peak (ru_maxrss), then the peak of what is its alone (looked at every 0.2 s
where the system says it): without files that are mapped, as weights of a base are, which the system takes back where it
needs the room. Beside it stands that of importing torch, transformers and peft. CPU seconds stand beside those of the
clock, since other processes change them little. `--peft N`: CPU seconds of a plain PEFT loop over the first N adapters,
which a stored pool is compared with.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ADVISOR = [sys.executable, "-m", "merge_advisor"]
IMPORTS = [sys.executable, "-c", "import torch, transformers, peft; from transformers import AutoModelForCausalLM"]
TINY = (
    "import sys; from pathlib import Path; from tests.support.models import build_llama; build_llama(Path(sys.argv[1]))"
)
PEFT_LOOP = """
import sys, time
from pathlib import Path
from merge_advisor.backbone.model import load_backbone
from scripts.bench.embedding_speed import by_peft
base, pool, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
folders = sorted(path.parent for path in pool.glob("*/adapter_config.json"))[:count]
backbone = load_backbone(Path(base))
by_peft(backbone, folders[0])
begun = time.process_time()
for folder in folders:
    by_peft(backbone, folder)
print((time.process_time() - begun) / len(folders))
"""


def private_mb(process: int) -> float:
    """Return the MB that are a process's alone; 0 where it is gone, or the system does not say."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def measured(command: Sequence[str], log: Path) -> tuple[float, float, float, float]:
    """Return wall seconds, CPU seconds, peak MB and peak MB of its own of a process."""
    begun, private = time.perf_counter(), 0.0
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            private = max(private, private_mb(process.pid))
            time.sleep(0.2)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):  # 3: models of the pool were set aside
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, private


def make_pool(folder: Path, base: Path, count: int, rank: int = 4) -> None:
    """Write random adapters of the base's q_proj and v_proj; those that are there stay."""
    from safetensors.numpy import save_file

    from merge_advisor.weights.tensorfile import open_folder

    shapes = {name: info.shape for name, (_, info) in open_folder(base).items()}
    changed = [name.removesuffix(".weight") for name in shapes if name.endswith(("q_proj.weight", "v_proj.weight"))]
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base.name, "r": rank,
        "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none",
    }  # fmt: skip
    for number in range(count):
        place = folder / f"a{number:05d}"
        if place.is_dir():
            continue
        place.mkdir(parents=True)
        rng = np.random.default_rng(number)
        tensors = {}
        for name in changed:
            out, width = shapes[f"{name}.weight"]
            for side, shape in (("A", (rank, width)), ("B", (out, rank))):
                tensors[f"base_model.model.{name}.lora_{side}.weight"] = rng.normal(0, 0.02, shape).astype(np.float32)
        save_file(tensors, place / "adapter_model.safetensors")
        (place / "adapter_config.json").write_text(json.dumps(config))


def make_rows(path: Path, count: int, words: int) -> None:
    """Write rows of about so many words."""
    rng = np.random.default_rng(0)
    with path.open("w") as stream:
        for number in range(count):
            text = " ".join(map(str, rng.integers(0, 1000, words)))
            stream.write(json.dumps({"input": f"say {number} after {text}", "output": f"{number} {number % 7}"}) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--adapters", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--scored", action="store_true", help="plan with scores")
    parser.add_argument("--peft", type=int, default=0, metavar="N")
    parser.add_argument("--option", nargs="*", default=[], help="further options of plan, e.g. adaptation=none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = arguments.base
        if base is None:
            base = folder / "tiny-llama"
            subprocess.run([sys.executable, "-c", TINY, str(base)], check=True)  # its memory is not to count as ours
        print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, base {base.name}\n")
        print("| adapters | rows | process | seconds | CPU s | peak MB | its own | above the imports |")
        print("|---|---|---|---|---|---|---|---|")
        wall, spent, imports, own = measured(IMPORTS, folder / "log")
        print(f"| | | importing torch, transformers, peft | {wall:.1f} | {spent:.1f} | {imports:.0f} | {own:.0f} | |",
              flush=True)  # fmt: skip
        for count in arguments.adapters if arguments.pool is None else [0]:
            pool = arguments.pool or folder / f"pool-{count}"
            if arguments.pool is None:
                make_pool(pool, base, count)
            measure(folder, base, pool, arguments, imports)


def measure(folder: Path, base: Path, pool: Path, arguments: argparse.Namespace, imports: float) -> None:
    """Print the lines of one pool."""
    count = sum(1 for _ in pool.glob("*/adapter_config.json"))
    places = ["--base", str(base), "--pool", str(pool), "--cache", str(folder / f"cache-{count}"), "--quiet"]
    extra = [part for text in arguments.option for part in (f"--{text.partition('=')[0]}", text.partition("=")[2])]

    def line(rows: int | str, what: str, command: Sequence[str]) -> float:
        wall, spent, peak, own = measured(command, folder / "log")
        numbers = f"{wall:.2f} | {spent:.2f} | {peak:.0f} | {own:.0f} | {peak - imports:.0f}"
        print(f"| {count} | {rows} | {what} | {numbers} |", flush=True)
        return spent

    embed = [*ADVISOR, "embed", *places, "--out", str(folder / "deltas.npz")]
    line("", "`embed`, nothing stored", embed)
    stored = line("", "`embed`, all stored", embed)
    if arguments.peft:
        command = [sys.executable, "-c", PEFT_LOOP, str(base), str(pool), str(arguments.peft)]
        each = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        ratio = stored / (each * count)
        print(f"| {count} | | plain PEFT loop, {each:.3f} CPU s an adapter ({arguments.peft} of them): the stored pool "
              f"takes {ratio:.4f} of its CPU time | | {each * count:.1f} | | | |", flush=True)  # fmt: skip
    for rows in arguments.rows:
        task = folder / f"rows-{rows}.jsonl"
        make_rows(task, rows, arguments.words)
        plan = [*ADVISOR, "plan", "--task", str(task), *places, "--out", str(folder / "run"), "--force", *extra]
        plan += [] if arguments.scored else ["--no-score"]
        said = "`plan`" if arguments.scored else "`plan --no-score`"
        line(rows, f"{said}, deltas stored", plan)
        line(rows, f"{said}, all stored", plan)


if __name__ == "__main__":
    main()
