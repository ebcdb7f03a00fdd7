"""What recording a trial costs, by ways of doing it, and what opening a study costs.

python scripts/bench/study_writes.py [--trials 60]

Processor time (nothing waits for the disk: SQLite is written ahead) of a trial with 20 row losses, least and median:
`Study` (RUNNING, then finished), and the same through `study.enqueue_trial`, `study.ask` and `study.tell` on
the same storage. What other processes do to the caches shows in it: quote the least.

2026-11-21, x86_64, beside other work, least of 40 (median): import optuna 0.15 s, open a new study 0.52 s
     4 members: Study  9.6 (11.3) ms, ask and tell 16.2 (19.5) ms
    20 members: Study 19.2 (25.1) ms, ask and tell 31.3 (34.4) ms
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import tempfile
import time
from pathlib import Path

from merge_advisor.tuning import Point, SearchSpace, Trial


def recorded(folder: Path, members: int, trials: int) -> tuple[float, float, list[float], list[float]]:
    """Seconds to import and to open, milliseconds a trial through `Study`, and through ask and tell."""
    start = time.process_time()
    import optuna

    imported = time.process_time()
    from merge_advisor.tuning.study import Study, StudyPlace

    ids = [f"member-{number}" for number in range(members)]
    point = Point(tuple(0.1 * number - 0.9 for number in range(members)), "exact")
    ours, theirs = [], []
    before = time.process_time()
    with Study(StudyPlace(folder / "study.sqlite", {}), {}, SearchSpace(point), ids, 1) as study:
        opened = time.process_time()
        for number in range(trials):
            trial = Trial(number, "tpe", point, tuple(0.1 * row for row in range(20)), (1.0,), True, 20)
            began = time.process_time()
            with study.trial(point):
                study.finish(trial)
            ours.append(1e3 * (time.process_time() - began))
        asked = optuna.create_study(study_name="asked", storage=study._storage)
        ranges = {name: optuna.distributions.FloatDistribution(-1.5, 1.5) for name in ids}
        for number in range(trials):
            began = time.process_time()
            asked.enqueue_trial(dict(zip(ids, point.weights, strict=True)))
            running = asked.ask(ranges)
            running.set_user_attr("trial", {"losses": [0.1 * row for row in range(20)], "number": number})
            asked.tell(running, 1.0)
            theirs.append(1e3 * (time.process_time() - began))
    return imported - start, opened - before, ours, theirs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    arguments = parser.parse_args()
    print(f"{datetime.date.today()}, {platform.machine()}, {arguments.trials} trials")
    for members in (4, 20):
        with tempfile.TemporaryDirectory() as folder:
            imported, opened, ours, theirs = recorded(Path(folder), members, arguments.trials)
        told = ", ".join(
            f"{name} {min(times):.1f} (median {statistics.median(times):.1f}) ms"
            for name, times in (("Study", ours), ("ask and tell", theirs))
        )
        print(f"{members} members: import optuna {imported:.2f} s, open a new study {opened:.2f} s; a trial: {told}")


if __name__ == "__main__":
    main()
