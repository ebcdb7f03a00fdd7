"""`merge-advisor init`: a settings file, and with --demo the tasks of the shipped pool."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from merge_advisor.cli.settings import SETTINGS_FILE
from merge_advisor.errors import InputError, RunError

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
        RunError: a file is there already and `force` is not given.
        InputError: the demo pool is not installed.
    """
    sources: list[Path] = []
    if demo:
        place = demo_folder()
        pool = pool or str(place / "pool.yaml")
        base = base or "HuggingFaceTB/SmolLM2-135M-Instruct"
        sources = sorted((place / "tasks").glob("*.jsonl"), key=lambda path: (path.stem != "mixed", path.stem))
    # all are checked before the first is written: a refusal leaves the folder as it was
    wanted = [folder / SETTINGS_FILE, *(folder / source.name for source in sources)]
    for path in wanted:
        if path.exists() and not force:
            raise RunError(f"{path}: is there already; `force=True` replaces it")
    text = _TEMPLATE.format(base=json.dumps(base or "org/name"), pool=json.dumps(pool or "adapters"))
    wanted[0].write_text(text, encoding="utf-8")
    for source, path in zip(sources, wanted[1:], strict=True):
        shutil.copyfile(source, path)
    return wanted
