"""`plan --hub`: a shortlist by the index before anything is loaded, then the same plan on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor import advisor, registry
from merge_advisor.advisor.measuring.session import Session, default_cache, open_session
from merge_advisor.advisor.planning.plan import check_choosing, check_options
from merge_advisor.advisor.planning.plan_value import StepTimer
from merge_advisor.advisor.planning.sources import find_sources, read_sources
from merge_advisor.errors import InputError, PoolError, RunError
from merge_advisor.hub.filters import EntryFilter
from merge_advisor.hub.index import refuse_space
from merge_advisor.hub.run_scores import add_run_scores
from merge_advisor.hub.shortlist import Shortlist, TaskEvidence, shortlist
from merge_advisor.hub.task_vectors import check_base, hub_template, task_vector
from merge_advisor.hub.values import HubEntry
from merge_advisor.hub_options import HubPlanOptions
from merge_advisor.json_form import VERSION, digest_of
from merge_advisor.options import PlanOptions
from merge_advisor.plain_text import short_name
from merge_advisor.pool.licences import read_card
from merge_advisor.types import SHOTS_LORA, Pool, Task
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.evaluators.lm_eval_tasks import TaskName
    from merge_advisor.hub.opened import OpenHub
    from merge_advisor.session_options import SessionOptions

_GONE_SHOWN = 5


def _say_nothing(note: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class PlanAsked:
    """What a plan from a hub takes beside its options; see `advisor.plan`.

    >>> PlanAsked(HubPlanOptions(shortlist=24), scored=False).force
    False
    """

    hub: HubPlanOptions = field(default_factory=HubPlanOptions)
    lm_eval: Sequence[TaskName] = ()
    force: bool = False
    scored: bool = True
    guard: Path | None = None
    metric: str = "auto"
    on_note: Callable[[str], None] = _say_nothing
    """Called with what else there is to say once the run is there."""


def plan_from_hub(
    hub: OpenHub, tasks: Sequence[Path], *, out: Path, base: str | None = None, options: PlanOptions | None = None,
    asked: PlanAsked | None = None, **where: Unpack[SessionOptions],
) -> Run:  # fmt: skip
    """Return the run of what to merge for a task, chosen among a shortlist of a hub; see `Hub.plan`.

    Args:
        hub: open.
        tasks: files of examples.
        out: the run folder to make.
        base: of the models.
        options: of the plan.
        asked: size of the shortlist, filter, and what else `plan` takes.
        where: see `SessionOptions`.

    Raises:
        InputError: the hub has no model that fits.
        MergeAdvisorError: as `plan`.
    """
    options, asked = options or PlanOptions(), asked or PlanAsked()
    base = base or hub.base_of(None).place
    named = shortlist_file(hub, tasks, base=base, options=options, asked=asked, **where)
    run = advisor.plan(
        list(tasks), lm_eval=asked.lm_eval, pool=named.manifest, base=base, out=out, options=of_shortlist(options),
        force=asked.force, scored=asked.scored, guard=asked.guard, metric=asked.metric, notes=named.notes_of,
        seconds=named.seconds, fitting=named.fitting, **where,
    )  # fmt: skip
    try:
        add_run_scores(hub, run)
    except RunError as error:
        # the run is there, whether or not the hub can remember it
        asked.on_note(f"not listed in the hub: {error}; then `merge-advisor hub add-run {run.folder}` lists it")
    return run


def of_shortlist(options: PlanOptions) -> PlanOptions:
    """Return the options of the plan that follows: what chose among the hub's models is not asked of the few again.

    Args:
        options: as they were given.
    """
    excluded = tuple(name for name in options.exclude if name == SHOTS_LORA)
    return replace(options, include=(), licence=(), exclude=excluded)


@dataclass(frozen=True, slots=True)
class NamedPool:
    """A shortlist as a pool that `plan` opens.

    >>> NamedPool(Path("shortlist.yaml"), (), {}).notes_of(Pool((), ()))
    ()
    """

    manifest: Path
    notes: tuple[str, ...]
    added: dict[str, str]
    """Fingerprint of each model, as the hub knows it, by id."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What naming them took, by step."""
    fitting: int | None = None
    """Models of the hub that could have been in it."""

    def notes_of(self, pool: Pool) -> tuple[str, ...]:
        """Return what the report says, and which models are no longer what was added: they are taken as they are.

        Args:
            pool: the manifest's, open.
        """
        other = [c.id for c in pool.candidates if c.fingerprint != self.added.get(c.id, c.fingerprint)]
        if not other:
            return self.notes
        changed = f"models with other weights than the hub knows, taken as they are now: {_some(other)}; add their pool"
        return (*self.notes, changed)


