"""`bench`: from a setup to results, contrasts and a report; the same folder again goes on where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.benchmark.analysis.contrasts import answer_questions
from merge_advisor.benchmark.report.write import write_report
from merge_advisor.benchmark.running.bench_run import measure_setup
from merge_advisor.benchmark.values import Benchmark, BenchResults, Contrast

if TYPE_CHECKING:
    from typing import Unpack

    from merge_advisor.session_options import BenchWhere


def bench(setup: str | Path, out: str | Path, *, only: Sequence[str] = (), **where: Unpack[BenchWhere]) -> Benchmark:
    """Measure what a setup asks for, compare the arms, and write the report into `out`.

    Args:
        setup: the YAML file, see `benchmark.values.Setup`.
        out: folder of results, tables and report; called again it goes on where it ended.
        only: patterns of `arm/task/view`; other results are left for later.
        where: `base`, `pool` and `tasks`, where they are not where the setup says; `offline`, `follow_links`, `cache`,
            `store`, `machine`, `beside` and `progress` as `plan` takes them.

    Returns:
        All results so far, those of earlier calls included, and the answers to the setup's questions.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`; the message is one line. What was measured is never lost, and a
            unit that crashes is a failed result.

    >>> bench("absent.yaml", "out")
    Traceback (most recent call last):
        ...
    merge_advisor.errors.InputError: absent.yaml: ...
    """
    results = measure_setup(Path(setup), Path(out), only=only, **where)
    return Benchmark(results, conclude(results))


def conclude(measured: BenchResults) -> tuple[Contrast, ...]:
    """Answer the setup's questions and write report, page and tables into the folder of the results.

    Args:
        measured: the results so far; some may have failed, or be missing.

    Returns:
        One contrast a question, the primary first, see `answer_questions`.

    Raises:
        RunError: no permission, or no room.
    """
    contrasts = answer_questions(measured.setup, measured.results)
    write_report(measured.folder, measured.setup, measured.results, contrasts, measured.families, measured.added)
    return contrasts
