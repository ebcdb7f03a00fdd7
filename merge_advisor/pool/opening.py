"""Open a pool: find its models, check each against the base, set aside what cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from merge_advisor.errors import ExternalError, InputError, MergeAdvisorError, OfflineError, PoolError, RunError
from merge_advisor.plain_text import printable, short_name, without_middle
from merge_advisor.pool.candidate import examine_candidate, fetch_model
from merge_advisor.pool.merged_by_peft import PeftMerges
from merge_advisor.pool.places import readable
from merge_advisor.pool.remote import copied_pool, is_address
from merge_advisor.pool.sources import FoundModel, find_models
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.types import SHOTS_LORA, Candidate, Pool, RefusedModel
from merge_advisor.weights.adapter_config import NotPlainLoraError
from merge_advisor.weights.base import LocalBase
from merge_advisor.weights.files import FileError, Hashes
from merge_advisor.weights.hub import Snapshot

_DOWNLOADS = 8
"""Hub models fetched at a time."""
_IDS_SHOWN = 20
"""Ids that the error about a pattern lists."""
_LONGEST = 2000
"""Characters of the reason why a model is set aside."""

_REASONS_SHOWN, _REFUSED_NAMED = 3, 3
"""Reasons, and ids for each, that the error about a pool without candidates tells."""

_SnapshotOrError = Snapshot | MergeAdvisorError


class _Refusal(NamedTuple):
    """Why a model is no candidate."""

    reason: str
    """One line."""
    may_merge: bool
    """Whether it is an adapter that PEFT may be able to merge."""


def open_pool(
    ref: str | Path,
    base: LocalBase,
    *,
    offline: bool = False,
    hashes: Hashes | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    licence: Sequence[str] = (),
    follow_links: bool = False,
    copies: bool = False,
    runs: bool = True,
    cache: Path | None = None,
    progress: Progress = quiet_progress,
) -> Pool:
    """Return a pool's candidates for a base; a model that cannot be used is set aside with a reason.

    Takes more than eight parameters because which models are wanted and where files are kept are chosen apart.

    >>> from merge_advisor.weights.base import resolve_base
    >>> pool = open_pool("adapters", resolve_base("base", cache=Path("cache")), include=["a*"])
    >>> [candidate.id for candidate in pool.candidates], pool.refused
    (['a0', 'a1', 'a2'], ())

    Args:
        ref: a folder of models (or of one model), a manifest (.yaml), a list of hub ids (.txt), hub ids separated by
            commas, or an address that fsspec knows (`s3://...`). Hub models go to the hub's own cache.
        base: the base.
        offline: never fetch.
        hashes: a memo of file hashes and of what reading the weights showed; keep it between runs.
        include: globs on ids; if given, only models that match one of them.
        exclude: globs on ids; no model that matches one of them.
        licence: globs on the licences of the model cards, "unknown" where there is none; if given, only models that
            match one of them.
        follow_links: as of `find_models`.
        copies: whether models of equal weights are all candidates; else the first alone is.
        runs: whether the merge of a run folder among the models is a candidate; else it is set aside.
        cache: folder for what is unpacked, copied, written anew or merged by PEFT before it can be used; None: models
            that need it are set aside.
        progress: called with (what, done, total) where that takes long.

    Raises:
        PoolError: no such pool, nothing in it can be used, a bad manifest, or a filter that matches nothing.
        OfflineError: all its models would have to be fetched, and fetching is off.
        RunError: what is found, unpacked or written anew cannot be kept.
    """
    hashes = {} if hashes is None else hashes
    if is_address(str(ref)):
        if cache is None:
            raise PoolError(f"pool {ref}: has to be copied, which needs a folder; give `cache`")
        ref = copied_pool(str(ref), cache / "remote", offline=offline)
    sources = find_models(ref, follow_links=follow_links)
    if not runs:
        sources = replace(sources, models=tuple(_no_run(model) for model in sources.models))
    models = _filter(sources.models, include, exclude, f"pool {ref}")
    fetched = _fetch_all(models, offline=offline)
    found = [_readable(*pair, base, cache, hashes) for pair in zip(models, fetched, strict=True)]
    # by id: the order of a folder's listing differs between machines, that of the pool must not
    found.sort(key=lambda pair: pair[0].id)
    merges = PeftMerges(base, cache and cache / "merged", hashes, progress)
    examined = [_examined(model, place, base, hashes, None) for model, place in found]
    if merges.cache is not None:
        # what is more than plain LoRA is merged by one child process, and then looked at again
        more = [at for at, candidate in enumerate(examined) if isinstance(candidate, _Refusal) and candidate.may_merge]
        merges.prepare(place.path for at in more if isinstance(place := found[at][1], Snapshot))
        for at in more:
            examined[at] = _examined(*found[at], base, hashes, merges)
    candidates: list[Candidate] = []
    names: dict[str, str] = {}
    refused: list[RefusedModel] = []
    for (model, _), candidate in zip(found, examined, strict=True):
        if isinstance(candidate, Candidate) and (copies or candidate.fingerprint not in names):
            names.setdefault(candidate.fingerprint, candidate.id)
            candidates.append(candidate)
            continue
        if isinstance(candidate, Candidate):  # chosen twice it would only be one model at twice the weight
            reason = f"same weights as {names[candidate.fingerprint]}; remove one of the two"
        else:
            # without the id that some messages begin with: it stands before the reason anyway
            reason = candidate.reason.removeprefix(f"{model.id}: ")
        refused.append(RefusedModel(short_name(model.id), reason))
    if not candidates:
        _nothing_left(f"pool {ref}", refused, [place for _, place in found])
    kept = _by_licence(candidates, licence, f"pool {ref}")
    pool = Pool(tuple(kept), tuple(refused))
    return replace(pool, template=sources.template) if sources.template else pool


def _no_run(model: FoundModel) -> FoundModel:
    """A model, refused where it is the merge of a run folder."""
    said = "is a run folder, no model; `merge-advisor merge RUN --out MODEL` writes its merge as one"
    return replace(model, refusal=said) if model.run else model


def _fetch_all(models: Sequence[FoundModel], *, offline: bool) -> list[_SnapshotOrError]:
    def one(model: FoundModel) -> _SnapshotOrError:
        try:
            return fetch_model(model, offline=offline)
        except MergeAdvisorError as error:
            return error

    if not any(model.hub for model in models):
        return [one(model) for model in models]
    with ThreadPoolExecutor(_DOWNLOADS) as workers:
        return list(workers.map(one, models))


def _readable(
    model: FoundModel, place: _SnapshotOrError, base: LocalBase, cache: Path | None, hashes: Hashes
) -> tuple[FoundModel, _SnapshotOrError]:
    if isinstance(place, MergeAdvisorError):
        return model, place
    try:
        return readable(model, place, base, cache, hashes)
    except MergeAdvisorError as error:
        return model, error
    except OSError as error:
        return model, PoolError(f"cannot be read ({error.strerror or error}); check its permissions and free space")


def _examined(
    model: FoundModel, place: _SnapshotOrError, base: LocalBase, hashes: Hashes, merges: PeftMerges | None
) -> Candidate | _Refusal:
    """The candidate, or why it is none."""
    try:
        if isinstance(place, MergeAdvisorError):
            raise place
        return examine_candidate(model, place, base, hashes, merges)
    except RunError:  # store or cache cannot be written: no model's fault, and the pool would be another one
        raise
    except (InputError, OfflineError, ExternalError, FileError) as error:
        # what the model's files hold may stand in it: no part of it reaches a run, a report or a terminal as it is
        reason = without_middle(printable(" ".join(str(error).split())), _LONGEST)
        return _Refusal(reason, isinstance(error, NotPlainLoraError))
    except OSError as error:
        return _Refusal(f"cannot be read ({error.strerror}); check its permissions", may_merge=False)


def _nothing_left(where: str, refused: Sequence[RefusedModel], places: Sequence[_SnapshotOrError]) -> None:
    by_reason: dict[str, list[str]] = {}
    for item in refused:  # a wrong base is the same reason for all of them
        by_reason.setdefault(item.reason, []).append(item.id)
    told = list(by_reason.items())[:_REASONS_SHOWN]
    first = "; ".join(f"{_some(names)}: {reason}" for reason, names in told)
    rest = len(refused) - sum(len(names) for _, names in told)
    more = f"; and {rest} more, for {len(by_reason) - len(told)} other reasons" if rest else ""
    if all(isinstance(place, OfflineError) for place in places):
        raise OfflineError(f"{where}: {first}{more}")
    raise PoolError(f"{where}: none of its {len(refused)} models can be used: {first}{more}")


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _REFUSED_NAMED} more" if len(names) > _REFUSED_NAMED else ""
    return ", ".join(names[:_REFUSED_NAMED]) + rest


def _filter(
    models: Sequence[FoundModel], include: Sequence[str], exclude: Sequence[str], where: str
) -> list[FoundModel]:
    ids = [*(model.id for model in models), SHOTS_LORA]
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not _matching(ids, [pattern]):
                some = ", ".join(map(short_name, ids[:_IDS_SHOWN]))
                raise PoolError(f"{where}: `{option}` '{pattern}' matches no model; the ids begin with {some}")
    kept = [model for model in models if not include or _matching([model.id], include)]
    kept = [model for model in kept if not _matching([model.id], exclude)]
    if not kept:
        raise PoolError(f"{where}: `include` and `exclude` leave no model; loosen them")
    return kept


def _by_licence(candidates: Sequence[Candidate], licence: Sequence[str], where: str) -> list[Candidate]:
    stated = sorted({candidate.licence or "unknown" for candidate in candidates})
    for pattern in licence:
        if not _matching(stated, [pattern.lower()]):
            raise PoolError(f"{where}: `licence` '{pattern}' matches no model; the licences are {', '.join(stated)}")
    wanted = [pattern.lower() for pattern in licence]
    return [c for c in candidates if not wanted or _matching([c.licence or "unknown"], wanted)]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
