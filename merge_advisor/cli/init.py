"""`merge-advisor init`: a settings file, and with --demo the tasks of the shipped pool."""

from __future__ import annotations

import json
from pathlib import Path

from merge_advisor.cli.settings import SETTINGS_FILE
from merge_advisor.errors import InputError, RunError
from merge_advisor.regular_files import read_regular
from merge_advisor.whole_files import whole_file

_TEMPLATE = """\
# Read by every merge-advisor command run in this folder; an option on the command line wins.
base = {base}      # hub id (org/name[@revision]), folder, or .gguf file
pool = {pool}      # folder of adapters or checkpoints, manifest (.yaml), or hub ids
# template = "alpaca"     # how the pool's prompts were made: alpaca, plain, bare or chat
# k = 4                   # members of the pool at most
"""


def demo_folder() -> Path:
    """Return the folder of the demo pool: in the installed package, or in the clone beside it.

    Raises:
        InputError: it is in neither.
    """
    package = Path(__file__).parents[1]
    for place in (package / "_demo", package.parent / "recipes" / "demo"):
        if (place / "pool.yaml").is_file():
            return place
    raise InputError("the demo pool is not in this installation; clone the repository and run ./scripts/demo")


def write_settings(folder: Path, *, demo: bool, force: bool, pool: str | None, base: str | None) -> list[Path]:
    """Write merge-advisor.toml, and with `demo` two tasks.

    Args:
        folder: folder to write into.
        demo: whether pool, base and tasks are those of the demo.
        force: replace files that are there.
        pool: the pool it names; None: the demo's, or a name to replace.
        base: the base it names; None: the demo's, or a name to replace.

    Returns:
        the files written.

    Raises:
        RunError: a file is there already, or all of them are, and `force` is not given; no permission, or no room.
        InputError: the demo pool is not installed.
    """
    sources: list[Path] = []
    if demo:
        place = demo_folder()
        pool = pool or str(place / "pool.yaml")
        base = base or "HuggingFaceTB/SmolLM2-135M-Instruct"
        sources = sorted((place / "tasks").glob("*.jsonl"), key=lambda path: (path.stem != "mixed", path.stem))
    text = _TEMPLATE.format(base=json.dumps(base or "org/name"), pool=json.dumps(pool or "adapters"))
    wanted = {folder / SETTINGS_FILE: text.encode()} | {folder / path.name: path.read_bytes() for path in sources}
    # all are checked before the first is written: a refusal leaves the folder as it was
    there = [path for path in wanted if path.exists()]
    # what is as it would be is of the same command, which was killed before its last file
    begun = len(there) < len(wanted) and all(path.is_file() and read_regular(path) == wanted[path] for path in there)
    if there and not force and not begun:
        raise RunError(f"{there[0]}: is there already; `force=True` replaces it")
    for path, data in wanted.items():
        with whole_file(path) as partial:
            partial.write_bytes(data)
    return list(wanted)
