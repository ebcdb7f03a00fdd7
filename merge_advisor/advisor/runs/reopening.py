"""Opening a run folder again: its base, its pool, and its members among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.measuring.shots_lora import read_trained
from merge_advisor.advisor.runs.run_folder import PLANNED, Run, read_run
from merge_advisor.errors import RunError
from merge_advisor.session_options import Where, session_options
from merge_advisor.types import SHOTS_LORA, TRAINED, Candidate, Pool, Recipe

if TYPE_CHECKING:
    from merge_advisor.weights.base import LocalBase


def reopen(folder: Path, *, dry: bool = False, **where: Unpack[Where]) -> tuple[Run, Session]:
    """Return a run folder read, and its base and pool open, by default where the plan found them.

    Args:
        folder: the run folder.
        dry: as of `open_session`.
        where: where members and base are, and how to compute, see `Where`.

    Raises:
        RunError: no run folder, or its base is another one than at hand.
        MergeAdvisorError: as `open_session`.
    """
    run = read_run(folder)
    return run, open_run(run, dry=dry, **where)


def open_run(run: Run, *, dry: bool = False, **where: Unpack[Where]) -> Session:
    """Return base and pool of a run that was read, opened, by default where the plan found them.

    Args:
        run: the run.
        dry: as of `open_session`.
        where: as of `reopen`.

    Raises:
        RunError: its base is another one than at hand.
        MergeAdvisorError: as `open_session`.
    """
    paths = run.plan.environment.paths
    session = open_session(
        where.get("base") or paths["base"], where.get("pool") or paths["pool"], template=run.plan.template,
        dry=dry, **session_options(where),
    )  # fmt: skip
    # another base of the same shapes would merge without a complaint, and be wrong
    if session.local.base.digest != run.recipe.base.digest:
        session.memo.store.close()
        raise RunError(
            f"{run.folder}: was planned on base {run.recipe.base.id} with other weights; name that one by `base`"
        )
    return session


def find_members(pool: Pool, local: LocalBase, folder: Path, recipe: Recipe) -> dict[str, Candidate]:
    """Find a recipe's members by fingerprint in a pool and a run folder.

    Args:
        pool: where the candidates are.
        local: the base.
        folder: the run folder, which may hold what was trained; once tuned, what the plan trained under `plan/`.
        recipe: names the members.

    Returns:
        By the recipe's ids, in its order.

    Raises:
        RunError: one is in neither; the message names it.
    """
    # by fingerprint: the pool may lie elsewhere, and name its models otherwise
    by_fingerprint = {candidate.fingerprint: candidate for candidate in pool.candidates}
    members = {}
    for member in recipe.members:
        candidate = by_fingerprint.get(member.fingerprint)
        places = [place for place in (folder / member.id, folder / PLANNED / member.id) if place.is_dir()]
        if candidate is None and member.id in TRAINED and places:
            found = [read_trained(place, local) for place in places]
            candidate = next((own for own in found if own.fingerprint == member.fingerprint), None)
            if candidate is None:
                raise RunError(f"{places[0]}: was changed after the plan; copy the whole run folder again")
        if candidate is None:
            raise RunError(
                f"member {member.id} (fingerprint {member.fingerprint[:12]}) is not in the pool; name its `pool`"
                f"{_behind_links(pool)}"
            )
        members[member.id] = candidate
    return members


def _behind_links(pool: Pool) -> str:
    """What else may bring a model back: a pool that was planned with its links followed."""
    hidden = sum("`follow_links=True`" in item.reason for item in pool.refused)
    return f"; or give `follow_links=True`, {hidden} of its models are behind links that lead out of it" * bool(hidden)


def find_shots_lora(run: Run, local: LocalBase, *, of_plan: bool = False) -> Candidate:
    """Return the LoRA of the rows alone that a run shows.

    Args:
        run: the run.
        local: the base.
        of_plan: whether the plan's own is asked for, whatever `tune` put in its place.

    Raises:
        PoolError: it is no adapter of this base.
    """
    kept = run.folder / PLANNED / SHOTS_LORA
    # without its tuning a run is read as planned, also where `tune` was killed while it put its own in place
    planned = (of_plan or run.tuning is None) and kept.is_dir()
    return read_trained(kept if planned else run.folder / SHOTS_LORA, local)


def find_candidates(pool: Pool, run: Run) -> tuple[Candidate, ...]:
    """Return all candidates of a plan in a pool, by fingerprint, under the plan's ids and in its order.

    Args:
        pool: where they are, perhaps with others and under other names.
        run: its plan names them.

    Raises:
        RunError: one is not in the pool; the message names it.
    """
    by_fingerprint = {candidate.fingerprint: candidate for candidate in pool.candidates}
    found = []
    for report in run.plan.candidates:
        if report.status == "refused":
            continue
        if report.fingerprint not in by_fingerprint:
            raise RunError(
                f"candidate {report.id} of the plan (fingerprint {report.fingerprint[:12]}) is not in the pool, and an "
                f"adaptation looks at all of them; name its `pool`, or give `adaptation=none`{_behind_links(pool)}"
            )
        found.append(replace(by_fingerprint[report.fingerprint], id=report.id))
    return tuple(found)
