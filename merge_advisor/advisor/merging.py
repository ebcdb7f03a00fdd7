"""Carrying a recipe out: the merged weights in memory, the formats of a run folder, a model on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor import registry
from merge_advisor.advisor.measuring.measure import composed, shots_candidate
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.compose.truncate import DEFAULT_RANK, truncate
from merge_advisor.errors import InputError, RunError
from merge_advisor.formats import ModelPlaces
from merge_advisor.formats.full_model import write_full_model
from merge_advisor.formats.peft import model_card
from merge_advisor.options import Where
from merge_advisor.progress import quiet_progress
from merge_advisor.types import SHOTS_LORA, Candidate, Recipe
from merge_advisor.weights.adapter import read_adapter, write_adapter
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta

if TYPE_CHECKING:
    from merge_advisor.formats import Format


def merged_delta(session: Session, recipe: Recipe, members: Mapping[str, Candidate]) -> tuple[WeightDelta, float]:
    """Return the weight delta of a recipe and the relative Frobenius error of cutting it to the recipe's rank.

    Raises:
        SpecError: the composition cannot take these members.
    """
    candidates = [members[member.id] for member in recipe.members]
    delta = composed(session, candidates, [m.weight for m in recipe.members], recipe.composition, recipe.layers)
    return (delta, 0.0) if recipe.rank is None else truncate(delta, recipe.rank)


def rank_of(delta: WeightDelta) -> int:
    """Largest rank of the factors of a weight delta; 0 where there are none."""
    updates = (delta[name] for name in delta)
    return max((update.rank for update in updates if isinstance(update, LowRankUpdate)), default=0)


def with_rank(session: Session, recipe: Recipe, members: Mapping[str, Candidate], asked: int | None) -> Recipe:
    """Set the rank a recipe's merge is cut to, where something has to be cut; `asked` is the user's.

    That is: factors of more than `asked` (or than servers take), and whatever gives no factors if a rank was asked
    for. With a checkpoint among the members nothing is cut.
    """
    recipe = replace(recipe, rank=None)
    if any(members[member.id].kind == "checkpoint" for member in recipe.members):
        return recipe
    if not registry.build("composition", recipe.composition).low_rank:
        return replace(recipe, rank=asked)
    limit = asked or DEFAULT_RANK
    return replace(recipe, rank=limit) if rank_of(merged_delta(session, recipe, members)[0]) > limit else recipe


def places_of(
    session: Session, recipe: Recipe, members: Mapping[str, Candidate], merged: WeightDelta, error: float = 0.0
) -> ModelPlaces:
    """Where base and members are, as a format in the run folder names them."""
    base = session.local.base
    hub = base.revision is not None
    where: dict[str, str] = {}
    for member in recipe.members:
        candidate = members[member.id]
        if member.id == SHOTS_LORA:
            where[member.id] = SHOTS_LORA
        else:
            where[member.id] = candidate.source if candidate.revision else str(Path(candidate.path).resolve())
    return ModelPlaces(
        base=base.id if hub else str(session.local.path.resolve()),
        base_revision=base.revision,
        members=where,
        revisions={member.id: members[member.id].revision for member in recipe.members},
        merged=merged,
        rank_error=error,
        names=session.local.shapes,
    )


def write_formats(
    session: Session,
    recipe: Recipe,
    members: Mapping[str, Candidate],
    merged: WeightDelta,
    folder: Path,
    *,
    lora: Candidate | None = None,
    error: float = 0.0,
) -> list[str]:
    """Write every format that reproduces the recipe, and the LoRA of the shots if it is given; returns their names."""
    if lora is not None:
        shutil.copytree(lora.path, folder / SHOTS_LORA)
    places = places_of(session, recipe, members, merged, error)
    written = []
    for name in registry.names("format"):
        rendering: Format = registry.build("format", name)
        if not rendering.refusal(recipe):
            rendering.write(recipe, places, folder)
            written.append(name)
    return written


def find_members(session: Session, run: Run) -> dict[str, Candidate]:
    """Find a recipe's members by fingerprint in the session's pool and the run folder.

    Raises:
        RunError: one is in neither; the message names it.
    """
    by_print = {c.fingerprint: c for c in session.pool.candidates}
    lora = run.folder / SHOTS_LORA
    found = {}
    for member in run.recipe.members:
        candidate = by_print.get(member.fingerprint)
        if candidate is None and member.id == SHOTS_LORA and lora.is_dir():
            candidate = shots_candidate(lora, read_adapter(lora, session.local.shapes), 0)
            if candidate.fingerprint != member.fingerprint:
                raise RunError(f"{lora}: was changed after the plan; copy the whole run folder again")
        if candidate is None:
            raise RunError(
                f"member {member.id} (fingerprint {member.fingerprint[:12]}) is not in the pool; name its --pool"
            )
        found[member.id] = candidate
    return found


def reopen(folder: Path, **where: Unpack[Where]) -> tuple[Run, Session]:
    """Read a run folder and open its base and pool, by default where the plan found them.

    Raises:
        RunError: no run folder, or its base is another one than at hand.
    """
    run = read_run(folder)
    paths = run.plan.environment.paths
    session = open_session(
        where.get("base") or paths["base"], where.get("pool") or paths["pool"], template=run.plan.template,
        offline=where.get("offline", False), cache=where.get("cache"), store=where.get("store"),
        machine=where.get("machine"), progress=where.get("progress", quiet_progress),
    )  # fmt: skip
    if session.local.base.digest != run.recipe.base.digest:
        session.store.close()
        raise RunError(
            f"{folder}: was planned on base {run.recipe.base.id} with other weights; name that one by --base"
        )
    return run, session


def merge_run(
    folder: Path,
    out: Path,
    *,
    engine: str = "memory",
    adapter: bool = False,
    gguf: bool = False,
    rank: int | None = None,
    said: Callable[[str], None] | None = None,
    **where: Unpack[Where],
) -> Path:
    """Write the merged model of a run folder to `out`.

    Args:
        folder: the run folder.
        out: a folder that is not there yet.
        engine: "memory" (ours) or "mergekit" (in a child process).
        gguf: write one GGUF file, by llama.cpp's converter.
        adapter: write the merged LoRA in PEFT layout instead of a full model; a composition that gives no LoRA factors
            is cut to a rank by SVD, with the relative error in the model card.
        rank: rank an adapter is cut to; None: the recipe's, or for what has no factors the largest that servers take.
        said: called with a sentence about each approximation.
        where: where members and base are, and where to compute (the threads of a child process, too).

    Raises:
        RunError: `out` is there already, or a member cannot be found.
        InputError: mergekit, or an adapter, cannot give the same model, or a rank that is none.
        ExternalError: mergekit failed.
    """
    if out.exists():
        raise RunError(f"{out}: is there already; give another --out")
    if gguf:
        from merge_advisor.formats.run_gguf import find_converter

        find_converter()
        if adapter or engine == "mergekit":
            raise InputError(
                "--gguf: converts the full model merged in memory; leave out --adapter and --with mergekit"
            )
    if rank is not None and (rank < 1 or not adapter):
        raise InputError(f"--rank {rank}: goes with --adapter, and is at least 1")
    run, session = reopen(folder, **where)
    with session:
        members = find_members(session, run)
        recipe = _adapter_recipe(run, rank) if adapter else run.recipe
        merged, error = merged_delta(session, recipe, members)
        if engine == "mergekit":
            _with_mergekit(session, run, members, merged, out)
        elif adapter:
            write_adapter(
                out,
                merged,
                base_name=recipe.base.id,
                task_type="SEQ_2_SEQ_LM" if session.encoder_decoder else "CAUSAL_LM",
                dtype="float32",
                card=model_card(recipe, places_of(session, recipe, members, merged, error)),
                base_shapes=session.local.shapes,
                prefix=session.local.prefix,
            )
            if error > 0 and said:
                said(f"cut to rank {recipe.rank} by SVD: relative error {error:.3g} (Frobenius norm of what is lost)")
        elif gguf:
            _as_gguf(session, merged, out)
        else:
            session.progress("writing the model", 0, 1)
            write_full_model(session.local.path, merged, out)
            session.progress("writing the model", 1, 1)
    return out


def _as_gguf(session: Session, merged: WeightDelta, out: Path) -> None:
    from merge_advisor.formats.run_gguf import run_gguf

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        session.progress("writing the model", 0, 1)
        write_full_model(session.local.path, merged, Path(scratch) / "model")
        session.progress("converting to GGUF", 0, 1)
        run_gguf(Path(scratch) / "model", out)
        session.progress("converting to GGUF", 1, 1)


def _adapter_recipe(run: Run, rank: int | None) -> Recipe:
    """The recipe of the run as an adapter can hold it: cut to a rank where it gives no factors, or was asked for.

    Raises:
        InputError: full checkpoints are merged.
    """
    recipe = run.recipe
    if any(member.kind == "checkpoint" for member in recipe.members):
        raise InputError(f"{run.folder}: merges full checkpoints, no adapter holds that; leave out --adapter")
    factors = registry.build("composition", recipe.composition).low_rank
    ranks = [found for found in (rank, recipe.rank) if found is not None]
    return replace(recipe, rank=min(ranks, default=None if factors else DEFAULT_RANK))


def _with_mergekit(
    session: Session, run: Run, members: Mapping[str, Candidate], merged: WeightDelta, out: Path
) -> None:
    from merge_advisor.formats.run_mergekit import run_mergekit

    rendering: Format = registry.build("format", "mergekit")
    refusal = rendering.refusal(run.recipe)
    if refusal:
        raise InputError(f"{run.folder}: mergekit cannot give the same model ({refusal}); leave out --with mergekit")
    places = places_of(session, run.recipe, members, merged)
    where = {name: str((run.folder / SHOTS_LORA).resolve()) if name == SHOTS_LORA else place
             for name, place in places.members.items()}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="merge-advisor-") as scratch:
        local = replace(places, members=where)
        rendering.write(run.recipe, local, Path(scratch))
        text = (Path(scratch) / "mergekit.yaml").read_text(encoding="utf-8")
        session.progress("mergekit", 0, 1)
        run_mergekit(text, out, threads=session.machine.threads)
        session.progress("mergekit", 1, 1)
