"""The place of a run folder: refused early, made whole or not at all, gone on with by the call that began it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from merge_advisor.errors import RunError
from merge_advisor.regular_files import read_regular_text
from merge_advisor.tuning.lock import run_lock
from merge_advisor.whole_files import other_lives, replaced_folder, this_writer, whole_folder, write_text

UNFINISHED = "unfinished"
"""File of a run folder that is not scored yet: which call made it, and may go on with it, and in which process."""


def check_out(out: Path, *, force: bool) -> None:
    """Refuse early what could not be written in the end.

    Args:
        out: the run folder to make.
        force: whether one that is there is replaced.

    Raises:
        RunError: the folder is there (and `force` is not), is no run folder, is in use by another process, or its
            parent cannot be written.
    """
    if out.exists():
        if not force:
            raise RunError(f"{out}: is there already; give another `out`, or `force=True` to replace it")
        if not (out / "plan.json").is_file():
            raise RunError(f"{out}: is no run folder, so `force=True` does not replace it; give another `out`")
        with run_lock(out, "replaces it"):  # it would go under the hands of who scores or tunes it
            pass
    # an hour of choosing must not end in a folder that cannot be written
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out.parent}: cannot be made ({error.strerror}); give another `out`") from error
    if not os.access(out.parent, os.W_OK):
        raise RunError(f"{out.parent}: cannot be written; give another `out`")


def is_unfinished(out: Path, asked: str) -> bool:
    """Return whether a run folder was made by the same call, which ended before it was scored.

    Args:
        out: the run folder.
        asked: digest of the call.
    """
    try:
        made_by, _, writer = read_regular_text(out / UNFINISHED).partition(" ")
    except (OSError, UnicodeDecodeError):
        return False
    return made_by == asked and not other_lives(writer)


def mark_unfinished(folder: Path, asked: str) -> None:
    """Note in a run folder that it is still to be scored, by which call and process.

    Args:
        folder: the run folder, or one that becomes it.
        asked: digest of the call.

    Raises:
        RunError: no permission, or no room.
    """
    write_text(folder / UNFINISHED, f"{asked} {this_writer()}")


@contextmanager
def new_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `out` when the block ends well and vanishes otherwise.

    Args:
        out: the run folder.
        force: as in `check_out`.

    Raises:
        RunError: as `check_out`.
    """
    check_out(out, force=force)
    # one that another process made meanwhile is not replaced unasked
    with (replaced_folder if force else whole_folder)(out) as partial:
        yield partial
