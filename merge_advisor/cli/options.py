"""The options of every command. Imports nothing but the standard library and names: `--help` must stay instant."""

from __future__ import annotations

import argparse

from merge_advisor.registry import BUILTIN
from merge_advisor.version import __version__

EPILOG = "Settings may stand in ./merge-advisor.toml (see `merge-advisor init`); options win over it."
KINDS = {
    "strategies": "strategy", "compositions": "composition", "formats": "format", "embeddings": "embedding",
    "samplers": "sampler",
}  # fmt: skip


def _names(kind: str) -> str:
    return ", ".join(sorted(BUILTIN[kind]))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="merge-advisor",
        description="Which finetuned models to merge for your task, how, and whether it helped.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"merge-advisor {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _plan(commands.add_parser("plan", help="choose members and weights for a task, merge, score, judge", epilog=EPILOG))
    _init(commands.add_parser("init", help="write merge-advisor.toml (and with --demo a task to try)"))
    _embed(commands.add_parser("embed", help="write the deltas of a pool to an .npz file", epilog=EPILOG))
    _tune(commands.add_parser("tune", help="search the weights of a run's members, and confirm what was found"))
    _bench(commands.add_parser("bench", help="do the strategies beat random? arms and controls over many tasks"))
    _merge(commands.add_parser("merge", help="write the merged model of a run folder"))
    _score(commands.add_parser("score", help="score a run folder, or any model, on held-out rows"))
    _convert(commands.add_parser("convert", help="rewrite adapters that are pickles (.bin) as safetensors"))
    _try(commands.add_parser("try", help="answer a prompt with base, anchor and merge side by side"))
    _show(commands.add_parser("show", help="list what can be chosen: strategies, compositions, formats, embeddings"))
    _common(commands.add_parser("doctor", help="what is installed, reachable, broken"))
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress")
    group.add_argument("-v", "--verbose", action="store_true", help="progress even where stderr is no terminal")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _where(parser: argparse.ArgumentParser, *, pool: bool = True) -> None:
    group = parser.add_argument_group("models")
    if pool:
        group.add_argument(
            "--pool", metavar="POOL", help="folder of adapters or checkpoints, manifest (.yaml), hub ids"
        )
    group.add_argument("--base", metavar="BASE", help="hub id (org/name[@revision]), folder, or .gguf file")
    group.add_argument("--offline", action="store_true", help="never fetch; use what is in the cache")
    group.add_argument("--cache", metavar="DIR", help="folder for stores and fetched models ($MERGE_ADVISOR_CACHE)")
    group.add_argument(
        "--store", metavar="FILE", help="SQLite file of measurements (default: store.sqlite in the cache)"
    )


def _machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    group.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="default float32")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's, at most the cores)")


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", action="append", default=[], metavar="FILE",
                        help="examples as JSONL; several --task make one merge for all")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="run folder to make (default: runs/<task>)")
    parser.add_argument("--force", action="store_true", help="replace a run folder that is there")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and what it costs; write nothing"
    )
    choice = parser.add_argument_group("choosing")
    choice.add_argument(
        "--strategy", help=f"default rerank; one of: {_names('strategy')}; parameters as name:key=value"
    )
    choice.add_argument("--k", type=int, metavar="N", help="members of the pool at most (default 4)")
    choice.add_argument("--anchor", metavar="ID", help="make this candidate the anchor")
    choice.add_argument("--choose-by", choices=("auto", "loss", "choices"),
                        help="what choosing lowers: loss of the right answer's tokens, or of the right choice among "
                             "the choices (default auto: choices where every row has them)")  # fmt: skip
    choice.add_argument("--include", action="append", default=[], metavar="GLOB", help="only candidates of these ids")
    choice.add_argument("--exclude", action="append", default=[], metavar="GLOB",
                        help="no candidates of these ids; shots_lora leaves out the LoRA of the shots")  # fmt: skip
    choice.add_argument("--licence", "--license", action="append", default=[], metavar="GLOB",
                        help="only candidates under these licences")  # fmt: skip
    choice.add_argument("--composition", help=f"default exact; one of: {_names('composition')}")
    choice.add_argument("--rank", type=int, metavar="R", help="cut the merged adapter to this rank by SVD")
    choice.add_argument("--embedding", help=f"default delta_activations; one of: {_names('embedding')}")
    choice.add_argument("--seed", type=int, help="the only randomness (default 0)")
    rows = parser.add_argument_group("rows")
    rows.add_argument("--shots", type=int, metavar="N", help="rows the task LoRA is finetuned on, at most (default 20)")
    rows.add_argument("--tuning", type=int, metavar="N", help="rows that choose members and weights (default: a fifth)")
    rows.add_argument(
        "--heldout", metavar="N|FILE", help="rows kept for scoring, or a file of them (default: the rest)"
    )
    rows.add_argument("--template", help="alpaca, plain, bare or chat (default: the pool's)")
    lora = parser.add_argument_group("LoRA of the shots")
    lora.add_argument("--lora-rank", type=int, metavar="R")
    lora.add_argument("--lora-lr", type=float, metavar="RATE")
    lora.add_argument("--lora-epochs", type=int, metavar="N", help="at most; the tuning rows tell when to stop")
    lora.add_argument("--lora-steps", type=int, metavar="N", help="exactly so many optimiser steps instead")
    _lm_eval(parser, "plan for a task (or group) of lm-eval: its test split is held out, others are learned from")
    scoring = _judging(parser)
    scoring.add_argument("--no-score", action="store_true", help="leave scoring to `merge-advisor score`")
    _where(parser)
    _machine(parser)
    _common(parser)


