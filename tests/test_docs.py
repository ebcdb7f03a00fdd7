"""The documents say what is there: links, paths, commands, examples, rooms and words."""

import argparse
import re
import shlex
import subprocess
from dataclasses import fields
from itertools import product
from pathlib import Path

import pytest

from merge_advisor.benchmark.values import Arm, Draws, Question, Setup, Tasks, Tuner
from merge_advisor.cli.parser import build_parser
from tests.test_layers import LEVELS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "eval").glob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
REPOSITORY_PATH = re.compile(r"^(?:\./)?(?:merge_advisor|scripts|eval|recipes|tests|docs)/[\w./{},*-]+$")
TO_BE_WRITTEN = {"merge_advisor/select/projection.py"}
"""By the reader, who follows CONTRIBUTING."""
RUN_FOLDERS = {"adapter/", "base/", "shots/", "shots_lora/", "tasks/", "score/", "plan/", "trained/"}
"""Folders that a run or the cache holds, named like those of the package."""
MOST_WORDS = 900
"""Of README, as `wc -w` counts: a person decides in a minute."""


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(prose(page))}


def section(title: str) -> str:
    """A section of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def code_of(page: Path) -> list[str]:
    """The lines of a page's fenced blocks (continued ones joined) and its code spans."""
    text = page.read_text(encoding="utf-8")
    blocks = [match["body"].replace("\\\n", " ") for match in FENCE.finditer(text) if match["kind"] in ("", "sh")]
    return [line.strip() for block in blocks for line in block.splitlines()] + SPAN.findall(prose(page))


def expanded(pattern: str) -> list[str]:
    """A path with its braces written out: `a/{b,c}.py` is `a/b.py` and `a/c.py`."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    if "{" not in pattern:
        return [pattern]
    return ["".join(chosen) for chosen in product(*parts)]


def test_the_first_page_is_short() -> None:
    words = len((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert words <= MOST_WORDS, f"{words} words"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(place), f"{name}: {target} names no heading"


@pytest.mark.parametrize("name", NAMES)
def test_paths_named_are_there(name: str) -> None:
    if name == "CHANGELOG.md":
        return  # it tells of what was
    words = [word for code in code_of(ROOT / name) for word in code.split()]
    for word in words:
        if REPOSITORY_PATH.match(word) and word not in TO_BE_WRITTEN and "NAME" not in word:
            for path in expanded(word):
                assert list(ROOT.glob(path.removeprefix("./").rstrip("/."))), f"{name}: {word}"


def test_words_of_the_vocabulary_stand_once() -> None:
    words = re.findall(r"^\| ([^|]+?) \|", section("Vocabulary"), re.MULTILINE)[1:]
    assert len(words) > 40
    assert sorted(set(words)) == sorted(words)


def room_levels() -> list[set[str]]:
    """The rooms of docs/architecture.md, level by level: a row that names a level begins one."""
    levels: list[set[str]] = []
    for level, room in re.findall(r"^\| ([^|]*?) ?\| `([\w.]+)` \|", section("The rooms"), re.MULTILINE):
        if level:
            levels.append(set())
        levels[-1].add(room)
    return levels


def test_rooms_are_those_of_the_layers() -> None:
    assert room_levels() == [set(level) for level in LEVELS]


def test_every_package_has_its_line() -> None:
    package = ROOT / "merge_advisor"
    folders = [path.parent.relative_to(package) for path in package.rglob("__init__.py")]
    names = {".".join(folder.parts) for folder in folders if folder.parts}
    assert names <= set(re.findall(r"`([\w.]+)`", section("The rooms")))


def test_modules_named_in_the_architecture_are_there() -> None:
    """Those without `merge_advisor/` in front too, and names of folders."""
    spans = re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)`", (ROOT / "docs" / "architecture.md").read_text())
    package = ROOT / "merge_advisor"
    for span in spans:
        if "NAME" not in span and span not in RUN_FOLDERS:
            assert any((place / span).exists() for place in (ROOT, package)), span


def test_names_in_the_architecture_are_defined() -> None:
    """Classes and constants: `MergeMeter`, `CONTROL_RUNNERS`."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "merge_advisor").rglob("*.py"))
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`(_?[A-Z]\w*)`", text)) - {"TYPE_CHECKING", "LEVELS"}:
        assert re.search(rf"^(?:class )?_?{name.lstrip('_')}\b", source, re.MULTILINE), name


@pytest.mark.parametrize("part", [Setup, Tasks, Draws, Arm, Tuner, Question])
def test_every_key_of_a_setup_is_described(part: type) -> None:
    text = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    table = text.split("## Write a setup")[1].split("\n## ")[0]
    described = {name for span in SPAN.findall(table) for name in span.partition(":")[0].split(".")}
    assert {field.name for field in fields(part)} <= described


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    action = next(action for action in build_parser()._actions if action.dest == "command")
    assert isinstance(action.choices, dict)
    return action.choices


@pytest.mark.parametrize("name", NAMES)
def test_commands_shown_can_be_typed(name: str) -> None:
    parsers = commands()
    for code in code_of(ROOT / name):
        words = shlex.split(code, comments=True) if code.startswith("merge-advisor ") else []
        if len(words) < 2 or words[1] in ("--help", "--version") or words[1].endswith((":", ".toml")):
            continue
        assert words[1] in parsers, f"{name}: {code}"
        for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
            assert option in parsers[words[1]]._option_string_actions, f"{name}: {code}: {option}"


@pytest.fixture
def own_world(example_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like `example_world` that a test may write into."""
    for name in ("base", "adapters", "examples.jsonl"):
        (tmp_path / name).symlink_to(example_world / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(example_world / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", ["README.md", "docs/python.md", "docs/hub.md"])
def test_python_shown_runs(name: str, own_world: Path) -> None:
    """The blocks of a page in their order, each with what those before it made."""
    text = (ROOT / name).read_text(encoding="utf-8")
    made: dict[str, object] = {}
    for match in FENCE.finditer(text):
        if match["kind"] == "python":
            line = text.count("\n", 0, match.start()) + 1
            exec(compile("\n" * line + match["body"], str(ROOT / name), "exec"), made)


def test_nothing_names_a_machine() -> None:
    """No path of one machine stands in what is shipped."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\n")):
        path = ROOT / name
        if path.suffix in {".safetensors", ".png"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for place in ("/" + "work/", "/" + "root/", "/" + "home/"):
            assert place not in text, f"{name} names {place}"
