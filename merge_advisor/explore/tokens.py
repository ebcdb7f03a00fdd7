"""The secret in the address of the page: made anew at each start, or kept in a file that its owner alone can read."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from merge_advisor.errors import InputError
from merge_advisor.whole_files import write_text

_BYTES = 24
_WHOLE = re.compile(r"[A-Za-z0-9_-]{32,128}")
_LONGEST = 1_000


def new_token() -> str:
    """Return a secret that nobody guesses.

    >>> len(new_token())
    32
    """
    return secrets.token_urlsafe(_BYTES)


def kept_token(path: Path, *, anew: bool = False) -> str:
    """Return the secret that a file keeps; made, and the file with it, where there is none.

    >>> kept_token(Path("navigator-token")) == kept_token(Path("navigator-token"))
    True

    Args:
        path: the file; nobody else may be able to read it.
        anew: make a new one, whatever it keeps.

    Raises:
        InputError: others can read it, it is another user's, no regular file, or keeps something else.
        RunError: it cannot be written.
    """
    if not anew:
        try:
            return _read(path)
        except FileNotFoundError:
            pass
    token = new_token()
    write_text(path, token + "\n", private=True)
    return token


def _read(path: Path) -> str:
    try:
        # a link may lead to a file that others choose, a FIFO would be waited for
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refusal(path, "it is a link" if path.is_symlink() else (error.strerror or str(error))) from error
    try:
        _check(path, os.fstat(descriptor))
        text = os.read(descriptor, _LONGEST).decode("utf-8", "replace").strip()
    finally:
        os.close(descriptor)
    if not _WHOLE.fullmatch(text):
        raise _refusal(path, "it keeps no secret of 32 or more letters and figures")
    return text


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _refusal(path, "it is no regular file")
    if os.name == "posix":
        if found.st_uid != os.geteuid():
            raise _refusal(path, "it is another user's")
        if found.st_mode & 0o077:
            raise _refusal(path, f"others can read it (mode {stat.S_IMODE(found.st_mode):03o})")


def _refusal(path: Path, why: str) -> InputError:
    return InputError(f"`token_file={path}`: {why}; `new_token` replaces it, or name another")
