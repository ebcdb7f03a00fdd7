"""Data sets of the hub, or in a folder as the `datasets` library keeps them: `hf:org/name[@revision]:split[:config]`.

What begins with `hf:` is never the name of a file: a file that is called so is given by its absolute path. Rows are
streamed, at most `STREAMED_ROWS` of them, and of these those are kept whose hash is the smallest: as many as are
needed, spread over what was read (data sets are often sorted by label or article), the same ones every time. No code of
a data set is run.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from merge_advisor.errors import ExternalError, MergeAdvisorError, OfflineError, TaskError
from merge_advisor.json_form import digest_of
from merge_advisor.limits import STREAMED_ROWS
from merge_advisor.plain_text import printable
from merge_advisor.tasks.fields import listed, quoted
from merge_advisor.tasks.tables import plain_record, read_cells, settled
from merge_advisor.weights.hub import fetching
from merge_advisor.weights.hub_errors import switched_off

PREFIX = "hf:"
DATA_SET_ROWS = 200
"""Rows that are kept of a data set unless more are needed."""
_HOW = "write hf:NAME:SPLIT, hf:NAME@REVISION:SPLIT or hf:NAME:SPLIT:CONFIG"
_PARQUET = "refs/convert/parquet"
"""Revision under which the hub keeps a Parquet copy of most data sets."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A split of a data set.

    >>> data_set_of(Path("hf:org/name@v2:train:de"))
    DataSet(path='org/name', split='train', revision='v2', config='de')
    """

    path: str
    """`organisation/name`, a name alone, or a folder."""
    split: str
    revision: str | None = None
    """Commit, tag or branch."""
    config: str | None = None
    """Which of its configurations."""

    @property
    def name(self) -> str:
        """Of the task: what it is called without its organisation, and the split."""
        return f"{Path(self.path).name}-{self.split}" + (f"-{self.config}" if self.config else "")

    @property
    def shown(self) -> str:
        """What notes call it: a folder by its own name."""
        return str(replace(self, path=Path(self.path).name) if Path(self.path).is_dir() else self)

    def __str__(self) -> str:
        revision, config = (mark + part if part else "" for mark, part in (("@", self.revision), (":", self.config)))
        return f"{PREFIX}{self.path}{revision}:{self.split}{config}"


def data_set_of(path: Path) -> DataSet | None:
    """Return the data set that a path names; None of a file.

    >>> data_set_of(Path("rows.jsonl")) is None, str(data_set_of(Path("hf:squad:validation")))
    (True, 'hf:squad:validation')

    Args:
        path: as it was given.

    Raises:
        TaskError: no split is named, or a part is empty.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return None
    named, *parts = re.split(r":(?![^\[\]:]*\])", text.removeprefix(PREFIX))  # not the colon of a slice
    if any("[" in part for part in parts):
        said = f"{text}: names a part of a split; name the split, of which as many rows as are needed are taken by hash"
        raise TaskError(printable(said))
    name, marked, revision = (named, "", "") if Path(named).is_dir() else named.partition("@")
    if not 1 <= len(parts) <= 2 or not all((name, *parts)) or (marked and not revision):
        what = "no split is named" if not parts else "this names no data set"
        raise TaskError(printable(f"{text}: {what}; {_HOW} (a file that is called so: by its absolute path)"))
    return DataSet(name, parts[0], revision or None, parts[1] if len(parts) > 1 else None)


def read_data_set(data_set: DataSet, *, most: int, offline: bool) -> tuple[list[tuple[str, Any]], str]:
    """Return records of a data set with their places, and what has to be said of which they are.

    Args:
        data_set: the split.
        most: how many to keep.
        offline: whether to take it from the cache alone; HF_HUB_OFFLINE does the same.

    Raises:
        TaskError: no such data set, revision, configuration or split, one that needs code of its own, or no rows.
        OfflineError: it is not in the cache, and fetching is off.
        ExternalError: it cannot be fetched or read.
    """
    offline = offline or switched_off()
    with _contained(data_set, offline), fetching(offline):
        rows, names = _open(data_set, streaming=not offline)
        left = iter(rows)
        numbered = enumerate(itertools.islice(left, STREAMED_ROWS.most), start=1)
        seen, kept = _sample(((number, plain_record(row, names)) for number, row in numbered), most)
        more = next(left, None) is not None
    if not kept:
        raise TaskError(f"{data_set}: holds no rows; name another split")
    read = f"the first {seen} rows (streamed_rows)" if more else f"{seen} rows"
    note = "" if len(kept) == seen and not more else f"{len(kept)} of {read} taken, chosen by hash"
    return [(f"{data_set}: row {number}", read_cells(settled(record))) for number, record in kept], note