def shortlist_file(
    hub: OpenHub, tasks: Sequence[Path], *, base: str, options: PlanOptions, asked: PlanAsked,
    **where: Unpack[SessionOptions],
) -> NamedPool:  # fmt: skip
    """Return the manifest of the models that a plan opens, written into the cache, and what is to be said of it.

    Args:
        hub: open.
        tasks: files of examples.
        base: of the models.
        options: of the plan.
        asked: size of the shortlist, and filter.
        where: see `SessionOptions`.

    Raises:
        InputError: the hub has no model that fits.
        MergeAdvisorError: as `plan`.
    """
    check_options(options)
    offline = where.get("offline", False)
    parts = [
        item.task
        for item in read_sources(find_sources(tasks, asked.lm_eval, offline=offline), options, offline=offline)
    ]
    check_choosing(parts, options)
    template = hub_template(hub, base, options.template)
    timer = StepTimer()
    with timer.step("open"):
        session = open_session(base, None, template=template, **where)
    with session:
        chosen, total = chosen_of(hub, session, options, asked)
        needed = needed_of(hub, session.local.base.digest, options, chosen)
        evidence = TaskEvidence(None, "", tuple(task.name for task in parts))
        if total > asked.hub.shortlist:
            with timer.step("finetune on the shots"):
                evidence = _evidence(hub, session, parts, options)
        with timer.step("name the shortlist"):
            found = shortlist(hub, evidence, chosen, asked.hub.shortlist, needed)
        if not found.entries:
            raise none_there(hub, found.gone)
        manifest = kept_manifest(found.entries, template, where.get("cache"))
        _keep_deltas(hub, session, found.entries)
        notes = _notes(hub, found, options, asked, total)
    return NamedPool(
        manifest, tuple(notes), {entry.id: entry.fingerprint for entry in found.entries}, dict(timer.seconds), total
    )


def chosen_of(hub: OpenHub, session: Session, options: PlanOptions, asked: PlanAsked) -> tuple[EntryFilter, int]:
    """Return which models of a hub a plan may open, and how many these are.

    Args:
        hub: open.
        session: the base, open.
        options: of the plan.
        asked: the filter.

    Raises:
        InputError: the hub holds no model of that base, or none that fits.
    """
    chosen = hub.filtered(asked.hub.filter, check_base(hub, session)).and_also(wanted_of(options))
    total = hub.catalogue.count(chosen)
    if not total:
        raise InputError(
            f"hub {hub.folder}: none of its models of base {session.local.base.id} fits the filters; loosen them"
        )
    return chosen, total


def none_there(hub: OpenHub, gone: Sequence[str]) -> PoolError:
    """Return the error of a plan all of whose models are gone.

    Args:
        hub: open.
        gone: their ids.
    """
    return PoolError(
        f"hub {hub.folder}: no model that fits is where it was added from ({_some(gone)}); add its pool again from "
        "where it is now"
    )


def _evidence(hub: OpenHub, session: Session, tasks: Sequence[Task], options: PlanOptions) -> TaskEvidence:
    space, vector = task_vector(hub, session, tasks, options)
    number = hub.catalogue.space_number(space)
    if number is None:
        raise refuse_space(hub.folder, [one for one in hub.catalogue.spaces().values() if one.base == space.base])
    text = "\n".join(f"{row.input} {row.output}" for task in tasks for row in task.choosing)
    return TaskEvidence((number, space, vector), text, tuple(task.name for task in tasks))


def needed_of(hub: OpenHub, base: str, options: PlanOptions, chosen: EntryFilter) -> list[HubEntry]:
    """Return the anchor that a plan demands, if it does: it has to fit the filters, as in a pool.

    Args:
        hub: open.
        base: digest of the base.
        options: of the plan.
        chosen: which models fit.

    Raises:
        InputError: there is no such model, or it does not fit.
    """
    if options.anchor is None:
        return []
    entry = hub.entry(options.anchor, base=base)
    if not hub.catalogue.count(chosen.and_also(EntryFilter("e.number = ?", (entry.number,)))):
        raise InputError(
            f"`anchor={short_name(options.anchor)}`: does not fit the filters; loosen them, or name another"
        )
    return [entry]