def _lm_eval(parser: argparse.ArgumentParser, what: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("lm-eval")
    group.add_argument("--lm-eval-task", action="append", default=[], metavar="NAME", help=what)
    group.add_argument("--lm-eval-include", metavar="DIR", help="folder with the YAML of lm-eval tasks of your own")
    group.add_argument("--trust-task-code", action="store_true",
                       help="let a task run Python of its own (!function in its YAML, and the like)")  # fmt: skip
    return group


def _judging(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("scoring")
    group.add_argument("--guard", metavar="FILE", help="unrelated text (JSONL) that a merge must not get worse on")
    group.add_argument("--metric", default="auto", metavar="NAME",
                       help="what the verdict rests on: accuracy, exact_match, loss, or one of an lm-eval task's "
                            "(default auto: by the rows)")  # fmt: skip
    return group


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--demo", action="store_true", help="settings and tasks of the demo pool")
    parser.add_argument("--force", action="store_true", help="replace a merge-advisor.toml that is there")
    parser.add_argument("--pool", metavar="POOL", help="the pool to write into it")
    parser.add_argument("--base", metavar="BASE", help="the base to write into it")
    _common(parser)


def _embed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="arrays ids (n,), deltas (n, d), space (JSON)")
    parser.add_argument("--embedding", help=f"default delta_activations; one of: {_names('embedding')}")
    parser.add_argument("--include", action="append", default=[], metavar="GLOB", help="only candidates of these ids")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="no candidates of these ids")
    _where(parser)
    _machine(parser)
    _common(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "setup", metavar="SETUP.yaml", help="base, pool, tasks, arms and questions; see recipes/bench-*.yaml"
    )
    parser.add_argument("--out", metavar="DIR", help="folder of results and report; called again it goes on")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it takes: models, bytes, forward passes, hours"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="with --dry-run: forward passes of one row a second")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes; each loads the base (default 1)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="GLOB",
                        help="only results whose arm/task/view, arm/task/view/k or arm/task/view/k#shots.selection "
                             "(numbers of the draws) fits, e.g. 'default/*', '*/own-out/4' or '*#0.*'")  # fmt: skip
    parser.add_argument("--tasks", metavar="DIR", help="folder of task files, if not where the setup says")
    _where(parser)
    _machine(parser)
    _common(parser)


