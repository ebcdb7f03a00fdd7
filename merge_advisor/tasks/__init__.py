"""Tasks: read a file of examples, and split its rows into shots, tuning rows and held-out rows."""

from __future__ import annotations

from merge_advisor.tasks.files import MINIMUM_ROWS, TaskFile, read_inputs, read_rows
from merge_advisor.tasks.splits import majority, split

__all__ = ["MINIMUM_ROWS", "TaskFile", "majority", "read_inputs", "read_rows", "split"]