def _sample(
    numbered: Iterable[tuple[int, dict[str, Any]]], most: int
) -> tuple[int, list[tuple[int, dict[str, Any]]]]:  # fmt: skip
    """Return how many there were, and those of the smallest hash in their order."""
    count = 0

    def keyed() -> Iterator[tuple[str, int, dict[str, Any]]]:
        nonlocal count
        for number, record in numbered:
            count += 1
            yield digest_of(record), number, record

    kept = heapq.nsmallest(most, keyed(), key=lambda entry: entry[:2])
    return count, sorted((number, record) for _, number, record in kept)


def _open(data_set: DataSet, *, streaming: bool) -> tuple[Iterable[Mapping[str, Any]], dict[str, list[str]]]:
    """Return the rows of a split, and the names of its numbered labels."""
    import datasets

    folder = Path(data_set.path)
    rows: Any
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):  # of `save_to_disk`
        if data_set.revision or data_set.config:
            raise TaskError(f"{data_set}: a folder of `save_to_disk` has no revision and no configuration; {_HOW}")
        saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, datasets.Dataset) and str(saved.split or "train") != data_set.split:
            held = quoted(saved.split or "train")
            raise TaskError(f"{data_set}: the folder holds one data set, of split {held}; name that")
        rows = saved[data_set.split] if isinstance(saved, datasets.DatasetDict) else saved
    else:
        copy = data_set.revision == _PARQUET  # its configurations are folders
        rows = datasets.load_dataset(
            data_set.path,
            None if copy else data_set.config,
            data_dir=data_set.config if copy else None,
            split=data_set.split,
            revision=data_set.revision,
            streaming=streaming or folder.is_dir(),
        )
    features = rows.features or {}
    names = {name: list(kind.names) for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    return rows, names


@contextlib.contextmanager
def _contained(data_set: DataSet, offline: bool) -> Iterator[None]:
    """Keep the library quiet, and turn what it raises into one line."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), logging.root.manager.disable
    datasets.disable_progress_bars()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MergeAdvisorError, MemoryError):
        raise
    except Exception as error:  # it raises whatever its readers and its network raise
        raise _told(data_set, error, offline) from error
    finally:
        logging.disable(level)
        if not bars:
            datasets.enable_progress_bars()


def _told(data_set: DataSet, error: Exception, offline: bool) -> MergeAdvisorError:
    """The error of a data set in one line, with a remedy."""
    reason = printable(" ".join(str(error).split())[:200] or type(error).__name__)
    if "scripts are no longer supported" in reason:
        copy = DataSet(data_set.path, data_set.split, _PARQUET, data_set.config)
        return TaskError(
            f"{data_set}: it is a script, and no code of a data set is run; name the Parquet copy that the hub keeps "
            f"of most ({copy}), or save its rows as a file"
        )
    kind = type(error).__name__
    local = Path(data_set.path).exists()
    if offline and not local:
        return OfflineError(
            f"{data_set}: not in the cache of `datasets`, and fetching is off; allow it, or save its rows as a file"
        )
    if isinstance(error, KeyError):
        return TaskError(f"{data_set}: has no split {listed([data_set.split])}; name one that it has")
    if kind in ("DatasetNotFoundError", "RevisionNotFoundError", "HFValidationError"):
        return TaskError(f"{data_set}: {reason}; correct the name or its revision, or set HF_TOKEN")
    if type(error) is ValueError:  # a split or a configuration that is not there: the message lists those that are
        return TaskError(f"{data_set}: {reason}; {_HOW}")
    if local:
        return TaskError(f"{data_set}: cannot be read ({reason}); save its rows as JSONL or Parquet and name that file")
    return ExternalError(f"{data_set}: cannot be fetched ({reason}); check the network, or save its rows as a file")
