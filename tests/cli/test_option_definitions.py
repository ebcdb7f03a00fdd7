"""An option is defined once: parser, settings file, built value, kept settings and API defaults follow its field."""

import argparse
import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from merge_advisor.cli.options import COMMANDS
from merge_advisor.cli.parser import Arguments, add_options, parse
from merge_advisor.cli.settings import all_parts, read_settings, setting_options
from merge_advisor.errors import InputError
from merge_advisor.machine_options import Machine
from merge_advisor.option_fields import Option, build_options, option, options_of
from merge_advisor.options import (
    BenchOptions,
    EmbedOptions,
    FinetuneSettings,
    MayScoreOptions,
    MergeOptions,
    Places,
    PlanOptions,
    ScoringOptions,
)
from merge_advisor.session_options import Where


@dataclass(frozen=True, slots=True)
class Inner:
    """Options within options."""

    rate: float = option(0.5, help="a rate", flags=("--inner-rate",))
    hidden: int = 3


@dataclass(frozen=True, slots=True)
class MoreOptions:
    """The throw-away class: one option of each sort."""

    depth: int = option(2, help="so deep (default {default})", group="new", settings=True, metavar="N")
    kind: Literal["flat", "round"] = option("flat", help="its form", settings=True)
    keep: tuple[Path, ...] = option((), help="files kept", settings=True)
    scale: tuple[float, float] | None = option(None, help="a range")
    spot: Path | int | None = option(None, help="a number or a file")
    fast: bool = option(False, help="hurry", settings=True)
    checked: bool = option(True, flags=("--no-check",), help="leave the check out")
    inner: Inner = field(default_factory=Inner)


def given_by(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser, options_of(MoreOptions))
    return vars(parser.parse_args(words))


def test_one_field_makes_an_option_of_parser_settings_and_value(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, options_of(MoreOptions))
    text = parser.format_help()
    assert "new:" in text and "--depth N" in text and "so deep (default 2)" in text and "{flat,round}" in text
    assert given_by() == {}
    assert build_options(MoreOptions, given_by()) == MoreOptions()
    given = given_by(
        *"--depth 5 --kind round --keep a --keep b --scale 0.5:2 --spot 7 --fast --no-check --inner-rate 2".split()
    )
    assert build_options(MoreOptions, given) == MoreOptions(
        depth=5, kind="round", keep=(Path("a"), Path("b")), scale=(0.5, 2.0), spot=7, fast=True, checked=False,
        inner=Inner(rate=2.0),
    )  # fmt: skip
    assert build_options(MoreOptions, given_by("--spot", "rows.jsonl")).spot == Path("rows.jsonl")
    (tmp_path / "merge-advisor.toml").write_text("depth = 9\nfast = true\nkeep = ['a']\n")
    settings = read_settings(tmp_path, [MoreOptions])
    assert Arguments("new", {"depth": 1}, settings).part(MoreOptions) == MoreOptions(
        depth=1, fast=True, keep=(tmp_path / "a",)
    )
    for text, said in (("kind = 'x'", "none of flat, round"), ("spot = 3", "unknown key"), ("keep = 'a'", "no list")):
        (tmp_path / "merge-advisor.toml").write_text(text)
        with pytest.raises(InputError, match=said):
            read_settings(tmp_path, [MoreOptions])


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="`scale=3`: is no range; write LOW:HIGH"):
        build_options(MoreOptions, given_by("--scale", "3"))


def example_of(item: Option) -> str:
    """A word that an option takes as its value."""
    return item.choices[0] if item.choices else "2"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_given_by_position_may_stand_anywhere(command: str) -> None:
    """Before, between and behind any option, of every command, and of every kind of work that `hub` does."""
    options = [item for part in COMMANDS[command].parts for item in options_of(part)]
    positional = [item for item in options if item.text.positional]
    pairs = [
        [item.flags[-1], *([] if item.kind is bool else [example_of(item)])]
        for item in options if not item.text.positional
    ]  # fmt: skip
    needed = [words for words, item in zip(pairs, [i for i in options if i.flags], strict=True)
              if item.default is MISSING]  # fmt: skip
    firsts = (positional[0].choices or ("one",)) if positional else ()
    for first in firsts:
        placed = [first, *(item.choices[0] if item.choices else f"w{n}" for n, item in enumerate(positional[1:]))]
        for number, words in enumerate(pairs if first == firsts[0] else pairs[:3]):
            around = [*words, *(word for other in needed if other != words for word in other)]
            wanted = parse([command, *placed, *around]).given
            assert [wanted[item.name] for item in positional] == placed
            if len(words) == 2 and words[0].startswith("--") and number % 2:
                around = [f"{words[0]}={words[1]}", *around[2:]]
            place = number % (len(placed) + 1)
            assert parse([command, *placed[:place], *around, *placed[place:]]).given == wanted


