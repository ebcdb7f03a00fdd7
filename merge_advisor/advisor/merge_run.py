"""`merge`: a run's recipe carried out, written as a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from merge_advisor import registry
from merge_advisor.advisor.measuring.shots_lora import write_lora
from merge_advisor.advisor.runs.prompt_folder import prompt_files
from merge_advisor.advisor.runs.renderings import model_places
from merge_advisor.advisor.runs.reopening import find_members, open_run
from merge_advisor.advisor.runs.run_folder import MEMBERS, read_run, recipe_now
from merge_advisor.compose.truncate import DEFAULT_RANK
from merge_advisor.errors import ExternalError, InputError, RunError
from merge_advisor.formats.full_model import half_precision, to_own_dtype, write_full_model
from merge_advisor.formats.peft import model_card
from merge_advisor.json_form import to_json
from merge_advisor.merges import merge_of
from merge_advisor.types import KIND_NAMES, TRAINED
from merge_advisor.whole_files import scratch_folder

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.pool_weights import MergedWeights
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.formats import Format
    from merge_advisor.session_options import Where
    from merge_advisor.types import Candidate, Recipe

Engine = Literal["memory", "mergekit"]
"""Who merges: this program, or mergekit in a child process."""


def merge_run(
    run: str | Path,
    out: str | Path,
    *,
    engine: Engine = "memory",
    adapter: bool = False,
    gguf: bool = False,
    rank: int | None = None,
    on_note: Callable[[str], None] | None = None,
    **where: Unpack[Where],
) -> Path:
    """Return `out`, where the merged model of a run folder was written.

    >>> merge_run("run", "merged-adapter", adapter=True).name
    'merged-adapter'

    Args:
        run: the run folder.
        out: a folder (with `gguf` a file) that is not there yet.
        engine: "memory" (this program) or "mergekit" (in a child process).
        adapter: write the merged LoRA in PEFT layout instead of a full model; a composition that gives no LoRA factors
            is cut to a rank by SVD, with the relative error in the model card.
        gguf: write one GGUF file, by llama.cpp's converter.
        rank: rank an adapter is cut to; None: the recipe's, or for what has no factors the largest that servers take.
        on_note: called with a sentence about each approximation.
        where: where members and base are, and how to compute (the threads of a child process, too), see `Where`.

    Raises:
        RunError: `out` is there already, a member cannot be found, or the run was tuned meanwhile.
        InputError: mergekit, or an adapter, cannot give the same model, or a rank that is none; or the run's model is
            the base with examples in its prompt, which no weights are.
        ExternalError: mergekit failed, or merged another model.
    """
    folder, out = Path(run), Path(out)
    if out.exists():
        raise RunError(f"{out}: is there already; give another `out`")
    if gguf:
        from merge_advisor.formats.run_gguf import find_converter

        find_converter()  # before anything is merged: it may be missing
        if adapter or engine == "mergekit":
            raise InputError(
                "`gguf=True`: converts the full model merged in memory; leave out `adapter=True` and "
                "`engine='mergekit'`"
            )
    if rank is not None and (rank < 1 or not adapter):
        raise InputError(f"`rank={rank}`: goes with `adapter=True`, and is at least 1")
    opened = read_run(folder)
    check_mergeable(opened)
    with open_run(opened, **where) as session:
        if opened.is_base and on_note:
            on_note("the model is the base itself: all weights of the run's recipe are 0")
        if opened.prompted and on_note:
            prompts = " and ".join(str(opened.folder / name) for name in prompt_files(opened))
            held = prompts or "score(run) writes it"
            on_note(f"the model was measured with examples in its prompt, which no weights hold: {held}")
        members = find_members(session.pool, session.local, opened.folder, opened.recipe)
        recipe = _adapter_recipe(opened, rank) if adapter else opened.recipe
        carried = session.weights.carry_out(merge_of(recipe, members))
        if recipe_now(folder).digest != opened.recipe.digest:  # `tune` put other weights in place meanwhile
            raise RunError(f"{folder}: was tuned while it was read; merge it again")
        if on_note and session.local.dequantised and not adapter:
            on_note(session.local.dequantised)
        # says what the model is, wherever the folder goes; written with it: a kill between would leave it without
        texts = {"recipe.json": to_json(recipe)}
        if engine == "mergekit":
            halves = _own_dtype(session, where)
            _with_mergekit(session, opened, members, carried, out, texts, halves=bool(halves))
            if halves and on_note:
                on_note(f"written in {halves}, as the base is; `dtype=float32` writes it in float32")
        elif adapter:
            card = model_card(recipe, model_places(session.local, recipe, carried))
            write_lora(out, carried.delta, session.model, texts={"README.md": card, **texts})
            if carried.rank_error > 0 and on_note:
                lost = f"relative error {carried.rank_error:.3g} (Frobenius norm of what is lost)"
                on_note(f"cut to rank {recipe.rank} by SVD: {lost}")
        elif gguf:
            _as_gguf(session, carried, out)
        else:
            _write_whole(session, carried, out, texts, _own_dtype(session, where), on_note)
    return out


def check_mergeable(run: Run) -> None:
    """Refuse a run whose model is the base with examples in its prompt: its weights are the base's.

    >>> check_mergeable(read_run(Path("run")))

    Args:
        run: the run.

    Raises:
        InputError: it is; the message says where the prompt is.
    """
    if not (run.prompted and run.is_base):
        return
    places = [str(run.folder / name) for name in prompt_files(run)]
    where = f"give the base the prompt in {places[0]}" if places else "score(run) writes the prompt, for the base"
    raise InputError(
        f"{run.folder}: its model is the base itself with examples in its prompt, so there is nothing to merge; {where}"
    )


def _own_dtype(session: Session, where: Where) -> str:
    """The half precision that the base is in and its merge is written in; "" where that is float32, or was asked."""
    asked = where.get("machine")
    return "" if asked is not None and asked.dtype == "float32" else half_precision(session.local.path)


def _write_whole(
    session: Session, carried: MergedWeights, out: Path, texts: Mapping[str, str], halves: str,
    on_note: Callable[[str], None] | None,
) -> None:  # fmt: skip
    base = session.local.path
    lost: list[float] = []
    with_progress(
        session, "writing the model",
        lambda: lost.append(write_full_model(base, carried.delta, out, own_dtype=bool(halves), texts=texts)),
    )  # fmt: skip
    if halves and on_note:
        on_note(
            f"written in {halves}, as the base is: rounding takes {lost[0]:.1%} of the change (Frobenius norm); "
            "`dtype=float32` writes it in float32"
        )


def with_progress(session: Session, what: str, work: Callable[[], object]) -> None:
    """Do one long piece of work and report its beginning and its end.

    Args:
        session: reports.
        what: names the work.
        work: does it.
    """
    session.model.progress(what, 0, 1)
    work()
    session.model.progress(what, 1, 1)


def _as_gguf(session: Session, carried: MergedWeights, out: Path) -> None:
    from merge_advisor.formats.run_gguf import run_gguf

    # beside the result: a temporary folder elsewhere may be on a small disk
    with scratch_folder(out) as scratch:
        model = scratch / "model"
        session.model.progress("writing the model", 0, 1)
        write_full_model(session.local.path, carried.delta, model)
        with_progress(session, "converting to GGUF", lambda: run_gguf(model, out))


def _adapter_recipe(run: Run, rank: int | None) -> Recipe:
    """The recipe of the run as an adapter can hold it: cut to a rank where it gives no factors, or was asked for.

    Raises:
        InputError: full checkpoints are merged.
    """
    recipe = run.recipe
    if other := next((member for member in recipe.members if member.kind != "adapter"), None):
        raise InputError(
            f"{run.folder}: {other.id} is {KIND_NAMES[other.kind]}, no LoRA holds that; leave out `adapter=True`"
        )
    factors = registry.build("composition", recipe.composition).low_rank
    ranks = [given for given in (rank, recipe.rank) if given is not None]
    return replace(recipe, rank=min(ranks, default=None if factors else DEFAULT_RANK))


def _with_mergekit(
    session: Session, run: Run, found: Mapping[str, Candidate], carried: MergedWeights, out: Path,
    texts: Mapping[str, str], *, halves: bool,
) -> None:  # fmt: skip
    from merge_advisor.formats.run_mergekit import run_mergekit

    rendering: Format = registry.build("format", "mergekit")
    refusal = rendering.refusal(run.recipe)
    if refusal:
        raise InputError(
            f"{run.folder}: mergekit cannot give the same model ({refusal}); leave out `engine='mergekit'`"
        )

    def finish(folder: Path) -> None:
        session.model.progress("mergekit", 1, 1)
        with_progress(
            session, "comparing with our own merge", lambda: _check_same(session, run.recipe, carried, folder)
        )
        if halves:
            to_own_dtype(folder, session.local.path)
        for name, content in texts.items():
            (folder / name).write_text(content, encoding="utf-8", errors="surrogatepass")

    with scratch_folder() as scratch:
        places = model_places(session.local, run.recipe, carried, scratch)
        # mergekit runs in a folder of its own, where the run folder's relative path leads nowhere
        members = {name: _absolute(place, found[name], scratch) for name, place in places.members.items()}
        rendering.write(run.recipe, replace(places, members=members), scratch)
        text = (scratch / "mergekit.yaml").read_text(encoding="utf-8")
        session.model.progress("mergekit", 0, 1)
        run_mergekit(text, out, threads=session.model.machine.threads, finish=finish)


def _absolute(place: str, member: Candidate, scratch: Path) -> str:
    if member.id in TRAINED:
        return str(Path(member.path).resolve())
    return str(scratch / place) if place.startswith(f"{MEMBERS}/") else place


def _check_same(session: Session, recipe: Recipe, carried: MergedWeights, out: Path) -> None:
    """Compare mergekit's weights with ours, one after the other; refuse them where they are another model.

    mergekit sees base + ΔW rounded to float32, so a few entries that tie a threshold or a vote may fall the other way.

    Raises:
        ExternalError: a weight differs by more than a thousandth of its change (where entries are trimmed or voted on,
            a tenth), or is not there.
    """
    from merge_advisor.formats.compare_models import differences

    exact = recipe.composition.partition(":")[0] in ("exact", "task_arithmetic")
    apart = differences(session.local.path, carried.delta, out)
    limit = 1e-3 if exact else 0.1
    wrong = {name: share for name, share in apart.items() if not share <= limit}
    if wrong:
        name = max(wrong, key=lambda key: wrong[key])
        by = f"by {wrong[name]:.1%} of its change" if math.isfinite(wrong[name]) else "altogether"
        raise ExternalError(
            f"mergekit merged another model: {len(wrong)} of {len(apart)} weights differ, {name} {by}; nothing was "
            "kept, merge without `engine='mergekit'`"
        )
