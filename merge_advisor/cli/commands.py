"""What each command does: arguments in, public API, text or JSON out, an exit code back."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor import registry
from merge_advisor.cli.options import KINDS
from merge_advisor.cli.progress import ProgressLine
from merge_advisor.cli.settings import fill, need
from merge_advisor.errors import InputError
from merge_advisor.types import to_plain

if TYPE_CHECKING:
    from merge_advisor.advisor import TaskName
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.options import Machine, PlanOptions

OK, PARTIAL = 0, 3


def run_plan(arguments: argparse.Namespace) -> int:
    """`merge-advisor plan`."""
    fill(arguments, Path.cwd())
    need(arguments, "pool", "base")
    from merge_advisor import advisor

    tasks = [Path(name) for name in arguments.task]
    lm_eval = _lm_eval(arguments)
    options = _options(arguments)
    shared = _shared(arguments)
    if arguments.dry_run:
        from merge_advisor.advisor.planning.dry_run import describe_plan

        found = describe_plan(
            tasks, lm_eval=lm_eval, pool=arguments.pool, base=arguments.base, options=options, **shared
        )
        _print(arguments, found, "\n".join(found["lines"]))
        return OK
    named = [*(task.stem for task in tasks), *(task.name for task in lm_eval)]
    if not named:
        raise InputError("no task named; give --task FILE or --lm-eval-task NAME")
    out = Path(arguments.out or Path("runs") / named[0])
    progress = shared["progress"]
    run = advisor.plan(
        tasks, lm_eval=lm_eval, pool=arguments.pool, base=arguments.base, out=out, options=options,
        scored=not arguments.no_score, guard=Path(arguments.guard) if arguments.guard else None,
        metric=arguments.metric, force=arguments.force, **shared,
    )  # fmt: skip
    progress.finish()
    return _tell(arguments, run)


def run_score(arguments: argparse.Namespace) -> int:
    """`merge-advisor score`."""
    folder = Path(arguments.run)
    shared = _shared(arguments)
    guard = Path(arguments.guard) if arguments.guard else None
    paths = [Path(name) for name in arguments.task]
    lm_eval = _lm_eval(arguments)
    if (folder / "plan.json").is_file():
        from merge_advisor import advisor

        run = advisor.score(
            folder, heldout=paths, lm_eval=lm_eval, limit=arguments.limit, guard=guard, metric=arguments.metric,
            pool=arguments.pool, base=arguments.base,
            **shared,
        )  # fmt: skip
        shared["progress"].finish()
        return _tell(arguments, run)
    from merge_advisor.advisor.scoring.score_run import score_model
    from merge_advisor.report.tables import text_table

    if not paths and not lm_eval:
        raise InputError(f"{folder}: is no run folder, so the rows to score it on are needed; give --task FILE")
    fill(arguments, Path.cwd())
    found = score_model(
        folder,
        paths,
        lm_eval=lm_eval,
        limit=arguments.limit,
        base=arguments.base,
        template=arguments.template,
        metric=arguments.metric,
        **shared,
    )
    shared["progress"].finish()
    names = sorted({name for score in found.values() for model in score for name in model.metrics})
    lines = []
    for task, models in found.items():
        rows = [[m.label, *(f"{m.metrics[name]:.3f}" if name in m.metrics else "" for name in names)] for m in models]
        lines.append(f"{task}\n" + text_table(["model", *names], rows))
    _print(arguments, {task: to_plain(models) for task, models in found.items()}, "\n\n".join(lines))
    return OK


def run_tune(arguments: argparse.Namespace) -> int:
    """`merge-advisor tune`."""
    from merge_advisor import advisor
    from merge_advisor.options import TuneOptions

    ranges = {key: _range(getattr(arguments, key), key) for key in ("bounds", "scale", "density")}
    options = TuneOptions(
        trials=arguments.trials, forwards=arguments.forward_budget, minutes=arguments.minutes,
        sampler=arguments.sampler, objective=arguments.objective, goal=arguments.goal, seed=arguments.seed,
        storage=arguments.storage, force=arguments.force, compositions=tuple(arguments.composition),
        drop=arguments.drop, layers=arguments.layers, **{key: found for key, found in ranges.items() if found},
    )  # fmt: skip
    shared = _shared(arguments)
    run = advisor.tune(
        Path(arguments.run), options=options, scored=not arguments.no_score, metric=arguments.metric,
        guard=Path(arguments.guard) if arguments.guard else None, pool=arguments.pool, base=arguments.base, **shared,
    )  # fmt: skip
    shared["progress"].finish()
    return _tell(arguments, run)


def run_bench(arguments: argparse.Namespace) -> int:
    """`merge-advisor bench`."""
    setup = Path(arguments.setup)
    places = {key: getattr(arguments, key) for key in ("base", "pool", "tasks")}
    if arguments.dry_run:
        from merge_advisor.benchmark.running.dry_run import RATE, describe_bench

        found = describe_bench(
            setup, **places, only=arguments.only, rate=RATE if arguments.rate is None else arguments.rate
        )
        _print(arguments, found, "\n".join(found["lines"]))
        return OK
    if arguments.out is None:
        raise InputError("bench: no folder for the results; give --out DIR, or --dry-run")
    from merge_advisor.benchmark.bench import bench
    from merge_advisor.benchmark.report.summary import bench_summary

    shared = _shared(arguments)
    done = bench(setup, Path(arguments.out), **places, only=arguments.only, workers=arguments.workers, **shared)
    shared["progress"].finish()
    measured = done.measured
    plain = {
        "out": str(measured.folder), "contrasts": [to_plain(contrast) for contrast in done.contrasts],
        "results": len(measured.results), "wanted": measured.wanted, "failed": [to_plain(r.unit) | {
            "arm": r.arm, "view": r.view, "k": r.k, "reason": r.reason} for r in measured.failed],
        "refused": list(measured.refused), "notes": list(measured.notes),
    }  # fmt: skip
    _print(arguments, plain, bench_summary(done))
    for reason in measured.refused[:10]:
        print(f"merge-advisor: set aside {reason}", file=sys.stderr)
    return PARTIAL if measured.failed or measured.refused else OK


def _range(text: str | None, option: str) -> tuple[float, float] | None:
    """Read LOW:HIGH.

    Raises:
        InputError: no two numbers.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise InputError(f"--{option} {text}: is no range; write LOW:HIGH, e.g. 0.2:1") from error
    return low, high


