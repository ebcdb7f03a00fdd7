"""Coverage-guided fuzzing of what parses bytes, in this process: `scripts/fuzz bytes --minutes N [--only NAME,…]`.

Needs atheris (`pip install atheris`), which is no dependency; without it a line says so. Each target of
tests/fuzz/byte_targets.py gets a child process and its share of the time. A finding does not end a target: of each kind
the first input is kept under `--faults`, and `scripts/fuzz bytes --replay NAME FILE` runs it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

PACKAGE = f"{os.sep}merge_advisor{os.sep}"
_SLOWEST = 30
"""Seconds that one input may take."""
_MOST_MEMORY = 3000
"""MiB."""


def main() -> int:
    """Fuzz; returns 1 where there were findings."""
    asked = _asked()
    os.chdir(os.environ.get("MERGE_ADVISOR_FUZZ_FROM", "."))
    if asked.child:
        _child(asked.child, asked.faults.absolute(), asked.work, asked.of_fuzzer)
        return 0
    from tests.fuzz.byte_targets import BYTE_TARGETS, finding_of

    if asked.replay:
        name, file = asked.replay
        with tempfile.TemporaryDirectory() as folder:
            found = finding_of(name, Path(file).read_bytes(), Path(folder))
        print("".join(traceback.format_exception(found)) if found else "no finding")
        return int(found is not None)
    if importlib.util.find_spec("atheris") is None:
        print("skipped: atheris is not installed, which this needs; `pip install atheris` (Python 3.11 to 3.13, Linux)")
        return 0
    names = asked.only.split(",") if asked.only else list(BYTE_TARGETS)
    total = 0
    for name in names:
        total += _fuzzed(name, asked.minutes * 60 / len(names), asked.faults.absolute())
    findings = sorted(asked.faults.glob("*.txt")) if asked.faults.is_dir() else []
    print(f"{total} executions, {len(findings)} kinds of finding")
    return int(bool(findings))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz bytes", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="of all targets together")
    parser.add_argument("--only", help="targets, separated by commas")
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"), help="folder for inputs of findings")
    parser.add_argument("--replay", nargs=2, metavar=("NAME", "FILE"), help="run one input again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("of_fuzzer", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def _fuzzed(name: str, seconds: float, faults: Path) -> int:
    """Run a target in children until its time is over; returns how many inputs were run."""
    from tests.fuzz.byte_targets import BYTE_TARGETS

    end, total, began = time.monotonic() + seconds, 0, time.monotonic()
    # in memory, where there is such a place: each input is a file
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fuzz-bytes-", dir=memory) as temporary:
        corpus, work = Path(temporary) / "corpus", Path(temporary) / "work"
        corpus.mkdir()
        for number, data in enumerate(BYTE_TARGETS[name].begin):
            (corpus / f"begin-{number}").write_bytes(data)
        while (left := round(end - time.monotonic())) > 0:
            words = [
                sys.executable, __file__, "--child", name, "--faults", str(faults), "--work", str(work), "--",
                str(corpus), f"-max_total_time={left}", "-print_final_stats=1", f"-timeout={_SLOWEST}",
                f"-rss_limit_mb={_MOST_MEMORY}", f"-artifact_prefix={temporary}/artifact-", "-max_len=4096",
            ]  # fmt: skip
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            done = subprocess.run(words, capture_output=True, text=True, check=False, errors="replace")
            counts = re.findall(r"number_of_executed_units:\s*(\d+)", done.stderr)
            runs = re.findall(r"^#(\d+)\s", done.stderr, re.MULTILINE)
            total += int(counts[-1]) if counts else int(runs[-1]) if runs else 0
            if done.returncode:
                for artifact in Path(temporary).glob("artifact-*"):
                    _kept(faults, f"{name}-{artifact.name}", artifact.read_bytes(), done.stderr[-4000:])
                    artifact.unlink()
                if not counts and not runs:
                    raise SystemExit(f"{name}: the child ended with {done.returncode}: {done.stderr[-2000:]}")
    per_second = total / max(time.monotonic() - began, 1e-9)
    print(f"{name}: {total} executions, {per_second:.0f} a second", flush=True)
    return total


def _kept(faults: Path, kind: str, data: bytes, seen: str) -> None:
    faults.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", kind)[:120]
    if not (faults / f"{name}.txt").exists():
        (faults / f"{name}.bin").write_bytes(data)
        (faults / f"{name}.txt").write_text(seen)
        print(f"FINDING {name}", flush=True)


def _child(name: str, faults: Path, folder: Path, of_fuzzer: list[str]) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["merge_advisor"]):
        from tests.fuzz.byte_targets import finding_of

    def one(data: bytes) -> None:
        found = finding_of(name, data, folder)
        if found is not None:
            frames = [frame for frame in traceback.extract_tb(found.__traceback__) if PACKAGE in frame.filename]
            place = f"{Path(frames[-1].filename).name}-{frames[-1].name}" if frames else ""
            seen = json.dumps("".join(traceback.format_exception(found))[-3000:])
            _kept(faults, f"{name}-{type(found).__name__}-{place}", data, seen)

    atheris.Setup([sys.argv[0], *of_fuzzer], one)
    atheris.Fuzz()  # ends this process


if __name__ == "__main__":
    sys.exit(main())
