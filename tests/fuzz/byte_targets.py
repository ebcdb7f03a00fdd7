"""Functions that parse bytes of others, each as one call in this process: for fuzzers that make thousands a second.

What a function may raise is what its callers make a line of. Anything else, and anything that takes seconds, is a
finding.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from merge_advisor.advisor.runs.plan_report import Plan
from merge_advisor.cli.settings import read_settings
from merge_advisor.errors import MergeAdvisorError, PoolError
from merge_advisor.evaluators.guard import placed_guard
from merge_advisor.evaluators.lm_eval_task_code import read_task_yaml
from merge_advisor.json_form import read_value, to_checked_json
from merge_advisor.plain_yaml import YamlError, load_yaml
from merge_advisor.pool.archives import unpacked
from merge_advisor.pool.licences import read_card
from merge_advisor.pool.manifest import read_manifest
from merge_advisor.tasks import read_rows
from merge_advisor.templates import get, read_chat
from merge_advisor.weights.adapter_config import read_adapter_config
from merge_advisor.weights.files import FileError
from merge_advisor.weights.tensorfile import read_header
from tests.fuzz import seeds

_LINES = (MergeAdvisorError, FileError, YamlError)


@dataclass(frozen=True)
class ByteTarget:
    """What is done with some bytes, in a folder of its own, and bytes to begin with."""

    parse: Callable[[bytes, Path], None]
    begin: tuple[bytes, ...]
    allowed: tuple[type[Exception], ...] = _LINES


def _header(data: bytes, folder: Path) -> None:
    read_header(_put(data, folder / "adapter_model.safetensors"))


def _task(data: bytes, folder: Path) -> None:
    # the first byte chooses what the file is called
    ending = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".parquet")[data[0] % 6] if data else ".jsonl"
    read_rows(_put(data[1:], folder / f"rows{ending}"))


def _guard(data: bytes, folder: Path) -> None:
    placed_guard(_put(data, folder / "guard.jsonl"))


def _archive(data: bytes, folder: Path) -> None:
    ending = (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")[data[0] % 5] if data else ".zip"
    try:
        unpacked(_put(data[1:], folder / f"model{ending}"), folder / "cache", {})
    finally:
        shutil.rmtree(folder / "cache", ignore_errors=True)


def _card(data: bytes, folder: Path) -> None:
    _put(data, folder / "README.md")
    card = read_card(folder)
    assert all(char.isprintable() or char in "\n\t" for char in card.text), "what a terminal acts on"


def _yaml(data: bytes, _: Path) -> None:
    load_yaml(data.decode("utf-8", "replace"))


def _manifest(data: bytes, folder: Path) -> None:
    read_manifest(_put(data, folder / "pool.yaml"))


def _settings(data: bytes, folder: Path) -> None:
    _put(data, folder / "merge-advisor.toml")
    read_settings(folder)


def _adapter_config(data: bytes, folder: Path) -> None:
    _put(data, folder / "adapter_config.json")
    settings = read_adapter_config(folder)
    settings.scale_of("model.layers.0.self_attn.q_proj", 4)


def _template(data: bytes, folder: Path) -> None:
    _put(data, folder / "chat_template.jinja")
    get("chat", *read_chat(folder)).prompt("hi")


def _tokenizer_config(data: bytes, folder: Path) -> None:
    _put(data, folder / "tokenizer_config.json")
    get("chat", *read_chat(folder)).prompt("hi")


def _task_yaml(data: bytes, folder: Path) -> None:
    read_task_yaml(_put(data, folder / "own.yaml"))


def _run_plan(data: bytes, folder: Path) -> None:
    path = _put(data, folder / "plan.json")
    plan = read_value(Plan, path)
    _put(to_checked_json(plan).encode(), path)
    assert read_value(Plan, path) == plan, "what was written is read as another"


def _put(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


def _begin_archives() -> tuple[bytes, ...]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("law/adapter_config.json", '{"r": 4}')
    return (b"\0" + stream.getvalue(),)


def _begin_header() -> bytes:
    text = b'{"a.lora_A.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"format":"pt"}}'
    return len(text).to_bytes(8, "little") + text + bytes(16)


def _texts(texts: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)


_TASKS = tuple(b"\0" + seeds.jsonl(rows) for rows in seeds.TASKS.values())
_CSV = (b"\x02input,output,choices\na,b,\"['b','c']\"\n", b"\x03text\tlabel\na\t1\nb\t0\n")
_CONFIG = b'{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj"],"rank_pattern":{"q_proj":2}}'
_TOKENS = b'{"chat_template":[[],{"name":"default","template":"{{ messages[0].role }}"}],"eos_token":{"content":"<e>"}}'
_LM_EVAL = b"task: own\ndataset_path: json\ndoc_to_text: 'Q: {{q}}'\nprocess_docs: !function own.f\ninclude: own.yaml\n"
BYTE_TARGETS = {
    "safetensors": ByteTarget(_header, (_begin_header(),)),
    "tasks": ByteTarget(_task, (*_TASKS, *_CSV)),
    "guards": ByteTarget(_guard, (seeds.jsonl(seeds.PLAIN), b'{"text": "one"}\n{"text": "two"}\n')),
    # an error of the run would be one of our own disk, and take the whole pool down
    "archives": ByteTarget(_archive, _begin_archives(), (PoolError, FileError)),
    "cards": ByteTarget(_card, _texts(seeds.CARDS)),
    "yaml": ByteTarget(_yaml, (*_texts(seeds.MANIFESTS), seeds.SETUP_YAML.encode())),
    "manifests": ByteTarget(_manifest, _texts(seeds.MANIFESTS)),
    "settings": ByteTarget(_settings, _texts(seeds.SETTINGS)),
    "adapter-configs": ByteTarget(_adapter_config, (_CONFIG,)),
    "templates": ByteTarget(_template, _texts(seeds.TEMPLATES)),
    "tokenizer-configs": ByteTarget(_tokenizer_config, (_TOKENS,)),
    # its callers make a line of ValueError and OSError as well; by the command line it would take seconds a case, since
    # lm-eval reads all of its own 14,000 files to say that there is no such task
    "lm-eval-yaml": ByteTarget(_task_yaml, (_LM_EVAL,), (*_LINES, ValueError, OSError)),
    "plans": ByteTarget(_run_plan, (b'{"version": 1, "base": {"id": "a"}, "tasks": [], "environment": {}}',)),
}
"""By name."""


def finding_of(name: str, data: bytes, folder: Path) -> BaseException | None:
    """What parsing some bytes raised that it may not; None where all is well."""
    target = BYTE_TARGETS[name]
    try:
        target.parse(data, folder)
    except target.allowed:
        return None
    except Exception as error:
        return error
    finally:
        for path in folder.iterdir():
            path.unlink()
    return None
