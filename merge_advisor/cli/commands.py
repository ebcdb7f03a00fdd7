"""What each command does: arguments in, public API, text or JSON out, an exit code back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.cli.command_session import command_session
from merge_advisor.cli.exit_codes import FAILED, OK, PARTIAL
from merge_advisor.cli.explore_command import explore_hub
from merge_advisor.cli.gate_command import run_gate
from merge_advisor.cli.hub_commands import card, pool, push
from merge_advisor.cli.hub_folder_commands import hub_dry_run, hub_folder, hub_plan, takes_hub
from merge_advisor.cli.messages import with_flags
from merge_advisor.cli.options import (
    COMMANDS,
    KINDS,
    BenchCommand,
    ConvertCommand,
    DoctorCommand,
    EmbedCommand,
    InitCommand,
    MergeCommand,
    OutputOptions,
    PlanCommand,
    ScoreCommand,
    ShowCommand,
    TryCommand,
    TuneCommand,
)
from merge_advisor.cli.parser import Arguments
from merge_advisor.cli.printing import flagged, print_result
from merge_advisor.cli.progress import reporting
from merge_advisor.cli.saying import say
from merge_advisor.cli.settings import READ_ELSEWHERE, SETTINGS_FILE, WRITTEN, leads_out, read_settings, setting_options
from merge_advisor.errors import InputError
from merge_advisor.json_form import to_plain
from merge_advisor.limits import check_limits
from merge_advisor.options import (
    BenchOptions,
    BenchPlaces,
    EmbedOptions,
    LmEvalOptions,
    LmEvalScoreOptions,
    MayScoreOptions,
    MergeOptions,
    Places,
    PlanOptions,
    ScoringOptions,
    TuneOptions,
)
from merge_advisor.report.document import Paragraph, Table, TextBlock
from merge_advisor.session_options import Where

if TYPE_CHECKING:
    from merge_advisor.advisor import TaskName
    from merge_advisor.advisor.runs.run_folder import Run

_REFUSED_SHOWN = 10
"""Models set aside that are listed on stderr; the report has all."""


def _plan(arguments: Arguments) -> int:
    """`merge-advisor plan`."""
    from merge_advisor import advisor

    command, options, places = arguments.part(PlanCommand), arguments.part(PlanOptions), arguments.part(Places)
    scoring = arguments.part(MayScoreOptions)
    _check_price_shown(command.price, dry=command.dry_run)
    lm_eval = _lm_eval(arguments.part(LmEvalOptions))
    if takes_hub(arguments, places):
        with command_session(arguments, places) as session:
            if command.dry_run:
                return _print_dry_run(arguments, hub_dry_run(arguments, lm_eval, session))
            planned = hub_plan(arguments, _run_name(command, lm_eval), lm_eval, session)
        return _print_run(arguments, planned, command.price)
    pool, base = _named("pool", places.pool), _named("base", places.base)
    with command_session(arguments, places) as session:
        if command.dry_run:
            from merge_advisor.advisor.planning.dry_run import describe_plan

            told = describe_plan(
                command.task, lm_eval=lm_eval, pool=pool, base=base, options=options,
                guard=scoring.guard if scoring.scored else None, **session,
            )  # fmt: skip
            return _print_dry_run(arguments, told)
        planned = advisor.plan(
            command.task, lm_eval=lm_eval, pool=pool, base=base, out=_run_name(command, lm_eval), options=options,
            **asdict(scoring), force=command.force, **session,
        )  # fmt: skip
    return _print_run(arguments, planned, command.price)


def _check_price_shown(price: float | None, *, dry: bool) -> None:
    """Refuse a price where nothing is measured."""
    if dry and price is not None:
        raise InputError("`price` is for measured seconds, and a dry run measures none; leave one of the two out")


def _print_dry_run(arguments: Arguments, told: dict[str, Any]) -> int:
    return _print(arguments, told, flagged([Paragraph("\n".join(told["lines"]))], "plan"))


def _run_name(command: PlanCommand, lm_eval: Sequence[TaskName]) -> Path:
    """Return the run folder that a plan makes."""
    names = [*(_task_name(task) for task in command.task), *(task.name for task in lm_eval)]
    if not names:
        raise InputError("no task named; give `task=FILE` or `lm_eval=NAME`")
    return command.out or Path("runs") / names[0]


def _task_name(path: Path) -> str:
    """Return what a task is called that is read from a file or a data set."""
    from merge_advisor.tasks import data_set_of

    data_set = data_set_of(path)
    return path.stem if data_set is None else data_set.name


def _score(arguments: Arguments) -> int:
    """`merge-advisor score`."""
    from merge_advisor import advisor

    command, scoring = arguments.part(ScoreCommand), arguments.part(ScoringOptions)
    options = arguments.part(LmEvalScoreOptions)
    if not (command.run / "plan.json").is_file():
        return _score_model(arguments, command, options, scoring.metric)
    with _run_session(arguments, command.run) as where:
        scored = advisor.score(
            command.run, heldout=command.heldout, lm_eval=_lm_eval(options), limit=options.limit,
            fields=command.fields, **asdict(scoring), **where,
        )  # fmt: skip
    return _print_run(arguments, scored, command.price)


def _score_model(arguments: Arguments, command: ScoreCommand, options: LmEvalScoreOptions, metric: str) -> int:
    """Score a folder that is no run: an adapter or a full model."""
    from merge_advisor.advisor.scoring.score_model import score_model

    lm_eval = _lm_eval(options)
    if command.price is not None:
        raise InputError("`price` is for what a run took, and this is no run folder; leave it out")
    if not command.heldout and not lm_eval:
        raise InputError(f"{command.run}: is no run folder, so it needs rows to be scored on; give `heldout=FILE`")
    places, notes = arguments.part(Places), list[str]()
    with command_session(arguments, places) as session:
        scores = score_model(
            command.run, command.heldout, lm_eval=lm_eval, limit=options.limit, base=places.base,
            template=command.template, metric=metric, fields=command.fields, on_note=notes.append,
            **session,
        )  # fmt: skip
    if arguments.part(OutputOptions).json:  # its JSON is tables by task
        for note in notes:
            say(with_flags(note, "score"))
    names = sorted({name for models in scores.values() for model in models for name in model.metrics})
    tables: list[TextBlock] = [Paragraph("\n".join(notes))] if notes else []
    for task, models in scores.items():
        rows = ((m.label, *(f"{m.metrics[name]:.3f}" if name in m.metrics else "" for name in names)) for m in models)
        tables.append(Table(task, ("model", *names), tuple(rows)))
    return _print(arguments, {task: to_plain(models) for task, models in scores.items()}, flagged(tables, "score"))


def _tune(arguments: Arguments) -> int:
    """`merge-advisor tune`."""
    from merge_advisor import advisor

    command, options = arguments.part(TuneCommand), arguments.part(TuneOptions)
    scoring = arguments.part(MayScoreOptions)
    _check_price_shown(command.price, dry=command.dry_run)
    with _run_session(arguments, command.run) as where:
        if command.dry_run:
            from merge_advisor.advisor.searching.dry_run import describe_tune

            told = describe_tune(command.run, options=options, scored=scoring.scored, guard=scoring.guard, **where)
            return _print(arguments, told, flagged([Paragraph("\n".join(told["lines"]))], "tune"))
        tuned = advisor.tune(command.run, options=options, **asdict(scoring), **where)
    return _print_run(arguments, tuned, command.price)


def _bench(arguments: Arguments) -> int:
    """`merge-advisor bench`."""
    command, options = arguments.part(BenchCommand), arguments.part(BenchOptions)
    places = arguments.part(BenchPlaces)
    own = {"base": places.base, "pool": places.pool, "tasks": options.tasks}
    if command.dry_run:
        from merge_advisor.benchmark.running.dry_run import RATE, describe_bench

        told = describe_bench(
            command.setup, **own, only=options.only, rate=command.rate or RATE, follow_links=places.follow_links
        )
        return _print(arguments, told, flagged([Paragraph("\n".join(told["lines"]))], "bench"))
    if command.out is None:
        raise InputError("bench: no folder for the results; give `out=DIR`, or `dry_run`")
    from merge_advisor.benchmark.bench import bench
    from merge_advisor.benchmark.report.terminal_summary import bench_blocks

    with command_session(arguments, places) as session:
        done = bench(command.setup, command.out, **own, only=options.only, **session)
    measured = done.measured
    plain = {
        "out": str(measured.folder), "contrasts": [to_plain(contrast) for contrast in done.contrasts],
        "results": len(measured.results), "wanted": measured.wanted, "failed": [to_plain(r.unit) | {
            "arm": r.arm, "view": r.view, "k": r.k, "reason": r.reason} for r in measured.failed],
        "refused": list(measured.refused), "notes": list(measured.notes),
    }  # fmt: skip
    _print(arguments, plain, flagged(bench_blocks(done), "bench"), gap="\n")
    _print_refused("bench", list(measured.refused), "")
    return PARTIAL if measured.failed or measured.refused else OK


def _merge(arguments: Arguments) -> int:
    """`merge-advisor merge`."""
    from merge_advisor import advisor

    command, options = arguments.part(MergeCommand), arguments.part(MergeOptions)
    notes: list[str] = []
    with _run_session(arguments, command.run) as where:
        out = advisor.merge(command.run, command.out, **asdict(options), on_note=notes.append, **where)
    told = flagged([Paragraph(note) for note in notes], "merge")
    return _print(arguments, {"model": str(out), "notes": notes}, [Paragraph(f"wrote {out}"), *told], gap="\n")


def _embed(arguments: Arguments) -> int:
    """`merge-advisor embed`."""
    from merge_advisor.advisor.embedding_file import embed_to_file

    out, places = arguments.part(EmbedCommand).out, arguments.part(Places)
    pool, base = _named("pool", places.pool), _named("base", places.base)
    with command_session(arguments, places) as session:
        told = embed_to_file(out, pool=pool, base=base, **asdict(arguments.part(EmbedOptions)), **session)
    lines = [f"wrote {out}: {told['models']} deltas of {told['dim']} dimensions"]
    lines += [f"set aside: {item['id']}: {item['reason']}" for item in told["refused"]]
    _print(arguments, told, flagged([Paragraph("\n".join(lines))], "embed"))
    return PARTIAL if told["refused"] else OK


def _convert(arguments: Arguments) -> int:
    """`merge-advisor convert`."""
    from merge_advisor.pool.converting import convert

    command = arguments.part(ConvertCommand)
    with reporting(arguments.part(OutputOptions)) as progress:
        report = convert(
            command.source, command.out, offline=command.offline, follow_links=command.follow_links, progress=progress
        )
    copied = f", {len(report.copied)} of them as they were" if report.copied else ""
    lines = [f"wrote {report.out}: {len(report.written)} adapters{copied}"]
    lines += [f"left out {item.id}: {item.reason}" for item in report.refused]
    _print(arguments, to_plain(report) | {"out": str(report.out)}, flagged([Paragraph("\n".join(lines))], "convert"))
    return PARTIAL if report.refused else OK


def _try(arguments: Arguments) -> int:
    """`merge-advisor try`."""
    from merge_advisor.advisor.scoring.trying import answers

    command = arguments.part(TryCommand)
    notes: list[str] = []
    with _run_session(arguments, command.run) as where:
        texts = answers(
            command.run, command.prompt, max_new_tokens=command.max_new_tokens, on_note=notes.append, **where
        )
    said = [Paragraph(f"{label}:\n{text}") for label, text in texts.items()]
    plain: dict[str, object] = texts | ({"notes": notes} if notes else {})
    return _print(arguments, plain, [*said, *(Paragraph(f"note: {note}") for note in notes)])


def _show(arguments: Arguments) -> int:
    """`merge-advisor show`."""
    from merge_advisor.cli.catalogue import SHOWN, catalogue

    what = arguments.part(ShowCommand).what
    headers, rows = catalogue(KINDS[what], SHOWN[KINDS[what]])
    plain = [dict(zip(headers, row, strict=True)) for row in rows]
    return _print(arguments, {what: plain}, [Table("", headers, rows)])


def _init(arguments: Arguments) -> int:
    """`merge-advisor init`."""
    from merge_advisor.cli.init import write_settings

    written = write_settings(Path.cwd(), **asdict(arguments.part(InitCommand)))
    task = next((str(path.name) for path in written if path.suffix == ".jsonl"), "examples.jsonl")
    text = "\n".join([*(f"wrote {path.name}" for path in written), f"next: merge-advisor plan --task {task}"])
    return _print(arguments, {"written": [str(path) for path in written]}, [Paragraph(text)])


def _doctor(arguments: Arguments) -> int:
    """`merge-advisor doctor`."""
    from merge_advisor.cli.doctor import diagnose

    findings = diagnose(Path.cwd(), **asdict(arguments.part(DoctorCommand)))
    lines = [f"{'ok     ' if item['ok'] else 'BROKEN '} {item['what']}: {item['says']}" for item in findings]
    _print(arguments, {"findings": findings}, flagged([Paragraph("\n".join(lines))], "doctor"))
    return OK if all(item["ok"] for item in findings) else FAILED


def _hub(arguments: Arguments) -> int:
    """`merge-advisor hub`."""
    with command_session(arguments, arguments.part(Places)) as session:
        return hub_folder(arguments, session)


def _explore(arguments: Arguments) -> int:
    """`merge-advisor explore`."""
    with command_session(arguments, arguments.part(Places)) as session:
        return explore_hub(arguments, session)


_RUNNERS: dict[str, Callable[[Arguments], int]] = {
    "plan": _plan, "init": _init, "embed": _embed, "tune": _tune, "bench": _bench, "merge": _merge, "score": _score,
    "convert": _convert, "try": _try, "show": _show, "doctor": _doctor, "pool": pool, "card": card, "push": push,
    "gate": run_gate,
    "hub": _hub, "explore": _explore,
}  # fmt: skip


def run(arguments: Arguments) -> int:
    """Read the settings where the command has an option that may stand there, and run it.

    Args:
        arguments: what the command line gives.

    Returns:
        the exit code.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`.
    """
    check_limits()
    if arguments.command == "doctor":  # it tells what is wrong with them
        with suppress(InputError):
            _announce(replace(arguments, settings=read_settings(Path.cwd())))
    elif setting_options(COMMANDS[arguments.command].parts):
        arguments = replace(arguments, settings=read_settings(Path.cwd()))
        _announce(arguments)
    return _RUNNERS[arguments.command](arguments)


def _announce(arguments: Arguments) -> None:
    """Say which places outside the folder its settings file has written to or read, where the command line does not.

    A warning, which --quiet does not silence: the file may be someone else's.
    """
    known = setting_options(COMMANDS[arguments.command].parts)
    chosen = {
        name: path for name, path in arguments.settings.items()
        if name in (*WRITTEN, *READ_ELSEWHERE) and (name in known or arguments.command == "doctor")
        and name not in arguments.given and leads_out(Path.cwd(), path)
    }  # fmt: skip
    if chosen:
        places = ", ".join(f"{name} {path}" for name, path in chosen.items())
        say(f"by {SETTINGS_FILE} outside this folder: {places}")


def _named(name: str, value: str | None) -> str:
    """Return a place that was named; refuse a command whose base or pool is named nowhere."""
    if value is None:
        raise InputError(f"no {name} named: give `{name}`, or write one into {SETTINGS_FILE} (`merge-advisor init`)")
    return value


def _lm_eval(options: LmEvalOptions) -> list[TaskName]:
    """Return the tasks of lm-eval that were named."""
    if not options.lm_eval:
        return []
    from merge_advisor.advisor import TaskName

    return [TaskName(name, options.lm_eval_include, options.trusted) for name in options.lm_eval]


@contextmanager
def _run_session(arguments: Arguments, folder: Path) -> Iterator[Where]:
    """Give the same for a run folder, whose plan knows its pool and base.

    merge-advisor.toml names those of the folder one works in, perhaps others: they stand in only for what is no longer
    where the plan found it.
    """
    from merge_advisor.advisor.runs.run_folder import read_run

    recorded, places = read_run(folder).plan.environment.paths, arguments.part(Places)
    pool, base = (
        given if name in arguments.given or not Path(recorded[name]).exists() else None
        for name, given in (("pool", places.pool), ("base", places.base))
    )
    with command_session(arguments, places) as session:
        yield Where(**session, pool=pool, base=base)


def _print_run(arguments: Arguments, run: Run, price: float | None = None) -> int:
    """Print a run: members, score table, verdict, what it cost, files, next commands."""
    from merge_advisor.advisor.runs.run_cost import run_cost
    from merge_advisor.advisor.runs.run_report import summary_blocks

    plain = {"run": str(run.folder), "plan": to_plain(run.plan), "recipe": to_plain(run.recipe)}
    plain["scores"] = [to_plain(score) for score in run.scores]
    plain["cost"] = to_plain(run_cost(run.plan))
    _print(arguments, plain, flagged(summary_blocks(run, price), arguments.command))
    refused = [f"{item.id}: {item.reason}" for item in run.plan.candidates if item.status == "refused"]
    _print_refused(arguments.command, refused, f", see {run.folder / 'report.md'}")
    return PARTIAL if refused else OK


def _print_refused(command: str, refused: list[str], rest: str) -> None:
    """Print on stderr which models of the pool were set aside."""
    for reason in refused[:_REFUSED_SHOWN]:
        say(f"set aside {with_flags(reason, command)}")
    if len(refused) > _REFUSED_SHOWN:
        say(f"and {len(refused) - _REFUSED_SHOWN} more{rest}")


def _print(arguments: Arguments, value: Any, blocks: Sequence[TextBlock], *, gap: str = "\n\n") -> int:
    """Print one JSON object or text on stdout, as the options want it; return the exit code of success."""
    print_result(arguments.part(OutputOptions), value, blocks, gap=gap)
    return OK
