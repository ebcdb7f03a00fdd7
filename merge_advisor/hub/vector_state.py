"""What counts of the files that hold the vectors of one space: state.json beside them, written last."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

from merge_advisor.regular_files import open_regular

VERSION_OF_VECTORS = 1
STATE = "state.json"
"""What counts of the other files; written last."""
_STATE_BYTES = 4096
"""More than a state has."""


class DamagedVectorsError(Exception):
    """The files are not what was written; never leaves the room: they are not used, and made anew.

    >>> issubclass(DamagedVectorsError, OSError)
    False
    """


@dataclass(frozen=True, slots=True)
class VectorState:
    """What counts of the files; state.json.

    >>> VectorState("s1", 576).rows
    0
    """

    space: str
    """Digest of the space."""
    dim: int
    rows: int = 0
    last: int = 0
    """Largest key; rows of the catalogue behind it are not here yet."""
    coded: int = 0
    """Rows that have codes: none, or all."""
    error: float = 0.0
    """The longest difference between a row here and the delta divided by its length."""
    sums: int = 0
    """CRC-32 of the checksums of the blocks."""
    mean: int = 0
    """CRC-32 of the mean."""
    version: int = VERSION_OF_VECTORS


def read_state(folder: Path, space: str, dim: int) -> VectorState:
    """Return the state that a folder has, of no rows where it has none.

    >>> read_state(Path("no-folder"), "s1", 576).rows
    0

    Args:
        folder: where the files are.
        space: digest of the space.
        dim: d.

    Raises:
        DamagedVectorsError: it is not what was written, or of another space or version.
    """
    path = folder / STATE
    if not path.exists():
        return VectorState(space, dim)
    try:
        with open_regular(path) as stream:
            state = VectorState(**json.loads(stream.read(_STATE_BYTES)))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DamagedVectorsError(f"{path}: cannot be read") from error
    kinds = {field.name: type(field.default) for field in fields(VectorState) if field.default is not MISSING}
    if any(type(getattr(state, name)) is not kind or not getattr(state, name) >= 0 for name, kind in kinds.items()):
        raise DamagedVectorsError(f"{path}: is not what was written")
    if state.version != VERSION_OF_VECTORS or (state.space, state.dim) != (space, dim):
        raise DamagedVectorsError(f"{path}: is of another space or version")
    return replace(state, space=space, dim=dim)  # JSON's 576.0 is as good as 576, and no size of an array
