"""`push`: a run's adapter, or the model that `merge` wrote of it, to the hub in one commit, with its card."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from merge_advisor.advisor.merge_run import check_mergeable
from merge_advisor.advisor.run_card import RunCard, card_of_run, is_adapter
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.errors import InputError, OfflineError, RunError
from merge_advisor.formats.peft import PeftFormat
from merge_advisor.hub_options import CardOptions, PushOptions
from merge_advisor.json_form import read_value, to_json
from merge_advisor.plain_text import short_name
from merge_advisor.types import Recipe
from merge_advisor.weights.adapter import ADAPTER_WEIGHTS
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG
from merge_advisor.weights.base import HUB_PATTERNS
from merge_advisor.weights.files import FileError, read_json
from merge_advisor.weights.hub import parse_id
from merge_advisor.weights.hub_errors import has_token, hub_failures, switched_off

_CARD, _RECIPE = "README.md", "recipe.json"
_SHARED = (*HUB_PATTERNS, ADAPTER_CONFIG, ADAPTER_WEIGHTS, _RECIPE)
"""What is uploaded of a folder, as globs: anything else in it may be private, such as paths in mergekit's files."""
_HUBS_OWN = (".gitattributes",)
"""What the hub itself puts into a new repository."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was uploaded, or would be.

    >>> Pushed("org/name", {"README.md": 900}, RunCard("# a merge", "mit", "merge", "org/base")).commit
    ''
    """

    repo: str
    files: dict[str, int]
    """Name in the repository -> bytes."""
    card: RunCard
    url: str = ""
    """Where it is; empty where nothing was uploaded."""
    commit: str = ""
    """The commit; empty where nothing was uploaded."""


def push_run(
    run: str | Path,
    repo: str,
    options: PushOptions | None = None,
    *,
    dry_run: bool = False,
    offline: bool = False,
) -> Pushed:
    """Upload a run's result and its card in one commit: weights, card and recipe, nothing of the task's rows.

    >>> options = PushOptions(licence="mit", base_model="org/base")
    >>> sorted(push_run("run", "org/name", options, dry_run=True, offline=True).files)
    ['README.md', 'adapter_config.json', 'adapter_model.safetensors', 'recipe.json']

    Args:
        run: the run folder.
        repo: `organisation/name` on the hub; made where it is not there.
        options: what is uploaded, the licence, whether it is private.
        dry_run: only say what would be uploaded.
        offline: refuse to upload.

    Returns:
        What was uploaded and where.

    Raises:
        RunError: no run folder, or the repository holds something already.
        InputError: no repository's name, no adapter in the run and no model named, a model of another run, no card can
            be written, or the token is none that may write there.
        OfflineError: fetching is off.
        ExternalError: the hub cannot be reached, asks for a pause, or failed.
    """
    options = options or PushOptions()
    named = parse_id(repo)
    if named is None or named.revision is not None:
        raise InputError(f"'{short_name(repo)}' is no name of a repository; give organisation/name")
    opened = read_run(Path(run))
    check_mergeable(opened)
    folder = _weights(opened, options)
    offline = offline or switched_off()
    card = card_of_run(run, options, repo=named.repo, offline=offline)
    contents, others = _contents(opened, folder, card)
    if others:
        card = replace(card, notes=(*card.notes, f"not uploaded, as it is no part of the model: {', '.join(others)}"))
    files = {name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in contents.items()}
    pushed = Pushed(named.repo, files, card)
    if dry_run:
        return pushed
    if offline:
        raise OfflineError(f"{named.repo}: fetching is off; leave out `offline=True` and unset HF_HUB_OFFLINE")
    if not has_token():
        raise InputError(f"{named.repo}: the hub does not know you; set HF_TOKEN to a token that may write there")
    return _upload(pushed, contents, options)


def _weights(run: Run, options: CardOptions) -> Path:
    """The folder of the result's weights.

    Raises:
        InputError: there is none, or it is of another run.
    """
    if options.model is None:
        if is_adapter(run, options):
            return run.folder / "adapter"
        why = PeftFormat().refusal(run.recipe) or "adapter/ is not there"
        raise InputError(
            f"{run.folder}: holds no adapter ({why}); write the model by `merge(run, out=MODEL)`, then name it by "
            "`model=MODEL`"
        )
    made = options.model / _RECIPE
    if not made.is_file():
        raise InputError(f"{options.model}: has no {_RECIPE}, so it is no model that `merge(run, out=MODEL)` wrote")
    recipe = read_value(Recipe, made)
    # an adapter may be cut to a rank of its own
    if replace(recipe, rank=None).digest != replace(run.recipe, rank=None).digest:
        raise InputError(f"{options.model}: is the model of another recipe than {run.folder}; write it anew")
    return options.model


def _contents(run: Run, folder: Path, card: RunCard) -> tuple[dict[str, Path | bytes], list[str]]:
    """Name in the repository -> the file or its bytes; and the files of the folder that are left out.

    Raises:
        InputError: the folder holds no weights, or an adapter's configuration that cannot be read.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _CARD)
    kept = [path for path in files if any(fnmatchcase(path.name, pattern) for pattern in _SHARED)]
    if not any(path.suffix == ".safetensors" for path in kept):
        raise InputError(f"{folder}: holds no weights (safetensors); write the model anew by `merge(run, out=MODEL)`")
    contents: dict[str, Path | bytes] = {path.name: path for path in kept}
    if (folder / ADAPTER_CONFIG).is_file():
        # a folder's name, where the run was planned on one, would lead nobody to the base
        try:
            settings = read_json(folder / ADAPTER_CONFIG)
        except FileError as error:
            raise InputError(f"{folder}: {error}") from error
        settings["base_model_name_or_path"] = card.base
        contents[ADAPTER_CONFIG] = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
    contents.setdefault(_RECIPE, to_json(run.recipe).encode("utf-8", "surrogatepass"))
    contents[_CARD] = card.text.encode("utf-8", "replace")
    return contents, [path.name for path in files if path not in kept]


def _upload(pushed: Pushed, contents: dict[str, Path | bytes], options: PushOptions) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, repo = HfApi(), pushed.repo
    with hub_failures(repo, writing=True):
        there = _made(api, repo, options)
        operations: list[Any] = [CommitOperationAdd(name, data) for name, data in contents.items()]
        operations += [CommitOperationDelete(name) for name in there if name not in (*contents, *_HUBS_OWN)]
        what = "adapter" if pushed.card.relation == "adapter" else "merged model"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the card's check: what is wrong is an error
                done = api.create_commit(repo, operations, commit_message=f"{what.capitalize()} made by merge-advisor")
        except ValueError as error:
            if "metadata" in str(error):
                said = " ".join(str(error).split())[:200]
                raise InputError(f"{repo}: the hub refuses the card ({said}); give another `licence`") from error
            raise
    return replace(pushed, url=f"{api.endpoint}/{repo}", commit=done.oid)


def _made(api: Any, repo: str, options: PushOptions) -> list[str]:
    """Make the repository; return the files of one that is there.

    Raises:
        RunError: it is there, and holds something or can be seen by more people than was asked for.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # None: what the organisation has chosen
        api.create_repo(repo, private=options.private or None)
        return []
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
    info = api.model_info(repo)
    if options.private and not info.private:
        raise RunError(f"{repo}: is there already, and public; make it private on its page, or give another name")
    there = [file.rfilename for file in info.siblings or ()]
    if set(there) - set(_HUBS_OWN) and not options.force:
        raise RunError(f"{repo}: is there already, with {len(there)} files; give another name, or `force=True`")
    return there
