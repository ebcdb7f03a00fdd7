"""Kill commands at random moments, call them again, and compare with what an undisturbed command gives.

python scripts/bench/random_kills.py [--kills 100] [--seed 0] [--commands plan tune] [--log FILE] [--minutes 30]

The models are tiny and random, the rows few (`tests/support/faults.py`). Each command runs in a fork of a process that
has imported everything, so that a kill (SIGKILL) falls into its work and not into ten seconds of imports. A round: a
new folder; the command is begun and killed after a time drawn evenly from the time that it takes undisturbed; then, by
chance a third of the time, it is called and killed again; at last it is left alone. Then its files must be those of an
undisturbed run, times aside, rows of databases compared as rows, and nothing else may be left; no call may print a
traceback. A line of JSON a round, and one a command at the end; the exit code says whether anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.faults import COMMANDS, TRACEBACK, Command, FaultWorld, ForkServer
from tests.support.models import build_llama, build_pool


def one_round(world: FaultWorld, command: Command, rng: random.Random) -> dict[str, Any]:
    """Kill a command once or more, call it again, compare."""
    place = world.place(command)
    takes = world.server.seconds[command.name]
    delays: list[float] = []
    kills, problem = 0, ""
    while not problem:
        delays.append(round(rng.uniform(0, 1.05 * takes), 4))
        ended = world.server.run(command.argv, place, kill_after=delays[-1])
        kills += ended.code == -9
        if TRACEBACK in ended.err:
            problem = f"a traceback: {ended.err}"
        elif ended.code not in (-9, 0, command.twice or 0):
            problem = f"exit code {ended.code}: {ended.err}"
        elif ended.code != -9 or rng.random() > 1 / 3:
            problem = world.check_again(command, place)
            break
    shutil.rmtree(place)
    return {"command": command.name, "delays": delays, "kills": kills, "problem": problem}


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills a command, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="minutes a command at most")
    parser.add_argument("--log", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commands", nargs="+", default=["embed", "plan", "merge", "score", "tune", "bench"])
    options = parser.parse_args()
    wrong = False
    log = options.log.open("a", encoding="utf-8") if options.log else None
    with tempfile.TemporaryDirectory() as scratch:
        base, pool = build_llama(Path(scratch) / "tiny-llama"), build_pool(Path(scratch) / "pool")
        (Path(scratch) / "server").mkdir()
        with ForkServer(Path(scratch) / "server") as server:
            world = FaultWorld(Path(scratch) / "world", server, base, pool)
            for name in options.commands:
                wrong |= kill_often(world, COMMANDS[name], options, log)
    if log:
        log.close()
    sys.exit(wrong)


def kill_often(world: FaultWorld, command: Command, options: argparse.Namespace, log: TextIO | None) -> bool:
    """Run rounds of one command until it was killed often enough; return whether anything was wrong."""
    rng = random.Random(f"{options.seed} {command.name}")
    world.undisturbed(command)
    place = world.place(command)
    world.server.seconds[command.name] = world.server.run(command.argv, place).seconds
    shutil.rmtree(place)
    kills = rounds = problems = 0
    start = time.monotonic()
    while kills < options.kills and time.monotonic() - start < 60 * options.minutes:
        found = one_round(world, command, rng)
        kills, rounds, problems = kills + found["kills"], rounds + 1, problems + bool(found["problem"])
        _say(found, log)
    _say(
        {
            "command": command.name, "kills": kills, "rounds": rounds, "problems": problems, "seed": options.seed,
            "takes": round(world.server.seconds[command.name], 2), "minutes": round((time.monotonic() - start) / 60, 1),
        },
        log,
    )  # fmt: skip
    return problems > 0


def _say(found: dict[str, Any], log: TextIO | None) -> None:
    line = json.dumps(found)
    print(line, flush=True)
    if log:
        log.write(line + "\n")
        log.flush()


if __name__ == "__main__":
    main()