def test_what_cannot_be_given_is_said_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["hub", "show", "--hub"], "argument --hub: expected one argument"),
        (["hub", "show", "--hub", "--", "a0"], "argument --hub: expected one argument"),
        (["hub", "--hub", "H", "a0", "show"], "invalid choice: 'a0'"),
        (["hub", "show", "--bogus", "a0", "a1"], "unrecognized arguments: --bogus a1"),
        (["hub", "show", "a0", "--inc", "x", "a1"], "unrecognized arguments: a1"),
        (["hub", "--hub", "H"], "the following arguments are required: what"),
    ):
        with pytest.raises(SystemExit):
            parse(words)
        assert said in capsys.readouterr().err
    assert parse(["try", "-q", "run", "--", "-x"]).given == {"quiet": True, "run": "run", "prompt": "-x"}
    assert parse(["try", "run", "-q", "-1"]).given == {"quiet": True, "run": "run", "prompt": "-1"}
    assert parse(["try", "run", "--deb", "- what"]).given == {"debug": True, "run": "run", "prompt": "- what"}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_means_one_thing_in_a_command(command: str) -> None:
    names = [item.name for part in COMMANDS[command].parts for item in options_of(part)]
    assert len(names) == len(set(names))
    for part in COMMANDS[command].parts:
        for item in options_of(part):
            assert item.text.help, f"{item.path} of {command} has no help"


def test_a_key_of_the_settings_has_one_type() -> None:
    known = setting_options(all_parts())
    assert set(known) == {
        "base", "pool", "template", "cache", "store", "offline", "device", "dtype", "threads", "strategy", "k", "shots",
        "composition", "rank", "seed", "embedding", "guard", "choose_by", "adaptation", "hub",
    }  # fmt: skip
    for part in all_parts():
        for item in options_of(part):
            if item.text.settings:
                assert item.kind == known[item.name].kind, item.name


def test_where_says_what_places_and_machine_do() -> None:
    assert set(Where.__annotations__) == {item.path for item in options_of(Places)} | {"machine", "beside", "progress"}


NOT_KEPT = {
    "tuning": "the rows themselves are kept in tasks/",
    "heldout": "the rows themselves are kept in tasks/",
    "inputs": "kept beside the settings, as the number and digest of the rows",
    "template": "kept beside the settings, as the name and digest of what was used",
}
"""Fields of PlanOptions that plan.json's settings leave out, with the reason."""


def test_what_changes_a_plan_is_kept_in_its_run_folder() -> None:
    from merge_advisor.advisor.runs.plan_report import Plan, PlanSettings

    kept = {item.name for item in dataclasses.fields(PlanSettings)}
    asked = {item.name for item in dataclasses.fields(PlanOptions)}
    assert asked - kept == set(NOT_KEPT)
    assert kept <= asked
    assert "template" in {item.name for item in dataclasses.fields(Plan)}


def test_the_defaults_of_the_api_are_those_of_the_options() -> None:
    from merge_advisor import advisor
    from merge_advisor.advisor.embedding_file import embed_to_file
    from merge_advisor.advisor.scoring.trying import answers
    from merge_advisor.benchmark.bench import bench
    from merge_advisor.cli.options import TryCommand

    pairs: list[tuple[Callable[..., Any], type[Any]]] = [
        (advisor.plan, MayScoreOptions), (advisor.tune, MayScoreOptions), (advisor.score, ScoringOptions),
        (advisor.merge, MergeOptions), (bench, BenchOptions), (answers, TryCommand), (embed_to_file, EmbedOptions),
    ]  # fmt: skip
    for function, cls in pairs:
        defaults = {item.path: item.default for item in options_of(cls) if item.default is not dataclasses.MISSING}
        shared = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if name in defaults and parameter.default is not inspect.Parameter.empty
        }
        assert shared == {name: defaults[name] for name in shared}, function


def test_what_the_command_line_gives_is_what_the_library_gets() -> None:
    words = "plan --task a.jsonl --k 3 --heldout 7 --licence mit --license gpl --lora-lr 0.1 --threads 2 --no-score"
    arguments = parse(words.split())
    assert arguments.part(PlanOptions) == PlanOptions(
        k=3, heldout=7, licence=("mit", "gpl"), finetune=FinetuneSettings(lr=0.1)
    )
    assert arguments.part(Machine) == Machine(threads=2)
    assert arguments.part(MayScoreOptions) == MayScoreOptions(scored=False)
