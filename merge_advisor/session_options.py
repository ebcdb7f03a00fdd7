"""Keyword arguments of the API: where models and stores are, and how to compute.

Python cannot make a TypedDict from a dataclass; a test compares `Where` with `options.Places`, which is the same as the
command line has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, cast

from merge_advisor.machine_options import Machine, Workers
from merge_advisor.progress import Progress


class SessionOptions(TypedDict, total=False):
    """Where models, stores and fetched files are kept, and how to compute; what is left out has its default.

    The keyword arguments of the API's functions. Python cannot make a TypedDict from a dataclass, so a test compares
    `Where` with `Places`.

    >>> SessionOptions(offline=True, machine=Machine(threads=2))["offline"]
    True
    """

    offline: bool
    """Never fetch."""
    follow_links: bool
    """Read what links in a pool lead to outside of it too."""
    cache: Path | None
    """Folder for stores and fetched models."""
    store: Path | None
    """The store's file, if not in the cache."""
    machine: Machine | None
    beside: Workers | None
    """Who computes beside this process; `plan`, `embed`, `score` and `bench` ask it."""
    progress: Progress
    """Called as work goes on."""


class Where(SessionOptions, total=False):
    """Where the parts of a run are; what is left out is where the plan found it.

    >>> Where(pool="adapters", offline=True)
    {'pool': 'adapters', 'offline': True}
    """

    pool: str | Path | None
    """Where the members are, if not where the plan found them."""
    base: str | None
    """Where the base is, if not where the plan found it."""


class BenchWhere(SessionOptions, total=False):
    """Where the parts of a benchmark are; what is left out is where the setup says.

    >>> BenchWhere(tasks="rows")
    {'tasks': 'rows'}
    """

    pool: str | None
    """Where the pool is, if not where the setup says."""
    base: str | None
    """Where the base is, if not where the setup says."""
    tasks: str | None
    """Where the task files are, if not where the setup says: a folder, or `hub:org/dataset[@revision]`."""


def session_options(where: Where | BenchWhere) -> SessionOptions:
    """Return what a session takes of the places and settings that a function of the API takes.

    Args:
        where: what was given.

    >>> session_options(Where(pool="adapters", offline=True))
    {'offline': True}
    """
    return cast(
        "SessionOptions", {name: value for name, value in where.items() if name in SessionOptions.__annotations__}
    )
