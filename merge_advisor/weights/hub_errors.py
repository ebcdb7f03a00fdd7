"""What failed on the hub, in one line: the id, what, and what to do. No token ever stands in it.

The hub's library raises some twenty classes, wraps one in another, and logs each try: here they become the classes of
`merge_advisor.errors`, and its log is kept off stderr unless that is a terminal.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from merge_advisor.errors import ExternalError, InputError, MergeAdvisorError, OfflineError, RunError

_SHOWN = 200
"""Characters of what the hub said that a message repeats."""
# tokens of the hub, and name and password in an address: neither may reach a message, wherever it was quoted
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{6,}|(?<=//)[^/@\s]+(?=@)|(?i:(?<=bearer )\S+)")
_UNREACHED = ("ConnectError", "ConnectTimeout", "ProxyError")
"""Names of the HTTP client's errors that no request has got through."""


def switched_off() -> bool:
    """Return whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids fetching, by the values huggingface_hub takes."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")


@contextmanager
def hub_failures(named: str, kind: str = "model", *, writing: bool = False) -> Iterator[None]:
    """Raise what the hub's library raises in the block as an error of this package.

    >>> from huggingface_hub.errors import OfflineModeIsEnabled
    >>> with hub_failures("org/name"):
    ...     raise OfflineModeIsEnabled("offline mode is enabled")
    Traceback (most recent call last):
    merge_advisor.errors.OfflineError: org/name: fetching is off (HF_HUB_OFFLINE); unset it, or give a local folder

    Args:
        named: the repository, with its revision where one was named.
        kind: "model" or "dataset".
        writing: whether the block uploads.

    Yields:
        Nothing.

    Raises:
        OfflineError: fetching is off.
        InputError: no such repository or revision, or the hub does not give it to this user.
        RunError: no room, or no permission to write into the hub's cache.
        ExternalError: the hub cannot be reached, asks for a pause, or failed.
    """
    try:
        # on a terminal its log says what is waited for
        with nullcontext() if sys.stderr.isatty() else _QUIET:
            yield
    except MergeAdvisorError:
        raise
    except (OSError, ValueError, _network_error()) as error:
        raise hub_error(error, named, kind, writing=writing) from error


def hub_error(error: BaseException, named: str, kind: str = "model", *, writing: bool = False) -> MergeAdvisorError:
    """Return what the hub's library raised as an error of this package.

    Args:
        error: what it raised.
        named: the repository, with its revision where one was named.
        kind: "model" or "dataset".
        writing: whether it was an upload.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    inner = error.__cause__
    if isinstance(error, LocalEntryNotFoundError) and isinstance(inner, (HfHubHTTPError, OfflineModeIsEnabled)):
        return hub_error(inner, named, kind, writing=writing)  # it only says that the cache cannot stand in
    match error:
        case OfflineModeIsEnabled():
            return OfflineError(f"{named}: fetching is off (HF_HUB_OFFLINE); unset it, or give a local folder")
        case GatedRepoError():
            return InputError(f"{named}: it is gated; ask for access on its page, then set HF_TOKEN")
        case RevisionNotFoundError():
            return InputError(f"{named}: the hub has no such revision; correct it")
        case RepositoryNotFoundError() if writing:
            return InputError(f"{named}: the hub lets this token write no such {kind}; correct the name, or the token")
        case RepositoryNotFoundError() | HFValidationError():
            private = "" if isinstance(error, HFValidationError) else ", or (where it is private) set HF_TOKEN"
            return InputError(f"{named}: no such folder here and no such {kind} on the hub; correct the name{private}")
        case HfHubHTTPError():
            return _by_status(error, named, writing)
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            reason = error.strerror or ""
            return RunError(f"{named}: the hub's cache cannot be written ({reason}); free space, or set HF_HOME")
        case LocalEntryNotFoundError():
            return ExternalError(f"{named}: the hub cannot be reached; check the network, or work offline")
        case ValueError():
            return ExternalError(f"{named}: no answer of a hub ({said_by(error)}); check HF_ENDPOINT and the proxy")
    if type(error).__name__ in _UNREACHED:
        return ExternalError(
            f"{named}: the hub cannot be reached ({said_by(error)}); check the network and HF_ENDPOINT"
        )
    return ExternalError(
        f"{named}: the connection to the hub broke ({said_by(error)}); give the command again{_kept(writing)}"
    )


def said_by(error: BaseException) -> str:
    """Return what an error says on one line, cut, without any token.

    >>> said_by(ValueError("bad header: Bearer hf_abcdefghij"))
    'bad header: Bearer ***'

    Args:
        error: any.
    """
    text = " ".join(str(getattr(error, "server_message", None) or error).split()) or type(error).__name__
    secret = _token()
    if secret:
        text = text.replace(secret, "***")
    return _SECRET.sub("***", text)[:_SHOWN]


def has_token() -> bool:
    """Return whether the user is known to the hub: HF_TOKEN, or the token file of `hf auth login`."""
    return _token() is not None


def _token() -> str | None:
    from huggingface_hub import get_token

    try:
        return get_token() or None
    except Exception:  # a broken login must not hide what it was asked for
        return None


def _by_status(error: Any, named: str, writing: bool) -> MergeAdvisorError:
    """What an answer of the hub means by its status."""
    status = error.response.status_code
    if status == 401:
        what = "does not accept the token (401); give a valid one (HF_TOKEN)"
        return InputError(f"{named}: the hub {what if has_token() else 'asks who you are (401); set HF_TOKEN'}")
    if status == 403:
        may = "may write there" if writing else "may read it"
        return InputError(f"{named}: the hub forbids it (403: {said_by(error)}); set HF_TOKEN to a token that {may}")
    if status == 429:
        wait = _wait(error.response.headers)
        rest = _kept(writing) + ("" if has_token() else "; with a token (HF_TOKEN) it takes more")
        return ExternalError(
            f"{named}: the hub takes no more requests for now (429); give the command again {wait}{rest}"
        )
    return ExternalError(f"{named}: the hub failed ({said_by(error)}); try again later{_kept(writing)}")


def _kept(writing: bool) -> str:
    return "" if writing else ", what was fetched is kept"


def _wait(headers: Any) -> str:
    """When to come back, as the answer says it."""
    after = str(headers.get("Retry-After", "")).strip()
    if not after.isdigit():
        found = re.search(r"\bt=(\d+)", str(headers.get("ratelimit", "")))
        after = found[1] if found else ""
    return f"in {after} seconds" if after else "in some minutes"


def _network_error() -> type[Exception]:
    """The class of all errors of the library's HTTP client, whose package changes its name between versions."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")  # type: ignore[no-any-return]


class _Quiet:
    """Keeps the library's log and bars off stderr; several threads may be inside, the last one restores them."""

    def __init__(self) -> None:
        self.inside = 0
        self.lock = threading.Lock()
        self.level, self.bars = 0, False

    def __enter__(self) -> None:
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, logging

        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.level, self.bars = logging.get_verbosity(), not are_progress_bars_disabled()
                logging.set_verbosity(logging.CRITICAL)
                if self.bars:
                    disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        from huggingface_hub.utils import enable_progress_bars, logging

        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                logging.set_verbosity(self.level)
                if self.bars:
                    enable_progress_bars()


_QUIET = _Quiet()
