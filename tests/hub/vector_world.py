"""Hubs of wide deltas: searched, compared by hand, and damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from merge_advisor.hub import Hub
from merge_advisor.hub.index import cosine_of
from merge_advisor.hub.searching import nearest_in
from merge_advisor.hub.values import HubSearch
from tests.hub.hub_world import SPACE

WIDE = replace(SPACE, dim=64)


def by_hand(hub: Hub, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    """The nearest models, from all deltas of the catalogue."""
    scored = [
        (cosine_of(delta, query.astype(np.float32)), entry) for _, entry, delta in hub.deltas.delta_rows(1, 0, 10**6)
    ]
    living = hub.catalogue.allowed([entry for _, entry in scored])
    best = sorted(((-value, entry) for value, entry in scored if entry in living))[:k]
    names = hub.catalogue.by_number([entry for _, entry in best])
    return [(names[entry].id, -value) for value, entry in best]


def found(hub: Hub, query: np.ndarray, k: int, wanted: str = "") -> HubSearch:
    return nearest_in(hub, (1, WIDE), query.astype(np.float32), k, wanted)


def pairs(search: HubSearch) -> list[tuple[str, float]]:
    return [(hit.entry.id, hit.score) for hit in search.hits]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)
