"""`merge-advisor gate`: one model judged, or a pool watched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.cli.command_session import command_session
from merge_advisor.cli.exit_codes import OK, PARTIAL
from merge_advisor.cli.hub_arguments import GateCommand
from merge_advisor.cli.messages import with_flags
from merge_advisor.cli.options import OutputOptions
from merge_advisor.cli.parser import Arguments
from merge_advisor.cli.printing import flagged, print_blocks, print_json, print_result
from merge_advisor.cli.saying import say
from merge_advisor.errors import InputError, RunError
from merge_advisor.gate_options import GateOptions, WatchOptions
from merge_advisor.hub_options import HubPlace
from merge_advisor.json_form import to_plain
from merge_advisor.options import Places
from merge_advisor.report.document import Paragraph
from merge_advisor.report.score_table import seconds_text
from merge_advisor.session_options import Where

if TYPE_CHECKING:
    from merge_advisor.advisor.gating.gated_model import HubFinder, KnownModel
    from merge_advisor.advisor.gating.watch_state import PoolDecision
    from merge_advisor.gate_values import GateReport
    from merge_advisor.hub import Hub


def run_gate(arguments: Arguments) -> int:
    """Return the exit code of `merge-advisor gate`, run: 0 passed, 1 failed, 4 cannot tell.

    Args:
        arguments: what was given.

    Raises:
        InputError: neither a model nor a pool to watch, both, or a model without a baseline.
    """
    command, watching = arguments.part(GateCommand), arguments.part(WatchOptions)
    if watching.watch is not None:
        return _watch(arguments, command, watching)
    if command.model is None:
        raise InputError("gate: no MODEL to judge; name a run folder, an adapter's folder or a model, or `watch=POOL`")
    if command.baseline is None:
        raise InputError("gate: nothing to compare with; give `baseline=MODEL`, a run, an adapter or a full model")
    from merge_advisor.advisor.gating.gate import gate
    from merge_advisor.hub.judged import keep_gate
    from merge_advisor.report.gate_document import gate_blocks, gate_document
    from merge_advisor.report.junit import to_junit
    from merge_advisor.report.markdown import to_markdown
    from merge_advisor.whole_files import write_text

    output = arguments.part(OutputOptions)
    with _where(arguments) as where:
        report = gate(
            command.model, command.baseline, command.tasks, command.guards, options=arguments.part(GateOptions),
            metric=command.metric, fields=command.fields, template=command.template,
            find_in_hub=_finder(arguments), **where,
        )  # fmt: skip
    report = _with_candidates(arguments, report)
    if command.junit is not None:
        write_text(command.junit, to_junit(report))
    if command.summary is not None:
        write_text(command.summary, with_flags(to_markdown(gate_document(report, command.price)), "gate"))
    _listed(arguments, lambda hub: keep_gate(hub, report))  # last: what is listed has been written
    print_result(output, to_plain(report), flagged(gate_blocks(report, command.price), "gate"))
    return report.outcome.exit_code


def _hub_folder(arguments: Arguments) -> Path | None:
    """The hub folder that gates are listed in; None where none is named, or none is made there yet."""
    from merge_advisor.hub.catalogue import CATALOGUE

    folder = arguments.part(HubPlace).hub
    return folder if folder is not None and (folder / CATALOGUE).is_file() else None


def _with_candidates(arguments: Arguments, report: GateReport) -> GateReport:
    """The report of a gate with how many models of the hub folder, if one is named, could be judged so."""
    folder = _hub_folder(arguments)
    if folder is None or report.cost is None:
        return report
    from merge_advisor.hub import Hub
    from merge_advisor.hub.judged import models_of_base

    try:
        with Hub.open(folder) as hub:
            models = models_of_base(hub, arguments.part(Places).base)
    except RunError as error:
        say(with_flags(f"its models are not counted in the hub: {error}", "gate"))
        return report
    return replace(report, cost=replace(report.cost, candidates=models))


def _listed(arguments: Arguments, keep: Callable[[Hub], None], *, told: bool = True) -> None:
    """Have the hub folder, if one is named, list what was decided, which stands whether or not it can."""
    folder = _hub_folder(arguments)
    if folder is None:
        return
    from merge_advisor.hub import Hub

    try:
        with Hub.open(folder) as hub:
            keep(hub)
    except RunError as error:
        if told:
            say(with_flags(f"not listed in the hub: {error}", "gate"))


def _list_watched(arguments: Arguments, watching: WatchOptions, *, told: bool = True) -> None:
    from merge_advisor.hub.judged import keep_decisions

    _listed(arguments, lambda hub: keep_decisions(hub, watching.out, str(watching.watch)), told=told)


def _finder(arguments: Arguments) -> HubFinder | None:
    """What finds the model of hub:ID; None where no hub folder is named."""
    folder, base = arguments.part(HubPlace).hub, arguments.part(Places).base
    if folder is None:
        return None

    def known(name: str) -> KnownModel:
        from merge_advisor.advisor.gating.gated_model import KnownModel
        from merge_advisor.hub import Hub

        with Hub.open(folder) as hub:
            # by its base only where that is needed: a base has other names than the one it was added under
            entry = hub.entry(name, base=base if len(hub.catalogue.named(name)) > 1 else None)
            return KnownModel(entry.place, hub.base_of(entry.base).place, entry.template, entry.fingerprint)

    return known


@contextmanager
def _where(arguments: Arguments) -> Iterator[Where]:
    """Give where models and stores are, and how to compute."""
    places = arguments.part(Places)
    with command_session(arguments, places) as session:
        yield Where(**session, pool=places.pool, base=places.base)


def _watch(arguments: Arguments, command: GateCommand, watching: WatchOptions) -> int:
    """Watch a pool; ends after one look, or when it is interrupted."""
    if command.model is not None:
        raise InputError("gate: MODEL and `watch` are two things; give one of them")
    if command.junit is not None or command.summary is not None:
        raise InputError("gate: `junit` and `summary` are of one MODEL; a watched pool has its log.jsonl")
    from merge_advisor.advisor.gating.watch import Watching, watch_pool
    from merge_advisor.advisor.gating.watch_state import DECISIONS_MEASURED, LOG

    output = arguments.part(OutputOptions)
    made: list[PoolDecision] = []

    def show(decision: PoolDecision) -> None:
        made.append(decision)
        if decision.kind in DECISIONS_MEASURED:
            _list_watched(arguments, watching)
        if output.json and not watching.once:  # it never ends: an object a line
            print_json(to_plain(decision), line=True)
        elif not output.json:
            print_blocks(flagged([Paragraph(f"{decision.text}{_cost(decision, command.price)}")], "gate"))
            sys.stdout.flush()

    asked = Watching(
        str(watching.watch), command.tasks, arguments.part(GateOptions), watching, command.baseline, command.guards,
        command.metric, command.fields, command.template, _finder(arguments),
    )  # fmt: skip
    # what a process decided that was killed before it was listed; where that fails the next decision tells
    _list_watched(arguments, watching, told=False)
    with _where(arguments) as where:
        watch_pool(asked, show, lambda text: say(with_flags(text, "gate")), **where)
    log = watching.out / LOG
    if output.json:
        print_json({"decisions": to_plain(made), "log": str(log)})
    else:
        count = f"{len(made)} decision{'' if len(made) == 1 else 's'}, in {log}"
        print_blocks([Paragraph(count if made else f"nothing new; the log is {log}")])
    return PARTIAL if any(decision.kind == "set-aside" for decision in made) else OK


def _cost(decision: PoolDecision, price: float | None) -> str:
    """What judging a model took, and what judging every candidate on the same rows would have taken."""
    from merge_advisor.advisor.gating.watch_state import DECISIONS_MEASURED

    if decision.kind not in DECISIONS_MEASURED:
        return ""
    text = f"\ncost: {seconds_text(decision.seconds, price)}, {decision.measured} measurements"
    text += f", {decision.forwards} forward passes"
    text += "" if decision.peak_bytes is None else f", {decision.peak_bytes / 2**30:.1f} GiB at most"
    if decision.all_candidates_seconds is None:
        return text
    return (
        f"{text}; instead: scoring all {decision.candidates} candidates of the pool on these rows: "
        f"{decision.all_candidates_forwards} forward passes, {seconds_text(decision.all_candidates_seconds, price)}"
    )
