"""What a dry run leaves behind: nothing, but for copies of models that cannot be looked at without them."""

from __future__ import annotations

from pathlib import Path


def model_copies(cache: Path) -> frozenset[Path]:
    """Return the folders of the cache that hold a model in another form each: dequantised, unpacked, merged by PEFT.

    >>> model_copies(Path("absent"))
    frozenset()

    Args:
        cache: its folder.
    """
    return frozenset([*(cache / "base").glob("*"), *(cache / "pool").glob("*/*")])  # in pool/ one folder more: the form


def dry_run_line(cache: Path, before: frozenset[Path]) -> str:
    """Return the last line of a dry run.

    >>> dry_run_line(Path("absent"), frozenset())
    'dry run: nothing was written'

    Args:
        cache: its folder.
        before: the copies that were there when it began.
    """
    made = len(model_copies(cache) - before)
    return "dry run: nothing was written" + (
        f" but copies that the command needs as well, {made} in {cache}" if made else ""
    )
