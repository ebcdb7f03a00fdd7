"""Tasks: read a file of examples, and split its rows into shots, tuning rows and held-out rows."""

from __future__ import annotations

from merge_advisor.tasks.data_sets import DATA_SET_ROWS, data_set_of
from merge_advisor.tasks.files import MINIMUM_ROWS, TaskFile, read_inputs, read_rows
from merge_advisor.tasks.labels import shared_choices
from merge_advisor.tasks.splits import keep_apart, majority, split

__all__ = [
    "DATA_SET_ROWS", "MINIMUM_ROWS", "TaskFile", "data_set_of", "keep_apart", "majority", "read_inputs", "read_rows",
    "shared_choices", "split",
]  # fmt: skip
