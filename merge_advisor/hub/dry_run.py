"""`plan --hub --dry-run`: which of a hub's models would be opened, and what a plan with them costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.planning.dry_run import describe_plan
from merge_advisor.hub.planning import (
    PlanAsked,
    chosen_of,
    gone_notes,
    manifest_of,
    needed_of,
    none_there,
    of_shortlist,
    opened_of,
)
from merge_advisor.hub.shortlist import can_be_opened
from merge_advisor.hub.task_vectors import hub_template
from merge_advisor.options import PlanOptions
from merge_advisor.whole_files import scratch_folder, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from merge_advisor.hub.filters import EntryFilter
    from merge_advisor.hub.opened import OpenHub
    from merge_advisor.hub.values import HubEntry
    from merge_advisor.session_options import SessionOptions

_BATCH = 500


def describe_hub_plan(
    hub: OpenHub, tasks: Sequence[Path], *, base: str | None = None, options: PlanOptions | None = None,
    asked: PlanAsked | None = None, **where: Unpack[SessionOptions],
) -> dict[str, Any]:  # fmt: skip
    """Return what `plan --hub` would do, as `describe_plan` says it of a pool; nothing is loaded or written.

    What a shortlist holds is known once the LoRA of the shots is trained. Where the hub has more models than it takes,
    the first ones that fit stand for them.

    >>> from merge_advisor.hub import Hub
    >>> with Hub.open("hub-dry-example", make=True) as hub:
    ...     added = hub.add("adapters", base="base")
    ...     describe_hub_plan(hub, [Path("examples.jsonl")])["lines"][0]
    'hub hub-dry-example: 6 of its 6 models of this base would be opened, all there are'

    Args:
        hub: open.
        tasks: task files.
        base: as of `Hub.plan`.
        options: of the plan.
        asked: size of the shortlist, filter, tasks of lm-eval.
        where: see `SessionOptions`.

    Raises:
        InputError: the hub has no model that fits.
        MergeAdvisorError: whatever `plan` itself would refuse.
    """
    options, asked = options or PlanOptions(), asked or PlanAsked()
    base = base or hub.base_of(None).place
    template = hub_template(hub, base, options.template)
    with open_session(base, None, template=template, dry=True, **where) as session:
        chosen, total = chosen_of(hub, session, options, asked)
        needed = needed_of(hub, session.local.base.digest, options, chosen)
    size, gone = min(asked.hub.shortlist, total), list[str]()
    taken = {entry.number for entry in needed}
    others = (entry for entry in _there(hub, chosen, gone) if entry.number not in taken)
    entries = list(islice(chain(filter(can_be_opened, needed), others), size))
    if not entries:
        raise none_there(hub, gone)
    with scratch_folder() as folder:
        manifest = folder / "hub.yaml"
        write_text(manifest, manifest_of(entries, template))
        told = describe_plan(
            tasks, lm_eval=asked.lm_eval, pool=manifest, base=base, options=of_shortlist(options),
            guard=asked.guard if asked.scored else None, **where
        )  # fmt: skip
    said = f"{opened_of(hub, len(entries), total, options, asked)} would be opened, "
    if total > size:
        said += (
            "a shortlist, named once the LoRA of the shots is trained; what follows is of the first that fit, in their "
            "place"
        )
    else:
        said += "all there are"
    lines = [said, *(f"note: {note}" for note in gone_notes(gone)), *told["lines"]]
    return told | {"hub": {"models": total, "opened": len(entries), "shortlist": total > size}, "lines": lines}


def _there(hub: OpenHub, chosen: EntryFilter, gone: list[str]) -> Iterator[HubEntry]:
    """Models that can be opened, in the order they were added; ids of others are put to `gone`."""
    start = 0
    while entries := hub.catalogue.entries(chosen, limit=_BATCH, offset=start):
        start += len(entries)
        for entry in entries:
            if can_be_opened(entry):
                yield entry
            else:
                gone.append(entry.id)
