"""What can be asked for of the hub, and of hub folders: the options of `pool find`, `push` and `card`, and of `hub`.

As `merge_advisor.options`, which holds those of the commands that plan and measure: each option is defined here alone,
and nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from merge_advisor.errors import InputError
from merge_advisor.option_fields import option

_LICENCE_FLAGS = ("--licence", "--license")


@dataclass(frozen=True, slots=True)
class FindOptions:
    """Which models of the hub are looked at, and what they are ranked by.

    >>> FindOptions(limit=50).kind
    'all'
    """

    task: Path | None = option(
        None, metavar="FILE",
        help="rank by how like a model's name and card are to these examples (default: by downloads)",
    )  # fmt: skip
    fields: str | None = option(
        None, flags=("--map",), metavar="FIELDS", help="fields of that file, as of `merge-advisor plan --map`"
    )
    limit: int = option(200, metavar="N", help="models looked at, those downloaded most (default {default})")
    top: int | None = option(None, metavar="N", help="models kept, the first of the ranking (default: all)")
    kind: Literal["all", "adapter", "checkpoint"] = option(
        "all", help="adapters, full finetunes (checkpoint), or all (default)"
    )
    licence: tuple[str, ...] = option((), flags=_LICENCE_FLAGS, metavar="GLOB", help="only models under these licences")
    min_downloads: int = option(0, metavar="N", help="only models downloaded so often in the last month")

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit), ("top", self.top)):
            if value is not None and value < 1:
                raise InputError(f"`{name}={value}`: give 1 or more")
        if self.min_downloads < 0:
            raise InputError(f"`min_downloads={self.min_downloads}`: give 0 or more")
        if self.fields is not None and self.task is None:
            raise InputError("`fields` goes with `task`; name the file of examples")


@dataclass(frozen=True, slots=True)
class CardOptions:
    """What a model card says beside what its run folder holds.

    >>> CardOptions(licence="apache-2.0").model
    """

    model: Path | None = option(
        None, metavar="MODEL", help="folder that `merge-advisor merge RUN` wrote (default: the run's adapter/)"
    )
    licence: str | None = option(
        None,
        flags=_LICENCE_FLAGS,
        metavar="ID",
        help="licence of the result (default: the one that members and base share)",
    )
    base_model: str | None = option(
        None, metavar="ORG/NAME", help="hub id of the base, where the run was planned on a folder or file"
    )


@dataclass(frozen=True, slots=True)
class PushOptions(CardOptions):
    """How a result is uploaded.

    >>> PushOptions(private=True).force
    False
    """

    private: bool = option(False, help="make a private repository")
    force: bool = option(False, help="replace what a repository of that name holds (its history keeps it)")


SHORTLIST = 128
"""Models of a hub folder that a plan looks at, unless another number is given."""
_HUB, _SEARCHED = "hub", "search and list"
_FILTER_HELP = (
    "only models that fit, e.g. 'licence=apache-2.0,rank<=16': id, base, kind, licence, source, revision, template, "
    "added, rank, size, language, data_set, tag, module"
)


@dataclass(frozen=True, slots=True)
class HubSearchOptions:
    """Which models of a hub folder are looked at, and by which deltas.

    >>> HubSearchOptions(filter="rank<=16").embedding
    'delta_activations'
    """

    filter: str = option("", group=_SEARCHED, metavar="TERMS", help=_FILTER_HELP)
    embedding: str = "delta_activations"
    template: str | None = None
    """Prompt template of a task that is searched by; None: the models'. On the command line `hub add` and `hub search`
    share one option for each of these two."""
    fields: str | None = option(
        None, group=_SEARCHED, flags=("--map",), metavar="FIELDS",
        help="fields of the examples, as of `merge-advisor plan --map`",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HubPlace:
    """Where the hub folder is.

    >>> HubPlace().hub
    """

    hub: Path | None = option(
        None, group=_HUB, settings=True, metavar="DIR",
        help="hub folder; a plan takes its pool from it (merge-advisor.toml: where no pool is named), a gate what is "
        "called hub:ID",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HubPlanOptions:
    """How a plan takes its pool from a hub folder.

    >>> HubPlanOptions(shortlist=24).filter
    ''
    """

    shortlist: int = option(
        SHORTLIST, group=_HUB, metavar="N",
        help="models that the hub's index names, which alone are opened and chosen among (default {default})",
    )  # fmt: skip
    filter: str = option("", group=_HUB, metavar="TERMS", help=_FILTER_HELP)

    def __post_init__(self) -> None:
        if self.shortlist < 1:
            raise InputError(f"`shortlist={self.shortlist}`: give 1 or more")
