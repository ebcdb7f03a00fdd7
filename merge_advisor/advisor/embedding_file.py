"""`embed`: a pool's deltas in one .npz file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from merge_advisor.advisor.measuring.deltas import take_deltas
from merge_advisor.advisor.measuring.session import PoolFilter, open_session
from merge_advisor.errors import PoolError, RunError
from merge_advisor.json_form import to_json, to_plain
from merge_advisor.whole_files import whole_file

if TYPE_CHECKING:
    from merge_advisor.session_options import SessionOptions


def embed_to_file(
    out: str | Path,
    *,
    pool: str | Path,
    base: str,
    embedding: str = "delta_activations",
    template: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    **where: Unpack[SessionOptions],
) -> dict[str, Any]:
    """Write arrays `ids` (n,) text, `deltas` (n, d) float32 and `space` (JSON text) to `out`, whole or not at all.

    >>> written = embed_to_file("deltas.npz", pool="adapters", base="base")
    >>> written["models"], np.load("deltas.npz")["deltas"].shape
    (6, (6, 32))

    Args:
        out: a file that ends in .npz.
        pool: folder of candidates, manifest, or hub ids.
        base: hub id, folder or GGUF file.
        embedding: spec of the embedding.
        template: prompt template; None: the pool's.
        include: globs on ids; none: all that fit the base.
        exclude: globs on ids.
        where: `offline`, `follow_links`, `cache`, `store`, `machine`, `progress`, see `SessionOptions`.

    Returns:
        models, dim, space, refused and out, as JSON values.

    Raises:
        PoolError: nothing in the pool can be embedded.
        RunError: `out` cannot be written.
    """
    out = Path(out)
    if out.suffix != ".npz":
        raise RunError(f"{out}: must end in .npz")
    with open_session(base, pool, template=template, wanted=PoolFilter(include, exclude), **where) as session:
        embedded = take_deltas(session.meter, embedding, session.pool.candidates)
        refused = (*session.pool.refused, *embedded.refused)
    deltas = embedded.deltas
    if not deltas.ids:
        raise PoolError(f"{pool}: no model of it can be embedded; see `merge-advisor doctor`, or give another `pool`")
    with whole_file(out) as partial:
        np.savez(partial, ids=np.array(deltas.ids), deltas=deltas.array, space=np.array(to_json(deltas.space)))
    return {
        "models": len(deltas.ids),
        "dim": deltas.space.dim,
        "space": to_plain(deltas.space),
        "refused": to_plain(refused),
        "out": str(out),
    }