def wanted_of(options: PlanOptions) -> EntryFilter:
    """Return the filter that a plan's globs on ids and licences, and what its composition takes, make.

    Args:
        options: of the plan.

    Raises:
        SpecError: an unknown composition.
    """
    ids = "SELECT 1 FROM names n WHERE n.entry = e.number AND n.current = 1 AND n.id GLOB ?"
    chosen = EntryFilter()
    if options.include:
        chosen = EntryFilter(f"({' OR '.join([f'EXISTS ({ids})'] * len(options.include))})", options.include)
    for pattern in options.exclude:
        if pattern != SHOTS_LORA:
            chosen = chosen.and_also(EntryFilter(f"NOT EXISTS ({ids})", (pattern,)))
    if options.licence:
        terms = ["coalesce(e.licence, 'unknown') GLOB ?"] * len(options.licence)
        patterns = tuple(pattern.lower() for pattern in options.licence)
        chosen = chosen.and_also(EntryFilter(f"({' OR '.join(terms)})", patterns))
    takes = registry.load("composition", options.composition.partition(":")[0].strip()).takes
    return chosen if takes == "both" else chosen.and_also(EntryFilter("e.kind || 's' = ?", (takes,)))


def manifest_of(entries: Sequence[HubEntry], template: str) -> str:
    """Return the manifest of some models of a hub, by id.

    Args:
        entries: the models.
        template: they were trained under.
    """
    lines = [f"version: {VERSION}", f"template: {_quoted(template)}", "models:"]
    for entry in sorted(entries, key=lambda item: item.id):
        if entry.revision is not None:
            lines += [f"- hub: {_quoted(entry.source)}", f"  revision: {_quoted(entry.revision)}"]
        else:
            lines += [f"- path: {_quoted(entry.place)}"]
        lines += [f"  id: {_quoted(entry.id)}"]
        # a text that another manifest gave it; its own card is read where it lies
        if entry.card and entry.card != read_card(Path(entry.place)).text:
            lines += [f"  description: {_quoted(entry.card)}"]
    return "\n".join(lines) + "\n"


def kept_manifest(entries: Sequence[HubEntry], template: str, cache: Path | None = None) -> Path:
    """Return where the manifest of some models of a hub was written, in the cache.

    Args:
        entries: the models.
        template: they were trained under.
        cache: its folder; None: the usual one.

    Raises:
        RunError: it cannot be written.
    """
    text = manifest_of(entries, template)
    manifest = (cache or default_cache()).absolute() / "hub" / f"{digest_of(text)}.yaml"
    write_text(manifest, text)
    return manifest


def _quoted(text: str) -> str:
    """A text as YAML and JSON write it; characters as they are, since YAML knows no pairs of surrogates."""
    return json.dumps(text, ensure_ascii=False)


def _notes(hub: OpenHub, found: Shortlist, options: PlanOptions, asked: PlanAsked, total: int) -> list[str]:
    of = opened_of(hub, len(found.entries), total, options, asked)
    if found.by:
        named = ", ".join(f"{count} by {name}" for name, count in found.by.items() if count)
        notes = [f"{of} were opened, a shortlist ({named}); the others were not looked at: `shortlist` takes more"]
    else:
        notes = [f"{of} were opened, all there are"]
    return [*notes, *gone_notes(found.gone)]


def opened_of(hub: OpenHub, opened: int, total: int, options: PlanOptions, asked: PlanAsked) -> str:
    """Return how many of a hub's models a plan opens, as words that a sentence begins with.

    Args:
        hub: open.
        opened: how many.
        total: models of the base that fit.
        options: of the plan.
        asked: the filter.
    """
    filters = [f"filter {asked.hub.filter}"] if asked.hub.filter.strip() else []
    filters += [f"{name} {', '.join(getattr(options, name))}" for name in ("include", "exclude", "licence")
                if getattr(options, name)]  # fmt: skip
    fit = f" that fit {' and '.join(map(short_name, filters))}" if filters else ""
    return f"hub {hub.folder}: {opened} of its {total} models of this base{fit}"


def gone_notes(gone: Sequence[str]) -> list[str]:
    """Return what is said of models whose folders are gone: a line, or none.

    Args:
        gone: their ids.
    """
    return [f"models of the hub whose folders are gone were left out: {_some(gone)}"] if gone else []


def _keep_deltas(hub: OpenHub, session: Session, entries: Sequence[HubEntry]) -> None:
    """Give the store what the hub knows: it may have been filled with another store, on another machine."""
    store = session.memo.store
    for number, space in hub.catalogue.spaces().items():
        for entry in entries if space.base == session.local.base.digest else ():
            if store.delta(space, entry.fingerprint) is None:
                delta = hub.deltas.delta(number, entry.number)
                if delta is not None:
                    store.keep_delta(space, entry.fingerprint, delta)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _GONE_SHOWN} more" if len(names) > _GONE_SHOWN else ""
    return ", ".join(short_name(name) for name in names[:_GONE_SHOWN]) + rest
