"""`embed`: a pool's deltas in one .npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from merge_advisor.advisor.measuring.measure import take_deltas
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.errors import PoolError, RunError
from merge_advisor.types import to_json, to_plain
from merge_advisor.whole_files import whole_file


def embed_to_file(
    out: Path, *, pool: str | Path, base: str, embedding: str = "delta_activations", **settings: Any
) -> dict[str, Any]:
    """Write arrays `ids` (n,) text, `deltas` (n, d) float32 and `space` (JSON text) to `out`, whole or not at all.

    Returns:
        models, dim, space and refused, as JSON values.

    Raises:
        PoolError: nothing in the pool can be embedded.
        RunError: `out` cannot be written.
    """
    if out.suffix != ".npz":
        raise RunError(f"{out}: must end in .npz")
    with open_session(base, pool, template=settings.pop("template", None), **settings) as session:
        deltas, _, broken = take_deltas(session, embedding, session.pool.candidates)
        refused = (*session.pool.refused, *broken)
    if not deltas.ids:
        raise PoolError(f"{pool}: no model of it can be embedded; see `merge-advisor doctor`, or give another --pool")
    with whole_file(out) as partial:
        np.savez(partial, ids=np.array(deltas.ids), deltas=deltas.array, space=np.array(to_json(deltas.space)))
    return {
        "models": len(deltas.ids),
        "dim": deltas.space.dim,
        "space": to_plain(deltas.space),
        "refused": to_plain(refused),
        "out": str(out),
    }