def run_merge(arguments: argparse.Namespace) -> int:
    """`merge-advisor merge`."""
    from merge_advisor import advisor

    shared = _shared(arguments)
    del shared["store"]
    notes: list[str] = []
    out = advisor.merge(
        Path(arguments.run), Path(arguments.out), engine=arguments.engine, adapter=arguments.adapter,
        gguf=arguments.gguf,
        rank=arguments.rank, said=notes.append, pool=arguments.pool, base=arguments.base, **shared,
    )  # fmt: skip
    shared["progress"].finish()
    _print(arguments, {"model": str(out), "notes": notes}, "\n".join([f"wrote {out}", *notes]))
    return OK


def run_embed(arguments: argparse.Namespace) -> int:
    """`merge-advisor embed`."""
    fill(arguments, Path.cwd())
    need(arguments, "pool", "base")
    from merge_advisor.advisor.embedding_file import embed_to_file

    shared = _shared(arguments)
    found = embed_to_file(
        Path(arguments.out), pool=arguments.pool, base=arguments.base,
        embedding=arguments.embedding or "delta_activations", include=tuple(arguments.include),
        exclude=tuple(arguments.exclude), **shared,
    )  # fmt: skip
    shared["progress"].finish()
    lines = [f"wrote {arguments.out}: {found['models']} deltas of {found['dim']} dimensions"]
    lines += [f"set aside: {item['id']}: {item['reason']}" for item in found["refused"]]
    _print(arguments, found, "\n".join(lines))
    return PARTIAL if found["refused"] else OK


def run_convert(arguments: argparse.Namespace) -> int:
    """`merge-advisor convert`."""
    from merge_advisor.pool.converting import convert

    progress = _progress(arguments)
    found = convert(arguments.source, Path(arguments.out), offline=arguments.offline, progress=progress)
    progress.finish()
    copied = f", {len(found.copied)} of them as they were" if found.copied else ""
    lines = [f"wrote {found.out}: {len(found.written)} adapters{copied}"]
    lines += [f"left out {item.id}: {item.reason}" for item in found.refused]
    _print(arguments, to_plain(found) | {"out": str(found.out)}, "\n".join(lines))
    return PARTIAL if found.refused else OK


def run_try(arguments: argparse.Namespace) -> int:
    """`merge-advisor try`."""
    from merge_advisor.advisor.scoring.trying import answers

    shared = _shared(arguments)
    found = answers(
        Path(arguments.run), arguments.prompt, max_new_tokens=arguments.max_new_tokens, pool=arguments.pool,
        base=arguments.base, **shared,
    )  # fmt: skip
    shared["progress"].finish()
    _print(arguments, found, "\n\n".join(f"{label}:\n{text}" for label, text in found.items()))
    return OK


def run_show(arguments: argparse.Namespace) -> int:
    """`merge-advisor show`."""
    from merge_advisor.report.tables import text_table

    kind = KINDS[arguments.what]
    columns = {
        "strategy": ("centres", "cost"),
        "composition": ("weight_means", "takes", "deterministic", "memory", "formats", "source"),
        "format": ("writes", "runs_with"), "embedding": ("pooling", "source"),
        "sampler": ("searches", "cost"),
    }[kind]  # fmt: skip
    rows = []
    for name in registry.names(kind):
        loaded = registry.load(kind, name)
        rows.append([name, registry.summary(kind, name), *(_told(loaded, column) for column in columns)])
    heads = ["name", "what", *(column.replace("_", " ") for column in columns)]
    plain = [dict(zip(heads, row, strict=True)) for row in rows]
    _print(arguments, {arguments.what: plain}, text_table(heads, rows))
    return OK


