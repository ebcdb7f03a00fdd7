"""Fuzz what the command line reads, in forked processes: `scripts/fuzz TARGET|all`, `scripts/fuzz replay CASE`.

The same target, seed and number is the same case. With `--log FILE` what was run is added to a file, and the next run
with that file goes on behind it: this is how the million of eval/reliability.md is reached. Faults are cut down and
written into `--faults DIR`, from where `scripts/fuzz replay` runs them again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.running import Fuzzer, Outcome, read_case, warm, write_case
from tests.fuzz.targets import TARGETS
from tests.fuzz.world import make_world, settle_environment


def main() -> int:
    """Run cases; returns 1 where there were faults."""
    asked = _asked()
    os.chdir(os.environ.get("MERGE_ADVISOR_FUZZ_FROM", "."))
    settle_environment()
    log = asked.log and asked.log.absolute()
    if asked.target == "table":
        print(table(log))
        return 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        world = asked.world.absolute() if asked.world else Path(temporary) / "world"
        warm(loads=True)
        if not world.is_dir():
            make_world(world)
        fuzzer = Fuzzer(world, Path(temporary) / "scratch")
        if asked.target == "replay":
            return _replay(fuzzer, asked.cases_to_replay)
        fuzzer.practise()
        names = list(TARGETS) if asked.target == "all" else asked.target.split(",")
        return _campaign(fuzzer, names, asked, log)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = ", ".join(TARGETS)
    parser.add_argument("target", help=f"all, replay, table, or some of (with commas): {known}")
    parser.add_argument("cases_to_replay", nargs="*", type=Path, metavar="CASE")
    parser.add_argument("--cases", type=int, help="cases in all (default: until --seconds are over)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="file that what was run is added to; a later run goes on behind it")
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"), help="folder for the cases of faults")
    parser.add_argument("--world", type=Path, help="folder of the models beside the cases, made where it is not there")
    parser.add_argument("--whole", action="store_true", help="do not cut the cases of faults down")
    asked = parser.parse_args()
    named = set(asked.target.split(","))
    if not named <= {"all", "replay", "table", *TARGETS}:
        parser.error(f"no such target; there are all, replay, table, {known}")
    if asked.target == "table" and asked.log is None:
        parser.error("table needs --log FILE")
    return asked


def _replay(fuzzer: Fuzzer, paths: list[Path]) -> int:
    code = 0
    for path in paths:
        outcome = fuzzer.case(read_case(path))
        for kind, found in outcome.found.items():
            code = 1
            print(f"{path.name}: {kind}\n{found.fault.seen}")
        if not outcome.found:
            print(f"{path.name}: no fault (exit codes {outcome.codes})")
    return code


def _campaign(fuzzer: Fuzzer, names: list[str], asked: argparse.Namespace, log: Path | None) -> int:
    """Give each target batches, by weight, until the cases or the seconds are over."""
    end = time.monotonic() + asked.seconds if asked.cases is None else None
    weights = {name: TARGETS[name].weight for name in names}
    next_number = {name: _behind(log, name, asked.seed) for name in names}
    done = dict.fromkeys(names, 0)
    known: set[str] = set()
    while True:
        # the one that is farthest behind its share
        name = min(names, key=lambda name: (done[name] / weights[name], name))
        size = TARGETS[name].batch
        if asked.cases is not None:
            left = asked.cases - sum(done.values())
            if left <= 0:
                break
            size = min(size, left)
        elif end is not None and time.monotonic() > end:
            break
        began, used = time.monotonic(), _processor_seconds()
        first = next_number[name]
        outcome = fuzzer.numbers(name, asked.seed, range(first, first + size))
        next_number[name] += size
        done[name] += size
        seconds = time.monotonic() - began, _processor_seconds() - used
        _log(log, name, asked.seed, first, outcome, seconds)
        for kind, found in outcome.found.items():
            if f"{name} {kind}" in known:
                continue
            known.add(f"{name} {kind}")
            case = found.case if asked.whole else fuzzer.smallest(found.case, kind)
            path = asked.faults / f"{name}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', kind)[:90]}.json"
            write_case(path, case, found.fault)
            print(f"FAULT {name}: {kind} -> {path}", flush=True)
        print(f"{name} {first}+{outcome.cases}: {outcome.codes} {sum(outcome.faults.values())} faults, "
              f"{outcome.cases / max(time.monotonic() - began, 1e-9):.0f} a second", flush=True)  # fmt: skip
    print(f"{sum(done.values())} cases, {len(known)} kinds of fault")
    return 1 if known else 0


def _processor_seconds() -> float:
    """Of this process and those that it waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _log(log: Path | None, name: str, seed: int, first: int, outcome: Outcome, seconds: tuple[float, float]) -> None:
    if log is not None:
        line = {"target": name, "seed": seed, "from": first, "cases": outcome.cases, "commands": outcome.commands,
                "codes": outcome.codes, "faults": outcome.faults,
                "seconds": round(seconds[0], 2), "processor": round(seconds[1], 2)}  # fmt: skip
        with log.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def _lines(log: Path | None) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log is not None and log.exists() else []


def _behind(log: Path | None, name: str, seed: int) -> int:
    """The first number of a target that was not run yet."""
    ends = [
        int(str(line["from"])) + int(str(line["cases"]))
        for line in _lines(log)
        if (line["target"], line["seed"]) == (name, seed)
    ]
    return max(ends, default=0)


def table(log: Path) -> str:
    """What a log says, as a table of Markdown."""
    rows: dict[str, list[float]] = {}
    for line in _lines(log):
        row = rows.setdefault(str(line["target"]), [0, 0, 0, 0])
        faults = line["faults"]
        assert isinstance(faults, dict)
        values = (line["cases"], line["commands"], line["seconds"], sum(faults.values()))
        for place, value in enumerate(values):
            row[place] += float(str(value))
    lines = ["| target | cases | commands | cases a second | cases with a fault |", "|---|---|---|---|---|"]
    for name, (cases, commands, seconds, faults) in sorted(rows.items()):
        lines.append(f"| {name} | {cases:,.0f} | {commands:,.0f} | {cases / max(seconds, 1e-9):,.0f} | {faults:,.0f} |")
    total = [sum(row[place] for row in rows.values()) for place in range(4)]
    lines.append(
        f"| all | {total[0]:,.0f} | {total[1]:,.0f} | {total[0] / max(total[2], 1e-9):,.0f} | {total[3]:,.0f} |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
