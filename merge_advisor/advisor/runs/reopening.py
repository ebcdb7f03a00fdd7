"""Opening a run folder again: its base, its pool, and its members among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.measuring.shots_lora import read_trained
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.errors import RunError
from merge_advisor.session_options import Where, session_options
from merge_advisor.types import TRAINED, Candidate, Pool, Recipe

if TYPE_CHECKING:
    from merge_advisor.weights.base import LocalBase


def reopen(folder: Path, **where: Unpack[Where]) -> tuple[Run, Session]:
    """Return a run folder read, and its base and pool open, by default where the plan found them.

    Args:
        folder: the run folder.
        where: where members and base are, and how to compute, see `Where`.

    Raises:
        RunError: no run folder, or its base is another one than at hand.
        MergeAdvisorError: as `open_session`.
    """
    run = read_run(folder)
    paths = run.plan.environment.paths
    session = open_session(
        where.get("base") or paths["base"], where.get("pool") or paths["pool"], template=run.plan.template,
        **session_options(where),
    )  # fmt: skip
    # another base of the same shapes would merge without a complaint, and be wrong
    if session.local.base.digest != run.recipe.base.digest:
        session.memo.store.close()
        raise RunError(
            f"{folder}: was planned on base {run.recipe.base.id} with other weights; name that one by `base`"
        )
    return run, session


def find_members(pool: Pool, local: LocalBase, folder: Path, recipe: Recipe) -> dict[str, Candidate]:
    """Find a recipe's members by fingerprint in a pool and a run folder.

    Args:
        pool: where the candidates are.
        local: the base.
        folder: the run folder, which may hold what was trained.
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
        trained = folder / member.id
        if candidate is None and member.id in TRAINED and trained.is_dir():
            candidate = read_trained(trained, local)
            if candidate.fingerprint != member.fingerprint:
                raise RunError(f"{trained}: was changed after the plan; copy the whole run folder again")
        if candidate is None:
            raise RunError(
                f"member {member.id} (fingerprint {member.fingerprint[:12]}) is not in the pool; name its `pool`"
            )
        members[member.id] = candidate
    return members
