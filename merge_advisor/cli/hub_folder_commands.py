"""`merge-advisor hub` and `plan --hub`: a folder of models that is searched and planned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.cli.exit_codes import FAILED, OK, PARTIAL
from merge_advisor.cli.hub_arguments import HubCommand
from merge_advisor.cli.messages import with_flags
from merge_advisor.cli.options import OutputOptions, PlanCommand
from merge_advisor.cli.parser import Arguments
from merge_advisor.cli.printing import flagged, print_result
from merge_advisor.cli.saying import say
from merge_advisor.errors import InputError
from merge_advisor.hub_options import HubPlace, HubPlanOptions, HubSearchOptions
from merge_advisor.json_form import to_plain
from merge_advisor.options import MayScoreOptions, Places, PlanOptions
from merge_advisor.report.document import Paragraph, Table, TextBlock
from merge_advisor.types import Base

if TYPE_CHECKING:
    from merge_advisor.advisor import TaskName
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.hub import Hub
    from merge_advisor.hub.planning import PlanAsked
    from merge_advisor.hub.values import HubEntry, HubJudged
    from merge_advisor.session_options import SessionOptions

_HEADERS = ("model", "kind", "rank", "licence", "size", "added")
_LINES_SHOWN = 10


def takes_hub(arguments: Arguments, places: Places) -> bool:
    """Return whether a plan takes its pool from a hub folder: it is named, or merge-advisor.toml names it and no pool.

    Args:
        arguments: what was given.
        places: where models are.

    Raises:
        InputError: both a pool and a hub are given on the command line, or what chooses in a hub without one.
    """
    if "hub" in arguments.given and "pool" in arguments.given:
        raise InputError("a plan takes its candidates from one place; give `pool` or `hub`, not both")
    by_hub = arguments.part(HubPlace).hub is not None and ("hub" in arguments.given or places.pool is None)
    lost = [name for name in ("filter", "shortlist") if name in arguments.given]
    if lost and not by_hub:
        raise InputError(f"`{lost[0]}` chooses among the models of a hub folder; give `hub`, or leave it out")
    return by_hub


def hub_plan(arguments: Arguments, out: Path, lm_eval: Sequence[TaskName], session: SessionOptions) -> Run:
    """Return the run of `merge-advisor plan --hub`.

    Args:
        arguments: what was given.
        out: the run folder to make.
        lm_eval: tasks of lm-eval.
        session: where things are, and how to compute.

    Raises:
        InputError: no hub folder is named, or none of its models fits.
        MergeAdvisorError: as `plan`.
    """
    from merge_advisor.hub import Hub

    with Hub.open(_folder(arguments)) as hub:
        return hub.plan(
            arguments.part(PlanCommand).task, out=out, base=arguments.part(Places).base,
            options=arguments.part(PlanOptions), asked=_plan_asked(arguments, lm_eval), **session,
        )  # fmt: skip


def hub_dry_run(arguments: Arguments, lm_eval: Sequence[TaskName], session: SessionOptions) -> dict[str, Any]:
    """Return what `merge-advisor plan --hub --dry-run` says.

    Args:
        arguments: what was given.
        lm_eval: tasks of lm-eval.
        session: where things are, and how to compute.

    Raises:
        InputError: no hub folder is named, or none of its models fits.
        MergeAdvisorError: as `plan`.
    """
    from merge_advisor.hub import Hub
    from merge_advisor.hub.dry_run import describe_hub_plan

    with Hub.open(_folder(arguments)) as hub:
        return describe_hub_plan(
            hub, arguments.part(PlanCommand).task, base=arguments.part(Places).base,
            options=arguments.part(PlanOptions), asked=_plan_asked(arguments, lm_eval), **session,
        )  # fmt: skip


def _plan_asked(arguments: Arguments, lm_eval: Sequence[TaskName]) -> PlanAsked:
    from merge_advisor.hub.planning import PlanAsked

    scoring = arguments.part(MayScoreOptions)
    return PlanAsked(
        arguments.part(HubPlanOptions), lm_eval, arguments.part(PlanCommand).force, scoring.scored, scoring.guard,
        scoring.metric, on_note=lambda note: say(with_flags(note, "plan")),
    )  # fmt: skip


def hub_folder(arguments: Arguments, session: SessionOptions) -> int:
    """Return the exit code of `merge-advisor hub`, run.

    Args:
        arguments: what was given.
        session: where things are, and how to compute.

    Raises:
        InputError: no hub folder is named, or not what is to be added, shown, removed or written.
    """
    from merge_advisor.hub import Hub

    command = arguments.part(HubCommand)
    for name in _SOME_TAKE:
        if name in arguments.given and name not in _TAKES[command.what]:
            takers = ", ".join(what for what, names in _TAKES.items() if name in names)
            raise InputError(f"hub {command.what}: takes no --{name}, which is for {takers}; leave it out")
    if command.what == "add":
        return _add(_folder(arguments), command, arguments, session)
    with Hub.open(_folder(arguments)) as hub:
        return _DOERS[command.what](hub, command, arguments, session)


_TAKES: dict[str, tuple[str, ...]] = {
    "add": ("embedding", "include", "exclude", "template", "workers", "engine", "silence"),
    "add-run": (),
    "list": ("filter", "limit", "runs", "price"),
    "show": (),
    "remove": (),
    "search": ("embedding", "template", "like", "task", "text", "k", "filter", "map"),
    "check": ("repair",),
    "export": (),
}
"""Options that not all of them take, by what is done: one that would be passed over is refused."""
_SOME_TAKE = sorted({name for names in _TAKES.values() for name in names})


def _folder(arguments: Arguments) -> Path:
    folder = arguments.part(HubPlace).hub
    if folder is None:
        raise InputError("no hub folder named: give `hub`, or write one into merge-advisor.toml")
    return folder


def _add(folder: Path, command: HubCommand, arguments: Arguments, session: SessionOptions) -> int:
    from merge_advisor.advisor.measuring.session import PoolFilter
    from merge_advisor.hub import Hub
    from merge_advisor.hub.values import HUB_EMBEDDINGS

    places = arguments.part(Places)
    pool, base = command.name or places.pool, places.base
    if pool is None or base is None:
        raise InputError(f"no {'pool' if pool is None else 'base'} named: `merge-advisor hub add POOL --base BASE`")
    added = Hub.add_to(
        folder, pool, base=base, embeddings=command.embedding or HUB_EMBEDDINGS, template=command.template,
        wanted=PoolFilter(command.include, command.exclude), **session,
    )  # fmt: skip
    parts = [("new", added.new), ("new version", added.versions), ("alias", added.aliases), ("updated", added.updated)]
    counts = ", ".join(f"{len(ids)} {word}" for word, ids in parts)
    lines = [f"hub {folder}: {counts}, {added.unchanged} unchanged; {added.embedded} deltas added"]
    lines += [f"{word}: {_some(ids)}" for word, ids in parts if ids]
    _print(arguments, to_plain(added), [Paragraph("\n".join(lines))])
    for item in added.refused[:_LINES_SHOWN]:
        say(f"set aside {with_flags(f'{item.id}: {item.reason}', 'hub')}")
    if len(added.refused) > _LINES_SHOWN:
        say(f"and {len(added.refused) - _LINES_SHOWN} more, all of them with --json")
    return PARTIAL if added.refused else OK


def _add_run(hub: Hub, command: HubCommand, arguments: Arguments, session: SessionOptions) -> int:
    """List a run that ended while another process wrote, or that was planned from a pool."""
    from merge_advisor.advisor.runs.run_folder import read_run

    run = read_run(Path(_name(command, "add-run RUN")))
    kept = hub.add_run(run)
    told = f"{kept} scores of its models kept" if kept else (
        "no scores of its models kept, as none of them stands in the hub" if run.scores else "it is not scored yet"
    )  # fmt: skip
    plain = {"run": str(run.folder), "scores": kept}
    return _print(arguments, plain, [Paragraph(f"hub {hub.folder}: lists {run.folder}; {told}")])


def _list(hub: Hub, command: HubCommand, arguments: Arguments, session: SessionOptions) -> int:
    wanted = arguments.part(HubSearchOptions).filter
    if command.limit is not None and command.limit < 1:
        raise InputError(f"`limit={command.limit}`: give 1 or more")
    if command.price is not None and not command.runs:
        raise InputError("`price` is for the seconds of runs; give `runs`, or leave it out")
    if command.runs:
        return _list_runs(hub, command, arguments)
    entries, total = hub.entries(wanted, limit=command.limit), hub.count(wanted)
    bases = [f"{item.base.id}: {item.models} models" for item in hub.bases()]
    more = f", the first {len(entries)} of them listed" if len(entries) < total else ""
    lines = [f"hub {hub.folder}: {total} models{' that fit' if wanted.strip() else ''}{more}", *bases]
    table = Table("", _HEADERS, tuple(_row(entry) for entry in entries), (2, 4))
    plain = {"models": [_plain(entry) for entry in entries], "total": total, "bases": to_plain(hub.bases()),
             "runs": to_plain(hub.runs())}  # fmt: skip
    return _print(arguments, plain, [table, Paragraph("\n".join(lines))] if entries else [Paragraph("\n".join(lines))])


def _list_runs(hub: Hub, command: HubCommand, arguments: Arguments) -> int:
    """Runs and gates of a hub instead of its models; what they took is summed over all, however many are listed."""
    from merge_advisor.hub.results import savings_lines
    from merge_advisor.report.score_table import seconds_text

    if "filter" in arguments.given:
        raise InputError("`filter` chooses among models; leave it out, or `runs`")
    runs, savings = hub.runs(), hub.savings()
    shown = runs[: command.limit]
    rows = []
    for run in shown:
        cost, took = run.cost, ("", "", "", "")
        if cost is not None:
            times = (cost.seconds, cost.every_candidate_seconds, cost.shots_seconds)
            told = ["" if value is None else seconds_text(value, command.price) for value in times]
            took = (str(cost.forwards), told[0], told[1], told[2])
        rows.append((run.folder, ", ".join(run.tasks), run.verdict or "not scored", run.added[:10], *took))
    headers = ("run", "task", "verdict", "added", "forwards", "took", "every candidate", "LoRA of the shots")
    more = f"the first {len(shown)} of its {len(runs)} runs are listed\n" if len(shown) < len(runs) else ""
    blocks: list[TextBlock] = [Table("", headers, tuple(rows), (4, 5, 6, 7))] if rows else []
    judged = hub.judged()
    blocks += [_judged_table(judged[: command.limit], command.price)] if judged else []
    if command.limit is not None and command.limit < len(judged):
        more += f"the first {command.limit} of its {len(judged)} gates are listed\n"
    text = more + "\n".join(savings_lines(savings, command.price))
    plain = {"runs": to_plain(shown), "judged": to_plain(judged[: command.limit]), "savings": to_plain(savings)}
    return _print(arguments, plain, [*blocks, Paragraph(f"hub {hub.folder}: {text}")])


def _judged_table(judged: Sequence[HubJudged], price: float | None) -> Table:
    """Gates, and models judged for watched pools, with what that took."""
    from merge_advisor.report.score_table import seconds_text

    rows = []
    for one in judged:
        took = ("", "", "")
        if (cost := one.cost) is not None:
            every = cost.every_candidate_seconds
            took = (str(cost.forwards), seconds_text(cost.seconds, price),
                    "" if every is None else seconds_text(every, price))  # fmt: skip
        rows.append((one.model, one.against, ", ".join(one.tasks), one.outcome, one.added[:10], *took))
    headers = ("judged", "against", "on", "outcome", "added", "forwards", "took", "every candidate")
    return Table("", headers, tuple(rows), (5, 6, 7))


def _show(hub: Hub, command: HubCommand, arguments: Arguments, session: SessionOptions) -> int:
    entry = hub.entry(_name(command, "show ID"), base=arguments.given.get("base"))
    versions = hub.versions(command.name or "")
    bases = {item.base.digest: item.base for item in hub.bases()}
    # a base whose row was damaged and dropped has its digest alone, until something of it is added again
    base = bases.get(entry.base, Base(entry.base, None, entry.base, "unknown"))
    lists = (("languages", entry.languages), ("data sets", entry.data_sets), ("tags", entry.tags))
    lines = [
        f"{entry.id}: {entry.kind} of {base.id}{f'@{base.revision}' if base.revision else ''}",
        *([f"also called {', '.join(entry.ids[1:])}"] if len(entry.ids) > 1 else []),
        f"rank {entry.rank}, {', '.join(entry.modules)}" if entry.rank else f"changes {', '.join(entry.modules)}",
        f"licence {entry.licence or 'unknown'}, {_size(entry.size)}, template {entry.template}, added {entry.added}",
        f"source {entry.source}{f'@{entry.revision}' if entry.revision else ''}, read from {entry.place}",
        f"fingerprint {entry.fingerprint}",
        *(f"{word}: {', '.join(items)}" for word, items in lists if items),
        *(f"note: {note}" for note in entry.notes),
        *(f"version {item.version}, added {item.added}{'' if item.current else ', replaced'}" for item in versions),
    ]
    blocks: list[TextBlock] = [Paragraph("\n".join(lines))]
    if entry.scores:
        rows = tuple(
            (s.task, s.metric, f"{s.value:.3f}", f"{s.lower:.3f} to {s.upper:.3f}", str(s.rows), s.evaluator)
            for s in entry.scores
        )
        headers = ("task", "metric", "value", "95% interval", "rows", "evaluator")
        blocks.append(Table("scores", headers, rows, (2, 3, 4)))
    if entry.card:
        blocks.append(Paragraph(entry.card))
    plain = _plain(entry) | {"base_id": base.id, "versions": to_plain(versions), "scores": to_plain(entry.scores)}
    # a card is of others: nothing in it is a parameter of ours
    return _print(arguments, plain, blocks, ours=False)


def _remove(hub: Hub, command: HubCommand, arguments: Arguments, session: SessionOptions) -> int:
    name = _name(command, "remove ID")
    gone = hub.remove(name, base=arguments.given.get("base"))
    kept = "" if gone else "; its weights stay, under their other ids"
    return _print(
        arguments,
        {"removed": name, "models": gone},
        [Paragraph(f"removed {name}: {gone} {'model' if gone == 1 else 'models'} with all of it{kept}")],
    )


def _search(hub: Hub, command: HubCommand, arguments: Arguments, session: SessionOptions) -> int:
    options = arguments.part(HubSearchOptions)
    if len(command.embedding) > 1:
        raise InputError("a search is by one embedding; give `embedding` once")
    options = replace(
        options, embedding=(command.embedding or (options.embedding,))[0], template=arguments.given.get("template")
    )
    # of a search by a model or by words, the settings' base is no condition
    base = arguments.part(Places).base if command.task is not None else arguments.given.get("base")
    found = hub.search(
        like=command.like, task=command.task, text=command.text, k=command.k, base=base, options=options, **session
    )
    by = "fit" if found.space is None else "cosine"
    # fits have no scale of their own: they may all be millionths
    digits = ".3g" if found.space is None else ".4f"
    rows = tuple((format(hit.score, digits), *_row(hit.entry)) for hit in found.hits)
    how = "" if found.exact else "; an index named those that were compared"
    lines = [f"{found.asked}: {len(found.hits)} of {found.models} models{how}", *(f"note: {n}" for n in found.notes)]
    plain = {
        "hits": [_plain(hit.entry) | {"score": hit.score} for hit in found.hits], "asked": found.asked,
        "space": to_plain(found.space), "models": found.models, "exact": found.exact, "notes": list(found.notes),
    }  # fmt: skip
    blocks: list[TextBlock] = [Table("", (by, *_HEADERS), rows, (0, 3, 5))] if rows else []
    return _print(arguments, plain, [*blocks, Paragraph("\n".join(lines))])


def _check(hub: Hub, command: HubCommand, arguments: Arguments, session: SessionOptions) -> int:
    found = hub.check(repair=command.repair)
    wrong = [*found.damaged, *found.index]
    lines = [f"hub {hub.folder}: {found.entries} models, {found.deltas} deltas"]
    lines += [f"wrong: {line}" for line in wrong[:_LINES_SHOWN]]
    lines += [f"and {len(wrong) - _LINES_SHOWN} more"] if len(wrong) > _LINES_SHOWN else []
    lines += [f"repaired: {line}" for line in found.repaired]
    lines += [f"not there any more, and left out of plans: {_some(found.gone)}"] if found.gone else []
    if not wrong:
        lines.append("nothing is wrong")
    elif not found.repaired:
        lines.append("`repair` makes anew what can be")
    _print(arguments, to_plain(found) | {"whole": found.whole}, [Paragraph("\n".join(lines))])
    return OK if found.whole else FAILED


def _export(hub: Hub, command: HubCommand, arguments: Arguments, session: SessionOptions) -> int:
    out = Path(_name(command, "export FILE.parquet"))
    rows = hub.export(out)
    return _print(arguments, {"out": str(out), "rows": rows}, [Paragraph(f"wrote {out}: {rows} rows")])


_DOERS: dict[str, Callable[[Any, HubCommand, Arguments, Any], int]] = {
    "add-run": _add_run, "list": _list, "show": _show, "remove": _remove, "search": _search,
    "check": _check, "export": _export,
}  # fmt: skip


def _name(command: HubCommand, usage: str) -> str:
    if command.name is None:
        raise InputError(f"hub {command.what}: of which? write `merge-advisor hub {usage}`")
    return command.name


def _row(entry: HubEntry) -> tuple[str, ...]:
    more = f" (+{len(entry.ids) - 1})" if len(entry.ids) > 1 else ""
    rank, licence = str(entry.rank) if entry.rank else "", entry.licence or "unknown"
    return entry.id + more, entry.kind, rank, licence, _size(entry.size), entry.added[:10]


def _size(size: int) -> str:
    from merge_advisor.advisor.pool_listing import size_text

    return size_text(size) if size else "?"


def _plain(entry: HubEntry) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(entry)
    return {"id": entry.id, **plain}


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _LINES_SHOWN} more" if len(names) > _LINES_SHOWN else ""
    return ", ".join(names[:_LINES_SHOWN]) + rest


def _print(arguments: Arguments, value: Any, blocks: Sequence[TextBlock], *, ours: bool = True) -> int:
    print_result(arguments.part(OutputOptions), value, flagged(blocks, "hub") if ours else blocks)
    return OK
