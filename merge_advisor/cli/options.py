"""The commands: what each is for and which options it takes.

What a command shares with the API or with other commands is defined in `merge_advisor.options`; here stands what only
a command line needs, and in `hub_arguments` that of hub and gate. Imports nothing but the standard library and these
definitions: `--help` must stay instant. For the same reason these classes have no slots, for which Python makes each
class twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.cli.hub_arguments import ExploreCommand, GateCommand, HubCommand, check_price, price_option
from merge_advisor.gate_options import GateOptions, WatchOptions
from merge_advisor.hub_options import (
    CardOptions,
    FindOptions,
    HubPlace,
    HubPlanOptions,
    HubSearchOptions,
    PushOptions,
)
from merge_advisor.machine_options import Machine, Workers
from merge_advisor.option_fields import option
from merge_advisor.options import (
    BenchOptions,
    BenchPlaces,
    EmbedOptions,
    LmEvalOptions,
    LmEvalScoreOptions,
    MayScoreOptions,
    MergeOptions,
    Places,
    PlanOptions,
    ScoringOptions,
    TuneOptions,
)

KINDS = {
    "strategies": "strategy", "adaptations": "adaptation", "compositions": "composition", "formats": "format",
    "embeddings": "embedding", "samplers": "sampler",
}  # fmt: skip
"""What `show` lists: the word on the command line, and the kind of the registry."""
_RUN = "run folder"
_PRICE = "of this machine: what the run took, and what its alternatives would have, is shown as money too"
_OUTPUT = "output"


@dataclass(frozen=True)
class PlanCommand:
    """What `plan` reads and writes.

    >>> PlanCommand(task=(Path("examples.jsonl"),)).dry_run
    False
    """

    task: tuple[Path, ...] = option(
        (),
        metavar="FILE",
        help="examples (JSONL, JSON, CSV, Parquet, or hf:NAME:SPLIT of the hub); several make one merge for all",
    )
    out: Path | None = option(None, metavar="DIR", help="run folder to make (default: runs/<task>)")
    force: bool = option(False, help="replace a run folder that is there")
    dry_run: bool = option(False, help="say what would be done and what it costs; write nothing")
    price: float | None = price_option(_PRICE)

    def __post_init__(self) -> None:
        check_price(self.price)


@dataclass(frozen=True)
class InitCommand:
    """What `init` writes.

    >>> InitCommand(demo=True).force
    False
    """

    demo: bool = option(False, help="settings and tasks of the demo pool")
    force: bool = option(False, help="replace a merge-advisor.toml that is there")
    # not from merge-advisor.toml: this command writes that file
    pool: str | None = option(None, metavar="POOL", help="the pool to write into it")
    base: str | None = option(None, metavar="BASE", help="the base to write into it")


@dataclass(frozen=True)
class EmbedCommand:
    """What `embed` writes.

    >>> EmbedCommand(out=Path("deltas.npz")).out.suffix
    '.npz'
    """

    out: Path = option(metavar="FILE.npz", help="arrays ids (n,), deltas (n, d), space (JSON)")


@dataclass(frozen=True)
class TuneCommand:
    """The run that `tune` searches on.

    >>> TuneCommand(run=Path("run")).run.name
    'run'
    """

    run: Path = option(
        positional=True, metavar="RUN", help="run folder; called again the search goes on where it ended"
    )
    dry_run: bool = option(False, help="say what would be done and what it costs; write nothing")
    price: float | None = price_option(_PRICE)

    def __post_init__(self) -> None:
        check_price(self.price)


@dataclass(frozen=True)
class BenchCommand:
    """What `bench` reads and writes.

    >>> BenchCommand(setup=Path("recipes/bench-demo.yaml"), dry_run=True).out
    """

    setup: Path = option(
        positional=True, metavar="SETUP.yaml", help="base, pool, tasks, arms and questions; see recipes/bench-*.yaml"
    )
    out: Path | None = option(None, metavar="DIR", help="folder of results and report; called again it goes on")
    dry_run: bool = option(False, help="say what it takes: models, bytes, forward passes, hours")
    rate: float | None = option(None, metavar="N", help="with --dry-run: forward passes of one row a second")


@dataclass(frozen=True)
class MergeCommand:
    """What `merge` reads and writes.

    >>> MergeCommand(run=Path("run"), out=Path("model")).out.name
    'model'
    """

    run: Path = option(positional=True, metavar="RUN", help=_RUN)
    out: Path = option(metavar="MODEL", help="folder to write")


@dataclass(frozen=True)
class ScoreCommand:
    """What `score` scores, and on which rows.

    >>> ScoreCommand(run=Path("run")).heldout
    ()
    """

    run: Path = option(
        positional=True, metavar="RUN|MODEL", help="run folder, model folder, or adapter folder (with --base)"
    )
    heldout: tuple[Path, ...] = option(
        (), flags=("--task",), metavar="FILE", help="held-out rows, one file (or hf:NAME:SPLIT) a task"
    )
    fields: str | None = option(
        None, flags=("--map",), metavar="FIELDS",
        help="fields of these files, as of plan (default: those the run was planned with)",
    )  # fmt: skip
    template: str | None = option(None, settings=True, help="alpaca, plain, bare or chat, for a MODEL (default alpaca)")
    price: float | None = price_option(_PRICE)

    def __post_init__(self) -> None:
        check_price(self.price)


@dataclass(frozen=True)
class ConvertCommand:
    """What `convert` reads and writes.

    >>> ConvertCommand(source="pickled", out=Path("adapters")).offline
    False
    """

    source: str = option(
        positional=True, metavar="SOURCE", help="folder of adapters or of one, archive, manifest (.yaml), or hub ids"
    )
    out: Path = option(metavar="DIR", help="folder to make")
    offline: bool = option(False, settings=True, help="never fetch; use what is in the cache")
    follow_links: bool = option(False, help="read what links lead to outside the source too")


@dataclass(frozen=True)
class TryCommand:
    """What `try` asks.

    >>> TryCommand(run=Path("run"), prompt="say 3 twice").max_new_tokens
    64
    """

    run: Path = option(positional=True, metavar="RUN", help=_RUN)
    prompt: str = option(positional=True, metavar="PROMPT", help="the input, put into the run's template")
    max_new_tokens: int = option(64, metavar="N", help="tokens of an answer at most (default {default})")


@dataclass(frozen=True)
class PoolCommand:
    """Where `pool find` looks, and what it writes.

    >>> PoolCommand("find", base="org/base").out
    """

    what: str = option(positional=True, choices=("find",), help="find: list the hub's finetunes of a base")
    base: str | None = option(None, settings=True, place=True, metavar="ORG/NAME", help="hub id of the base")
    out: Path | None = option(None, metavar="FILE.yaml", help="manifest to write, for --pool; each model at its commit")
    force: bool = option(False, help="replace a manifest that is there")
    dry_run: bool = option(False, help="say how much `plan` would download; write nothing")
    offline: bool = option(False, settings=True, help="never fetch (nothing can be found then)")


@dataclass(frozen=True)
class CardCommand:
    """What `card` writes.

    >>> CardCommand(run=Path("run")).out
    """

    run: Path = option(positional=True, metavar="RUN", help=_RUN)
    out: Path | None = option(None, metavar="FILE", help="file to write (default: stdout)")
    offline: bool = option(False, settings=True, help="never fetch; use what is in the cache")


@dataclass(frozen=True)
class PushCommand:
    """What `push` uploads, and to where.

    >>> PushCommand(run=Path("run"), repo="org/name").dry_run
    False
    """

    run: Path = option(positional=True, metavar="RUN", help=_RUN)
    repo: str = option(positional=True, metavar="ORG/NAME", help="the repository on the hub")
    dry_run: bool = option(False, help="say what would be uploaded; upload nothing")
    offline: bool = option(False, settings=True, help="never fetch; use what is in the cache")


@dataclass(frozen=True)
class ShowCommand:
    """What `show` lists.

    >>> ShowCommand("strategies").what
    'strategies'
    """

    what: str = option(positional=True, choices=tuple(sorted(KINDS)), help="what is listed")


@dataclass(frozen=True)
class DoctorCommand:
    """What `doctor` looks into beside what is installed.

    >>> DoctorCommand().store
    False
    """

    store: bool = option(False, help="also compare every value of the store with its checksum")
    check: tuple[Path, ...] = option(
        (), metavar="PATH", help="also check a run folder, hub folder, study, store or the results of a benchmark, and "
        "say what making damaged values anew takes; may be given several times",
    )  # fmt: skip


@dataclass(frozen=True)
class OutputOptions:
    """How every command reports.

    >>> OutputOptions(json=True).quiet
    False
    """

    json: bool = option(False, group=_OUTPUT, help="print one JSON object instead of text")
    quiet: bool = option(False, group=_OUTPUT, flags=("-q", "--quiet"), help="no progress")
    verbose: bool = option(
        False, group=_OUTPUT, flags=("-v", "--verbose"), help="progress even where stderr is no terminal"
    )
    debug: bool = option(False, group=_OUTPUT, help="show the traceback of an error")


@dataclass(frozen=True)
class Command:
    """A command: one line of help, and the classes whose fields are its options, in the order of its help.

    >>> COMMANDS["show"].parts
    (<class 'merge_advisor.cli.options.ShowCommand'>, <class 'merge_advisor.cli.options.OutputOptions'>)
    """

    help: str
    parts: tuple[type[Any], ...]


_SESSION = (Places, Machine, OutputOptions)
_CREW = (Places, Workers, Machine, OutputOptions)
COMMANDS = {
    "plan": Command(
        "choose members and weights for a task, merge, score, judge",
        (PlanCommand, PlanOptions, HubPlace, HubPlanOptions, LmEvalOptions, MayScoreOptions, *_CREW),
    ),
    "init": Command("write merge-advisor.toml (and with --demo a task to try)", (InitCommand, OutputOptions)),
    "embed": Command("write the deltas of a pool to an .npz file", (EmbedCommand, EmbedOptions, *_CREW)),
    "tune": Command(
        "search the weights of a run's members, and confirm what was found",
        (TuneCommand, TuneOptions, MayScoreOptions, *_SESSION),
    ),
    "bench": Command(
        "do the strategies beat random? arms and controls over many tasks",
        (BenchCommand, BenchOptions, BenchPlaces, Workers, Machine, OutputOptions),
    ),
    "merge": Command("write the merged model of a run folder", (MergeCommand, MergeOptions, *_SESSION)),
    "score": Command(
        "score a run folder, or any model, on held-out rows",
        (ScoreCommand, LmEvalScoreOptions, ScoringOptions, *_CREW),
    ),
    "gate": Command(
        "in CI: is a model no worse than another on rows and guards (exit 0, 1, or 4 for cannot tell)? or watch a pool",
        (GateCommand, GateOptions, WatchOptions, HubPlace, *_SESSION),
    ),
    "convert": Command("rewrite adapters that are pickles (.bin) as safetensors", (ConvertCommand, OutputOptions)),
    "try": Command("answer a prompt with base, icl, anchor, LoRA and merge side by side", (TryCommand, *_SESSION)),
    "pool": Command("find a pool on the hub: the finetunes of a base", (PoolCommand, FindOptions, OutputOptions)),
    "hub": Command(
        "keep models in a folder that is searched by task, model and words, and planned from",
        (HubCommand, HubPlace, HubSearchOptions, *_CREW),
    ),
    "explore": Command(
        "look at a hub in a browser: map, neighbours, examples, plans, runs",
        (ExploreCommand, HubPlace, *_SESSION),
    ),
    "card": Command("write the model card of a run's result", (CardCommand, CardOptions, OutputOptions)),
    "push": Command("upload a run's result with its card to the hub", (PushCommand, PushOptions, OutputOptions)),
    "show": Command(
        "list what can be chosen: strategies, adaptations, compositions, formats, embeddings, samplers",
        (ShowCommand, OutputOptions),
    ),
    "doctor": Command("what is installed, reachable, broken", (DoctorCommand, OutputOptions)),
}