def _told(loaded: type[Any], column: str) -> str:
    """One cell of `show`: an attribute in words, or the formats that can carry a composition out."""
    if column == "formats":
        from merge_advisor.formats import formats_of

        return ", ".join(formats_of(loaded.name)) or "full model only"
    value = getattr(loaded, column)
    return str(value) if not isinstance(value, bool) else "yes" if value else "no, by seed"


def run_init(arguments: argparse.Namespace) -> int:
    """`merge-advisor init`."""
    from merge_advisor.cli.init import write_settings

    written = write_settings(
        Path.cwd(), demo=arguments.demo, force=arguments.force, pool=arguments.pool, base=arguments.base
    )
    task = next((str(path.name) for path in written if path.suffix == ".jsonl"), "examples.jsonl")
    text = "\n".join([*(f"wrote {path.name}" for path in written), f"next: merge-advisor plan --task {task}"])
    _print(arguments, {"written": [str(path) for path in written]}, text)
    return OK


def run_doctor(arguments: argparse.Namespace) -> int:
    """`merge-advisor doctor`."""
    from merge_advisor.cli.doctor import diagnose

    findings = diagnose(Path.cwd())
    lines = [f"{'ok     ' if item['ok'] else 'BROKEN '} {item['what']}: {item['says']}" for item in findings]
    _print(arguments, {"findings": findings}, "\n".join(lines))
    return OK if all(item["ok"] for item in findings) else 1


def _options(arguments: argparse.Namespace) -> PlanOptions:
    from merge_advisor.options import FinetuneSettings, PlanOptions

    named = {
        key: getattr(arguments, f"lora_{key}")
        for key in ("rank", "lr", "epochs", "steps")
        if getattr(arguments, f"lora_{key}") is not None
    }
    given: dict[str, Any] = {
        key: getattr(arguments, key)
        for key in (
            "strategy",
            "k",
            "shots",
            "tuning",
            "composition",
            "rank",
            "embedding",
            "template",
            "anchor",
            "choose_by",
            "seed",
        )
        if getattr(arguments, key) is not None
    }
    if arguments.heldout is not None:
        text = arguments.heldout
        given["heldout"] = int(text) if text.isdigit() else Path(text)
    for key in ("include", "exclude", "licence"):
        given[key] = tuple(getattr(arguments, key))
    return PlanOptions(finetune=FinetuneSettings(**named), **given)


def _lm_eval(arguments: argparse.Namespace) -> list[TaskName]:
    """The tasks of lm-eval that were named."""
    if not arguments.lm_eval_task:
        if arguments.lm_eval_include or arguments.trust_task_code:
            raise InputError("--lm-eval-include and --trust-task-code go with --lm-eval-task; name a task")
        return []
    from merge_advisor.advisor import TaskName

    include = Path(arguments.lm_eval_include) if arguments.lm_eval_include else None
    return [TaskName(name, include, arguments.trust_task_code) for name in arguments.lm_eval_task]


def _machine(arguments: argparse.Namespace) -> Machine:
    from merge_advisor.options import Machine

    if arguments.threads is not None and arguments.threads < 1:
        raise InputError(f"--threads {arguments.threads}: give 1 or more")
    return Machine(device=arguments.device, dtype=arguments.dtype, threads=arguments.threads)


def _progress(arguments: argparse.Namespace) -> ProgressLine:
    return ProgressLine("never" if arguments.quiet else "always" if arguments.verbose else "auto")


def _shared(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "offline": arguments.offline,
        "cache": Path(arguments.cache) if arguments.cache else None,
        "store": Path(arguments.store) if arguments.store else None,
        "machine": _machine(arguments),
        "progress": _progress(arguments),
    }


def _tell(arguments: argparse.Namespace, run: Run) -> int:
    """Print a run: members, score table, verdict, files, next commands."""
    plain = {"run": str(run.folder), "plan": to_plain(run.plan), "recipe": to_plain(run.recipe)}
    plain["scores"] = [to_plain(score) for score in run.scores]
    if arguments.json:
        _print(arguments, plain, "")
    else:
        from merge_advisor.advisor.runs.run_report import run_summary

        print(run_summary(run))
    refused = [item for item in run.plan.candidates if item.status == "refused"]
    for item in refused[:10]:
        print(f"merge-advisor: set aside {item.id}: {item.reason}", file=sys.stderr)
    if len(refused) > 10:
        print(f"merge-advisor: and {len(refused) - 10} more, see {run.folder / 'report.md'}", file=sys.stderr)
    return PARTIAL if refused else OK


def _print(arguments: argparse.Namespace, value: Any, text: str) -> None:
    print(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) if arguments.json else text)