def _merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--out", required=True, metavar="MODEL", help="folder to write")
    parser.add_argument("--with", dest="engine", default="memory", choices=("memory", "mergekit"),
                        help="memory (default): this program; mergekit: in a child process")  # fmt: skip
    parser.add_argument("--adapter", action="store_true", help="write the merged LoRA (PEFT) instead of a full model")
    parser.add_argument(
        "--gguf", action="store_true", help="write one .gguf file by llama.cpp's converter ($LLAMA_CPP, or on PATH)"
    )
    parser.add_argument("--rank", type=int, metavar="R", help="with --adapter: cut it to this rank by SVD")
    _where(parser)
    _machine(parser)
    _common(parser)


def _score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN|MODEL", help="run folder, model folder, or adapter folder (with --base)")
    parser.add_argument("--task", action="append", default=[], metavar="FILE", help="held-out rows, one file a task")
    parser.add_argument("--template", help="alpaca, plain, bare or chat, for a MODEL (default alpaca)")
    group = _lm_eval(parser, "score on a task (or group) of lm-eval, with its own prompts and metric")
    group.add_argument("--limit", type=int, metavar="N", help="documents of each lm-eval task at most, the first ones")
    _judging(parser)
    _where(parser)
    _machine(parser)
    _common(parser)


def _tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder; called again the search goes on where it ended")
    budget = parser.add_argument_group("budget (the first limit reached ends the search; default 40 trials)")
    budget.add_argument("--trials", type=int, metavar="N", help="trials in all, earlier sessions included")
    budget.add_argument("--forward-budget", type=int, metavar="N",
                        help="forward passes over one row in all; a backward pass counts as two")  # fmt: skip
    budget.add_argument("--minutes", type=float, metavar="N", help="minutes of this session")
    search = parser.add_argument_group("search")
    search.add_argument(
        "--sampler", default="auto", help=f"default auto; one of: {_names('sampler')}; parameters as name:key=value"
    )
    search.add_argument("--objective", default="auto",
                        help="loss, choices, accuracy, delta, lm-eval:METRIC (acc, exact_match, loss), lorahub, "
                             "lorahub-clean (default auto: choices or loss, as the plan was chosen)")  # fmt: skip
    search.add_argument("--goal", default="mean",
                        help="mean (default), worst or pareto over several tasks, lorahub, lorahub-clean")  # fmt: skip
    search.add_argument("--seed", type=int, default=0, help="the only randomness (default 0)")
    search.add_argument("--storage", metavar="URL", help="Optuna storage (default: study.sqlite in the run folder)")
    search.add_argument("--force", action="store_true", help="begin anew, whatever was tried before")
    space = parser.add_argument_group("what is varied (default: the members' weights)")
    space.add_argument("--bounds", metavar="LOW:HIGH", help="range of a weight (default -1.5:1.5)")
    space.add_argument("--scale", metavar="LOW:HIGH", help="one factor on all weights")
    space.add_argument("--composition", action="append", default=[], metavar="SPEC",
                       help=f"try this one beside the plan's; one of: {_names('composition')}")  # fmt: skip
    space.add_argument("--drop", action="store_true", help="members may be left out")
    space.add_argument("--density", metavar="LOW:HIGH", help="share of entries kept, of compositions that have one")
    space.add_argument("--layers", type=int, default=0, metavar="G", help="a factor for each of G groups of layers")
    scoring = _judging(parser)
    scoring.add_argument("--no-score", action="store_true", help="leave scoring to `merge-advisor score`")
    _where(parser)
    _machine(parser)
    _common(parser)


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE",
                        help="folder of one adapter or of several, manifest (.yaml), or hub ids")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--offline", action="store_true", help="never fetch; use what is in the cache")
    _common(parser)


def _try(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("prompt", help="the input, put into the run's template")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    _where(parser)
    _machine(parser)
    _common(parser)


def _show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=sorted(KINDS))
    _common(parser)
