"""Right inputs of every kind that is read as text, which cases are made from."""

import csv
import gzip
import io
import json
from random import Random
from typing import Any

from tests.support.bench_setups import SETUP

PLAIN = [{"input": f"say {n} twice", "output": f"{n} {n}"} for n in range(8)]
CHOICES = [{"input": f"is {n} even?", "output": ("yes", "no")[n % 2], "choices": ["yes", "no"]} for n in range(8)]
TASKS: dict[str, Any] = {
    "plain": PLAIN,
    "choices": CHOICES,
    "alpaca": [{"instruction": "Add.", "input": f"{n} + {n}", "output": str(2 * n)} for n in range(6)],
    "squad": [{"id": str(n), "context": f"It is {n}.", "question": "What?", "answers": {"text": [str(n)],
    "answer_start": [6]}}
              for n in range(6)],
    "mmlu": [{"question": f"{n}?", "choices": ["a", "b", "c", "d"], "answer": n % 4, "subject": "x"} for n in range(6)],
    "arc": [{"question": f"{n}?", "choices": {"text": ["a", "b"], "label": ["A", "B"]},
    "answerKey": "AB"[n % 2]} for n in range(6)],
    "letters": [{"question": f"{n}?", "A": "1", "B": "2", "C": "3", "D": "4",
    "answer": "ABCD"[n % 4]} for n in range(6)],
    "labels": [{"text": f"text {n}", "label": n % 2} for n in range(8)],
    "hellaswag": [{"ctx": f"He {n}", "endings": ["runs", "sits"], "label": str(n % 2)} for n in range(6)],
    "chat": [{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Hi {n}"},
                           {"role": "assistant", "content": "Hello"}]} for n in range(6)],
    "sharegpt": [{"conversations": [{"from": "human", "value": f"Hi {n}"}, {"from": "gpt",
    "value": "Hello"}]} for n in range(6)],
    "dpo": [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(6)],
    "answers": [{"question": f"{n}?", "answers": [str(n), f"{n}.0"]} for n in range(6)],
}  # fmt: skip
"""Rows as data sets are published."""
WHOLE: tuple[Any, ...] = (
    {"examples": [{"input": "a", "target_scores": {"x": 1, "y": 0}}, {"input": "b", "target": ["x", "y"]}]},
    {"Definition": ["Say it."], "Instances": [{"input": f"a{n}", "output": ["b"]} for n in range(5)]},
    {
        "data": [
            {"title": "t", "paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": [{"text": "c"}]}]}]}
        ]
    },
    {"input": {"0": "a", "1": "b"}, "output": {"0": "c", "1": "d"}},
    {"train": PLAIN, "version": 1},
)
"""Files that are one JSON value."""
MAPS = (
    "input=input,output=output", "input=question,output=answer,choices=choices",
    "input=context+question,output=answers.text.0",
    "input=text,output=label,labels=bad|good", "input=text,output=label,labels=1:bad|2:good",
    "input=question,output=answer,choices=A+B+C+D",
    "input=ctx,output=label,choices=endings",
)  # fmt: skip
MANIFESTS = (
    """\
version: 1
base: org/name@main
template: alpaca
models:
- path: adapters/a0
  id: rhymes
  description: Writes rhymes.
- hub: org/name
  revision: 8f3c0d1
- path: adapters/a1
descriptions: {rhymes: Writes rhymes.}
""",
    "version: 1\nmodels:\n- {path: adapters/a0, id: one}\n- {path: ./adapters/b0}\n",
    '{"version": 1, "models": [{"path": "adapters/a0"}, {"hub": "org/name@v1"}]}',
    "version: 1\ntemplate: plain\ndescriptions:\n  a0: what it is\n",
)
MANIFEST: Any = {
    "version": 1, "base": "org/name", "template": "plain", "models": [{"path": "adapters/a0", "id": "one",
    "description": "x"},
    {"hub": "org/name", "revision": "main"}], "descriptions": {"one": "y"},
}  # fmt: skip
CARDS = (
    "---\nlicense: apache-2.0\nbase_model: tiny-llama\ntags: [lora, a]\n---\n# Adapter\nOf family a.\n\n\n\nMore.\n",
    "---\nlicense: other\nlicense_name: my-own\ndate: 2024-01-01\n---\n\n[More Information Needed]\n<!-- nothing -->\n",
    "---\nlicense:\n- mit\n- cc-by-nc-4.0\nmodel-index:\n- name: x\n  results: []\n---\r\ntext\r\n",
    "no front matter at all",
)
SETTINGS = (
    """\
base = "base"
pool = "adapters"
strategy = "top_k"
k = 2
seed = 1
shots = 5
offline = true
cache = "cache"
device = "cpu"
dtype = "float32"
threads = 1
""",
    """\
template = "plain"
choose_by = "loss"
adaptation = "none"
composition = "exact"
rank = 4
embedding = "delta_activations"
guard = "guard.jsonl"
store = "cache/store.sqlite"
base = "base"
pool = "adapters"
""",
)
SETUPS: tuple[Any, ...] = (
    SETUP,
    SETUP | {"secondaries": [{"better": "nearest", "than": "base", "k": 2, "metric": "loss"}], "views": ["own-in",
    "own-out"]},
    SETUP | {"arms": [*SETUP["arms"], {"name": "tuned", "strategy": "top_k:centre=true", "k": [1, 2],
    "composition": "ties",
                                       "tuner": {"sampler": "cmaes", "trials": 4, "objective": "loss"},
                                       "shots_lora": True},
                      {"name": "adapted", "strategy": "top_k", "adaptation": "shots"}]},
)  # fmt: skip
SETUP_YAML = """\
# a comment
version: 1
name: tiny
base: base
pool: adapters
tasks:
  path: tasks
  families: families.json
  shots: 3
  tuning: 2
  heldout: 5
arms:
- name: default
  strategy: rerank:pool=3
- {name: random, strategy: random, match: default}
primary: {better: default, than: random, k: 2}
smallest_gain: 1.0
controls: [base, majority]
k: [2]
draws: {shots: 2}
"""
TEMPLATES = (
    """\
{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}""",
    """\
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
{% set messages = messages[1:] %}{% endif -%}
{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('turns') }}{% endif %}{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}{% endfor %}
{{ strftime_now('%d %b %Y') }}""",
    """\
{% macro turn(m) %}{{ m | tojson }}{% endmacro %}
{% for m in messages %}{{ turn(m) }}{% if loop.last %}{% break %}{% endif %}{% endfor %}
{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}""",
)
TEMPLATE_PARTS = (
    "{{ messages }}", "{{ messages[5].content }}", "{{ x.y.z }}", "{{ ''.__class__.__mro__ }}", "{{ 'a' * 9 }}",
    "{{ 2 ** 9 }}", "{{ range(99) | list }}",
    "{{ '%s' % messages }}", "{{ '{0}'.format(1) }}", "{% include 'x' %}", "{% import 'x' as y %}",
    "{% extends 'x' %}", "{{ lipsum() }}", "{{ cycler }}",
    "{{ self }}", "{{ 1 / 0 }}", "{{ 1 | tojson(indent=2) }}", "{{ '\\ud800' }}", "{{ '\\x1b[31m' }}",
    "{{ raise_exception('\\x1b[31m') }}", "{{ messages | tojson }}",
    "{{ strftime_now('%') }}", "{{ strftime_now('%\\ud800') }}", "{% set messages = 1 %}", "{{ {}[[]] }}",
    "{{ messages | groupby('x') }}", "{{ 'x' | int | batch(0) | list }}",
    "{% for i in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ 'abc' | center(99) }}", "{{ [1] | sum(start='') }}",
    "{{ 9999999999999999999 | filesizeformat }}", "{{ 'a' | format(1) }}", "{{ joiner()() }}",
    "{{ dict(a=1).items() }}", "{% raw %}{{{% endraw %}", "{#", "#}", "{%", "%}", "}}", "{{",
)  # fmt: skip


def task_file(rows: list[Any], kind: str, rng: Random) -> bytes:
    """Rows, which may hold what no file should, as a file of a kind."""
    from tests.fuzz.mutators import written

    match kind:
        case ".csv" | ".tsv":
            stream = io.StringIO()
            names = list(dict.fromkeys(str(name) for row in rows if isinstance(row, dict) for name in row)) or ["input"]
            table = csv.writer(stream, delimiter="," if kind == ".csv" else "\t", quoting=rng.choice((0, 1)))
            table.writerow(names)
            for row in rows:
                cells = (row.get(name, "") if isinstance(row, dict) else row for name in names)
                table.writerow([cell if isinstance(cell, str) else written(cell) for cell in cells])
            data = stream.getvalue().encode("utf-8", "surrogatepass")
        case ".json":
            data = written(rows).encode("utf-8", "surrogatepass")
        case _:
            data = "\n".join(written(row) for row in rows).encode("utf-8", "surrogatepass") + b"\n"
    return data


def packed(data: bytes) -> bytes:
    """Bytes as gzip packs them, without a time."""
    return gzip.compress(data, mtime=0)


def jsonl(rows: list[Any]) -> bytes:
    """Rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
