"""`hub export`: all models, their scores and deltas as one Parquet file that any tool reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import RunError
from merge_advisor.json_form import to_plain
from merge_advisor.whole_files import whole_file

if TYPE_CHECKING:
    from merge_advisor.hub.opened import OpenHub
    from merge_advisor.hub.values import HubEntry

_BATCH = 1024


def export_hub(hub: OpenHub, out: Path) -> int:
    """Return how many rows were written to a Parquet file, see `Hub.export`.

    Columns: what `HubEntry` has (lists as lists), its scores as JSON, the space as JSON and its digest, the delta as a
    list of float32; a model without a delta has one row without these.

    Args:
        hub: open.
        out: a file that ends in .parquet.

    Raises:
        RunError: another ending, it cannot be written, or pyarrow is not installed.
    """
    if out.suffix != ".parquet":
        raise RunError(f"{out}: must end in .parquet; give another `out`")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise RunError(
            f"{out}: Parquet files are written by pyarrow, which is not installed; `pip install pyarrow`"
        ) from error

    texts, lists = pa.string(), pa.list_(pa.string())
    columns = (
        ("number", pa.int64()), ("id", texts), ("ids", lists), ("base", texts), ("base_id", texts),
        ("fingerprint", texts), ("kind", texts), ("rank", pa.int64()), ("modules", lists), ("licence", texts),
        ("size", pa.int64()), ("source", texts), ("revision", texts), ("card", texts), ("languages", lists),
        ("data_sets", lists), ("tags", lists), ("template", texts), ("notes", lists), ("added", texts),
        ("scores", texts), ("space_digest", texts), ("space", texts), ("delta", pa.list_(pa.float32())),
    )  # fmt: skip
    schema = pa.schema(columns)
    written = 0
    with hub.catalogue.file.snapshot(), whole_file(out) as partial, pq.ParquetWriter(partial, schema) as writer:
        for rows in _rows(hub):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            written += len(rows)
    return written


def _rows(hub: OpenHub) -> Iterator[list[dict[str, Any]]]:
    bases = {item.base.digest: item.base.id for item in hub.catalogue.bases(counted=False)}
    for number, space in hub.catalogue.spaces().items():
        last = 0
        about = {"space_digest": space.digest, "space": json.dumps(to_plain(space), sort_keys=True)}
        while rows := hub.deltas.delta_rows(number, last, _BATCH):
            last = rows[-1][0]
            entries = hub.catalogue.by_number([entry for _, entry, _ in rows])
            yield [_row(hub, entries[entry], bases) | about | {"delta": delta} for _, entry, delta in rows]
    without = hub.catalogue.file.rows("SELECT number FROM entries WHERE number NOT IN (SELECT entry FROM deltas)")
    numbers = [int(row[0]) for row in without]
    for start in range(0, len(numbers), _BATCH):
        part = hub.catalogue.by_number(numbers[start : start + _BATCH])
        yield [_row(hub, entry, bases) for entry in part.values()]


def _row(hub: OpenHub, entry: HubEntry, bases: dict[str, str]) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(hub.with_scores(entry))
    # a path of this machine is nobody else's
    del plain["place"]
    return plain | {
        "id": entry.id, "base_id": bases.get(entry.base, ""), "scores": json.dumps(plain["scores"], sort_keys=True),
        "space_digest": None, "space": None, "delta": None,
    }  # fmt: skip
