"""The commands of a hub folder and of the gate: which options they take beside the shared ones (see `options`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.errors import InputError
from merge_advisor.option_fields import option


def price_option(told: str) -> Any:
    """Return the option of a price of an hour of the machine.

    >>> price_option("measured seconds are shown as money too").default

    Args:
        told: its help.
    """
    return option(None, metavar="N", flags=("--price-per-hour",), help=told)


def check_price(price: float | None) -> None:
    """Refuse a price that is none.

    >>> check_price(None)

    Args:
        price: of an hour.

    Raises:
        InputError: it is below 0, or no number.
    """
    if price is not None and not 0 <= price < float("inf"):
        raise InputError(f"`price={price:g}`: give 0 or more, in any currency, per hour")


@dataclass(frozen=True)
class GateCommand:
    """What `gate` compares, on which rows, and what it writes.

    >>> GateCommand(model="new", baseline="old", tasks=(Path("held_out.jsonl"),)).metric
    'auto'
    """

    model: str | None = option(
        None, positional=True, metavar="MODEL|RUN",
        help="the candidate: run folder, adapter folder (with --base), full model, or hub:ID",
    )  # fmt: skip
    baseline: str | None = option(
        None, metavar="MODEL|RUN", help="what it must not be worse than: the same kinds of things"
    )
    tasks: tuple[Path, ...] = option(
        (), flags=("--task",), metavar="FILE", help="held-out rows that neither was trained on (or hf:NAME:SPLIT)"
    )
    # not from merge-advisor.toml: its `guard` is the plan's, and a gate says on its own line what it checks
    guards: tuple[Path, ...] = option(
        (), flags=("--guard",), metavar="FILE", help="unrelated text (JSONL) it must not get worse on"
    )
    metric: str = option(
        "auto", metavar="NAME", help="of the tasks: accuracy, exact_match or loss (default {default}: by the rows)"
    )
    fields: str | None = option(None, flags=("--map",), metavar="FIELDS", help="fields of these files, as of plan")
    template: str | None = option(
        None, settings=True, help="alpaca, plain, bare or chat, of what is no run (default: the run's, or alpaca)"
    )
    junit: Path | None = option(None, metavar="FILE.xml", help="write the checks as JUnit XML")
    summary: Path | None = option(None, metavar="FILE.md", help="write a summary in Markdown, for a pull request")
    price: float | None = price_option("of this machine: measured seconds are shown as money too")

    def __post_init__(self) -> None:
        check_price(self.price)


@dataclass(frozen=True)
class HubCommand:
    """What `hub` does, and with what.

    >>> HubCommand("search", text="legal contracts").k
    10
    """

    what: str = option(
        positional=True, choices=("add", "add-run", "list", "show", "remove", "search", "check", "export"),
        help="add a POOL; list a RUN with its scores (add-run); list models; show or remove that of an ID; search; "
             "check that all is whole; export to a FILE",
    )  # fmt: skip
    name: str | None = option(
        None, positional=True, metavar="POOL|RUN|ID|FILE.parquet", help="what is added, shown, removed or written"
    )
    embedding: tuple[str, ...] = option(
        (), registered="embedding",
        help="of the deltas added or searched by (default delta_activations); to add, may be given several times; one "
             "of: {names}",
    )  # fmt: skip
    include: tuple[str, ...] = option((), metavar="GLOB", help="add only models of these ids")
    exclude: tuple[str, ...] = option((), metavar="GLOB", help="add no models of these ids")
    template: str | None = option(None, settings=True, help="alpaca, plain, bare or chat (default: the pool's)")
    repair: bool = option(False, help="check: make vectors and text index anew, drop damaged rows of the catalogue")
    like: str | None = option(None, group="search and list", metavar="ID", help="models like this one, by their deltas")
    task: Path | None = option(
        None, group="search and list", metavar="FILE", help="models like this task, by a LoRA of its shots"
    )
    text: str | None = option(
        None, group="search and list", metavar="WORDS", help="models whose name, card or tags have these words"
    )
    k: int = option(
        10, group="search and list", flags=("-k", "--k"), metavar="N", help="found at most (default {default})"
    )
    limit: int | None = option(None, group="search and list", metavar="N", help="listed at most (default: all)")
    runs: bool = option(
        False,
        group="search and list",
        help="list: runs and gates instead, with what they took and what their alternatives would have",
    )
    price: float | None = price_option("of this machine: with --runs, measured seconds are shown as money too")

    def __post_init__(self) -> None:
        check_price(self.price)


@dataclass(frozen=True)
class ExploreCommand:
    """What `explore` shows, and where.

    >>> ExploreCommand(folder=Path("hub")).port
    0
    """

    folder: Path | None = option(None, positional=True, metavar="DIR", help="hub folder (default: that of `--hub`)")
    port: int = option(0, metavar="N", help="where the page is served on this machine (default: any that is free)")
    browser: bool = option(True, flags=("--no-browser",), help="print the address, open no browser")
    runs: Path = option(Path("runs"), metavar="DIR", help="folder for runs planned on the page (default {default})")
    logs: tuple[Path, ...] = option(
        (), flags=("--watch-log",), metavar="DIR|FILE",
        help="--out of a `gate --watch` (or its log.jsonl) whose decisions are shown beside those of DIR/watch of "
             "--runs; may be given several times",
    )  # fmt: skip
    token_file: Path | None = option(
        None, metavar="FILE", help="keep the secret of the address there, so that links outlive this start; with --port"
    )
    new_token: bool = option(False, help="with --token-file: make a new secret; links with the old one end")
    export: Path | None = option(
        None, metavar="FILE.html", help="write the map as one page that needs no server, to send to others"
    )
    space: int | None = option(None, metavar="N", help="with --export: number of the space (default: of most models)")
