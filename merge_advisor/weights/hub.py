"""Snapshots from the Hugging Face hub: pinned to a commit, without pickles, offline on request."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from merge_advisor.errors import OfflineError
from merge_advisor.weights.hub_errors import hub_failures, switched_off

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REFERENCE = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository of the hub.

    >>> HubId("org/name", "main")
    HubId(repo='org/name', revision='main')
    """

    repo: str
    """`organisation/name`."""
    revision: str | None = None
    """Commit, tag or branch; None for the newest of the main branch."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of a repository at one commit.

    >>> Snapshot(Path("snapshots/0a1b"), revision="0a1b").revision
    '0a1b'
    """

    path: Path
    revision: str
    """The commit."""


def parse_id(text: str) -> HubId | None:
    """Return the hub id in a text, or None where there is none.

    >>> parse_id("org/name@v1")
    HubId(repo='org/name', revision='v1')
    >>> parse_id("just a name") is None
    True

    Args:
        text: `organisation/name` or `organisation/name@revision`.
    """
    match = _REFERENCE.fullmatch(text)
    # the hub allows neither in a name: ".." would leave the cache's folder, "--" stands for the slash in its names
    if match is None or ".." in text or "--" in match["repo"]:
        return None
    return HubId(match["repo"], match["revision"])


def fetch_snapshot(model: HubId, patterns: Sequence[str], *, offline: bool = False, kind: str = "model") -> Snapshot:
    """Fetch files of a repository into the hub's own cache and return where they are.

    A commit that is complete in the cache is taken from there, without a request to the hub.

    Args:
        model: the repository; `revision` says which commit.
        patterns: globs on file names, as `allow_patterns` of `huggingface_hub.snapshot_download`.
        offline: never fetch.
        kind: "model" or "dataset".

    Returns:
        The folder, and the commit.

    Raises:
        OfflineError: not in the cache, while `offline` or HF_HUB_OFFLINE forbids fetching.
        InputError: the hub has no such repository or revision, or does not give it to this user.
        RunError: the cache cannot be written.
        ExternalError: the hub cannot be reached, asks for a pause, or failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    offline = offline or switched_off()
    named = f"{model.repo}@{model.revision}" if model.revision else model.repo
    # only a commit never changes: a tag or branch has to be asked for even where a copy of it is in the cache
    tries = [True] if offline else [True, False] if _COMMIT.fullmatch(model.revision or "") else [False]
    for local in tries:
        with hub_failures(named, kind):
            try:
                folder = snapshot_download(
                    model.repo, revision=model.revision, allow_patterns=list(patterns), local_files_only=local,
                    tqdm_class=_progress_class(), repo_type=kind,
                )  # fmt: skip
            except LocalEntryNotFoundError as error:
                if offline:
                    message = "not in the hub's cache, and fetching is off; run once online, or give a local folder"
                    raise OfflineError(f"{named}: {message}") from error
                if local:
                    continue
                raise
            return Snapshot(Path(folder), Path(folder).name)
    raise AssertionError("the last try returns or raises")


def _progress_class() -> type:
    """Return the hub's progress bars, drawn only where stderr is a terminal."""
    from huggingface_hub.utils import tqdm

    if sys.stderr.isatty():
        return tqdm  # type: ignore[no-any-return]

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


@contextlib.contextmanager
def fetching(offline: bool) -> Iterator[None]:
    """Forbid `datasets` and the hub's client to fetch, where asked; both read their environment once, when imported.

    Args:
        offline: whether to forbid it.

    Yields:
        nothing, as long as it is forbidden.
    """
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if offline:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
