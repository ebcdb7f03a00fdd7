"""The rows of the BIG-bench pool: tasks of the PyPI sdist `bigbench` as input/output rows. See build_bigbench_pool.py.

The archive is only read: nothing in it is unpacked, imported or run.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_advisor.errors import InputError
from merge_advisor.whole_files import write_text

LONGEST_INPUT, LONGEST_OUTPUT, MOST_ROWS = 800, 200, 400
"""Characters of an input and of an output, rows of a task."""
GENERATED = "exact_str_match"
"""Preferred score of the tasks whose answer is written, whatever choices they list as well."""

_MEMBERS = {
    "algorithms": "cs_algorithms__lcs cs_algorithms__valid_parentheses list_functions__03_shot_baseline operators",
    "arithmetic": "arithmetic__2_digit_addition arithmetic__2_digit_multiplication arithmetic__3_digit_subtraction "
    "elementary_math_qa__question_only modified_arithmetic__three_digit_addition_plus_one",
    "bbq": "bbq_lite_json__age_disambig bbq_lite_json__ses_ambig",
    "color": "color__hex color__rgb",
    "coreference": "natural_instructions__subtask033_winogrande_answer_generation winowhy",
    "ethics": "moral_permissibility simple_ethical_questions",
    "everyday": "goal_step_wikihow__goal_inference goal_step_wikihow__step_inference "
    "goal_step_wikihow__step_ordering movie_dialog_same_or_different social_iqa timedial",
    "facts": "anachronisms fact_checker__fever fact_checker__politifact misconceptions qa_wikidata strategyqa "
    "vitaminc_fact_verification",
    "generation": "gem__common_gen",
    "grammar": "linguistic_mappings__past_tense_json linguistic_mappings__plural_json "
    "linguistic_mappings__pronoun_replacement_json linguistic_mappings__question_formation_json "
    "linguistic_mappings__sentence_negation_json tense",
    "letters": "language_games__pig_latin_encode undo_permutation__reorder_words word_unscrambling",
    "nli": "epistemic_reasoning logical_fallacy_detection metaphor_boolean presuppositions_as_nli",
    "puzzles": "chess_state_tracking__synthetic_short fantasy_reasoning logic_grid_puzzle",
    "reading": "disfl_qa",
    "science": "natural_instructions__subtask041_qasc_answer_generation physics",
    "sentiment": "emojis_emotion_prediction hinglish_toxicity multiemo__hotels_sentence_en "
    "multiemo__products_sentence_en multiemo__reviews_text_en social_support",
    "text_to_code": "semantic_parsing_spider",
    "units": "unit_conversion__si_conversion unit_conversion__unit_identification",
}
FAMILIES = dict(sorted((name, family) for family, names in _MEMBERS.items() for name in names.split()))
"""Family of each task, none of them in BIG-bench Hard; `__` in a name is a `/` in the archive."""

README = """# BIG-bench tasks (none in BBH), as input/output rows

Written by `scripts/build_bigbench_pool.py` of merge-advisor from the PyPI sdist `bigbench` (google/BIG-bench,
Apache-2.0; some tasks wrap third-party data under its own terms). A row is `{{"input", "output"[, "choices"]}}`: the
task's prefix and the input, under `Options:` the choices where the task says so; the best-scored choice, or the first
target. Inputs of at most {input} characters, outputs of at most {output}, no input twice, at most {rows} rows a task,
shuffled by the task's name. For training pools and measuring; do not commit or publish the rows.
{canary}
"""


def rows_of(name: str, task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turn a task.json into rows, the same ones every time.

    Args:
        name: the task's, which seeds the order of rows and, with the input, that of the choices.
        task: the parsed task.json.
    """
    listed = bool(task.get("append_choices_to_input", True))  # some tasks say "false": a text, and so they list them
    rows: dict[str, dict[str, Any]] = {}
    for example in task["examples"]:
        text = (task.get("task_prefix", "") + example["input"]).strip()
        row: dict[str, Any] = {}
        scores = example.get("target_scores")
        if scores and task.get("preferred_score") != GENERATED:
            choices = list(scores)
            random.Random(name + example["input"]).shuffle(choices)
            if listed:
                text = "\n".join([text, "Options:", *(f"- {choice}" for choice in choices)]).strip()
            output = max(scores, key=scores.get)
            row["choices"] = [choice.strip() for choice in choices]
        else:
            target = example["target"]
            output = target if isinstance(target, str) else target[0]
        row = {"input": text, "output": output.strip()} | row
        if len(text) <= LONGEST_INPUT and len(row["output"]) <= LONGEST_OUTPUT:
            rows.setdefault(text, row)
    found = list(rows.values())
    random.Random(name).shuffle(found)
    return found[:MOST_ROWS]


def read_tasks(sdist: Path, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, task.json) of the named tasks, in the order of the archive, one in memory at a time.

    Raises:
        InputError: no such archive, or a task is not in it or is no task.
    """
    left = {("benchmark_tasks", *name.split("__"), "task.json"): name for name in names}
    try:
        with tarfile.open(sdist, "r|gz") as archive:
            for member in archive:
                name = left.pop(tuple(member.name.split("/")[2:]), "") if member.isfile() else ""
                if name:
                    stream = archive.extractfile(member)
                    assert stream is not None  # it is a file
                    yield name, json.load(stream)
                if not left:
                    return
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise InputError(f"{sdist}: cannot be read ({error}); fetch it again") from error
    raise InputError(
        f"{sdist}: lacks {', '.join(left.values())}; take the whole of bigbench 1.0.0, or other tasks with --only"
    )


def write_tasks(sdist: Path, folder: Path, names: Sequence[str]) -> None:
    """Write NAME.jsonl for the tasks that `folder` lacks, families.json, about.json (descriptions) and README.md.

    Raises:
        InputError: see `read_tasks`.
        RunError: `folder` cannot be written.
    """
    missing = [name for name in names if not (folder / f"{name}.jsonl").is_file()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    about, found, canary = descriptions(folder), {}, ""
    for name, task in read_tasks(sdist, missing):
        about[name], found[name], canary = task["description"], rows_of(name, task), task["canary"]
    # the rows come last: where they are, everything is
    write_text(folder / "about.json", json.dumps(dict(sorted(about.items())), indent=1, ensure_ascii=False) + "\n")
    kept = {name: family for name, family in FAMILIES.items() if name in about}
    write_text(folder / "families.json", json.dumps(kept, indent=0))
    sizes = {"input": LONGEST_INPUT, "output": LONGEST_OUTPUT, "rows": MOST_ROWS}
    write_text(folder / "README.md", README.format(**sizes, canary=canary))
    for name, rows in found.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def descriptions(folder: Path) -> dict[str, str]:
    """Return what the authors of the tasks say of them, by name; empty for a folder that was not written here."""
    path = folder / "about.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def compare(folder: Path, other: Path, names: Sequence[str]) -> dict[str, str]:
    """Tell for each task and families.json how the file of `other` differs from that of `folder`; "" where equal."""
    return {
        file: _difference(folder / file, other / file) for file in (*(f"{n}.jsonl" for n in names), "families.json")
    }


def _difference(ours: Path, theirs: Path) -> str:
    if not theirs.is_file():
        return "is missing there"
    mine, other = ours.read_bytes(), theirs.read_bytes()
    if mine == other:
        return ""
    rows, others = mine.splitlines(), other.splitlines()
    if sorted(rows) == sorted(others):
        return "has the same lines in another order"
    shared = len(set(rows) & set(others))
    return f"has {len(others)} lines instead of {len(rows)}, {shared} of them the same"
