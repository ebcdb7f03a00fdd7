"""Scores are kept by all they depend on: asked again nothing runs, and nothing else ever gets them."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor import registry
from merge_advisor.advisor.measuring.meter import MergeMeter, ScoredModel
from merge_advisor.advisor.measuring.model_scores import score_models
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.scoring.lm_eval_scoring import ask_models
from merge_advisor.evaluators.lm_eval_requests import build_requests
from merge_advisor.evaluators.lm_eval_tasks import TaskName, load_tasks
from merge_advisor.machine_options import Machine
from merge_advisor.merges import WeightedMerge
from merge_advisor.scores import ModelScore
from merge_advisor.types import Candidate, Row
from merge_advisor.weights.updates import LowRankUpdate

ROWS = [Row("one", "yes", ("yes", "no")), Row("two", "no", ("yes", "no"))]
COUNTING = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from merge_advisor.evaluators.fast import Fast
CALLS = Path(__file__).with_name("calls")

@dataclass(frozen=True)
class Counting(Fast):
    """Counts its calls."""
    name: ClassVar[str] = "counting"
    version: ClassVar[str] = "counting VERSION"

    def score(self, *arguments, **named):
        with CALLS.open("a") as file:
            file.write(named["label"] + "\\\\n")
        return super().score(*arguments, **named)
'''


def install(place: Path, module: str, version: str) -> None:
    """A package with an evaluator of another maker, found by its entry point."""
    (place / f"{module}.py").write_text(COUNTING.replace("VERSION", version).replace("\\\\", "\\"))
    info = place / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[merge_advisor.evaluator]\n{module} = {module}:Counting\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("site")
    install(place, "counting", "1")
    install(place, "counting_later", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        yield place


@pytest.fixture
def calls(site: Path) -> Callable[..., Any]:
    """The labels scored since it was last called."""
    assert "counting" in registry.names("evaluator")
    file = site / "calls"
    file.unlink(missing_ok=True)

    def since() -> list[str]:
        found = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return found

    return since


@pytest.fixture(scope="module")
def bases(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny base, and another whose weights differ in one number."""
    from safetensors.numpy import load_file, save_file

    other = tmp_path_factory.mktemp("bases") / "other"
    shutil.copytree(tiny_llama, other)
    weights = load_file(other / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name].copy()
    weights[name].flat[0] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    return {"base": tiny_llama, "other": other}


PRINT = Candidate("print", "adapter", "", fingerprint="print")


def models(
    scale: float = 1.0, composition: str = "exact", rank: int | None = None, layers: tuple[float, ...] = ()
) -> list[ScoredModel]:
    return [ScoredModel("it", WeightedMerge(((PRINT, scale),), composition, layers, rank))]


def meter_of(session: Session) -> MergeMeter:
    """The session's meter, to which the weights of `PRINT` are known: they are in no file."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.3, (2, 32)), rng.normal(0, 0.3, (32, 2))
    low = LowRankUpdate(a.astype(np.float32), b.astype(np.float32), 1.0)
    made = {PRINT.fingerprint: {"model.layers.0.self_attn.q_proj.weight": low}}
    return replace(session.meter, weights=session.weights.with_made(made))


def opened(base: Path, store: Path, template: str | None = None, dtype: str = "float32") -> Session:
    machine = Machine(dtype=dtype, threads=1)
    return open_session(str(base), store=store, cache=store.parent, template=template, machine=machine)


def asked(
    session: Session, rows: list[Row] = ROWS, metric: str = "accuracy", evaluator: str = "counting", **what: Any
) -> ModelScore:
    return score_models(meter_of(session), models(**what), rows, metric, evaluator=evaluator)[0]


def test_asked_again_nothing_runs(bases: dict[str, Path], calls: Callable[..., Any], tmp_path: Path) -> None:
    with opened(bases["base"], tmp_path / "s.sqlite") as session:
        first = asked(session)
        assert calls() == ["it"]
        assert asked(session) == first and calls() == []
    with opened(bases["base"], tmp_path / "s.sqlite") as session:  # another process, as far as the store knows
        assert asked(session) == first and calls() == []
        assert (session.memo.hits, session.memo.misses) == (1, 0) and "backbone" not in vars(session.model)


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": 2.0},
        {"composition": "lorahub"},
        {"rank": 1},
        {"layers": (1.0, 0.5)},
        {"metric": "exact_match"},
        {"metric": "loss"},
        {"evaluator": "counting:max_new_tokens=5"},
        {"evaluator": "counting_later"},
        {"rows": ROWS[::-1]},
        {"rows": ROWS[:1]},
        {"rows": [Row("one", "yes", ("no", "yes")), ROWS[1]]},
        {"rows": [Row("one", "yes", ("yes", "no", "perhaps")), ROWS[1]]},
    ],
    ids=str,
)
def test_anything_else_runs(
    bases: dict[str, Path], calls: Callable[..., Any], tmp_path: Path, changed: dict[str, Any]
) -> None:
    with opened(bases["base"], tmp_path / "s.sqlite") as session:
        asked(session)
        calls()
        asked(session, **changed)
        assert calls() == ["it"]
        asked(session, **changed)
        asked(session)
        assert calls() == []


@pytest.mark.parametrize("changed", [{"base": "other"}, {"template": "plain"}, {"dtype": "bfloat16"}], ids=str)
def test_another_base_template_or_dtype_runs(
    bases: dict[str, Path], calls: Callable[..., Any], tmp_path: Path, changed: dict[str, str]
) -> None:
    store = tmp_path / "s.sqlite"
    with opened(bases["base"], store) as session:
        first = asked(session)
    calls()
    with opened(
        bases[changed.get("base", "base")], store, changed.get("template"), changed.get("dtype", "float32")
    ) as session:
        assert asked(session).rows["loss"] != first.rows["loss"]
    assert calls() == ["it"]


def test_the_final_score_is_never_taken_from_another_evaluator(bases: dict[str, Path], tmp_path: Path) -> None:
    with opened(bases["base"], tmp_path / "s.sqlite") as session:
        fast = score_models(meter_of(session), models(), ROWS, "accuracy", evaluator="fast")
        final = score_models(meter_of(session), models(), ROWS, "accuracy")
        assert session.memo.misses == 2 and fast[0].rows["accuracy"] == final[0].rows["accuracy"]


def test_one_adapter_under_two_ids_is_not_another_merge() -> None:
    a, other, b = (Candidate(name, "adapter", "", fingerprint=print_) for name, print_ in ("aa", "xa", "bb"))

    def key(*members: tuple[Candidate, float], **what: Any) -> list[object]:
        return WeightedMerge(members, **what).key

    twice = key((a, 0.7), (other, 0.3))
    assert twice != key((other, 0.3)) and twice == key((other, 0.3), (a, 0.7))
    assert key((a, 0.0), composition="lorahub", rank=4, layers=(2.0,)) == key()
    assert key((a, 1.0)) == key((a, 1.0), (b, 0.0))


def test_tasks_of_lm_eval_are_kept_by_what_is_asked(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    text = (
        "task: t\noutput_type: loglikelihood\ntest_split: test\ndoc_to_text: !function code.ask\n"
        "doc_to_target: '{{a}}'\n"
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/d.jsonl}}, cache_dir: {folder}/hf}}\n"
        "metric_list: [{metric: acc}]\n"
    )
    (folder / "t.yaml").write_text(text)
    (folder / "code.py").write_text("def ask(doc):\n    return doc['q']\n")
    rows = [json.dumps({"q": f"is {n}", "a": " yes"}) for n in range(6)]

    def scored(session: Session, lines: int = 6, limit: int | None = None) -> ModelScore:
        (folder / "d.jsonl").write_text("\n".join(rows[:lines]))
        task = load_tasks(TaskName("t", folder, trusted=True))[0]
        return ask_models(meter_of(session), models(), build_requests(task, limit=limit))[0]

    with opened(bases["base"], tmp_path / "s.sqlite") as session:
        first = scored(session)
        assert scored(session) == first and (session.memo.hits, session.memo.misses) == (1, 1)
        scored(session, limit=3)
        scored(session, lines=5)
        (folder / "code.py").write_text("def ask(doc):\n    return doc['q'] + '?'\n")
        assert scored(session).rows["loss"] != first.rows["loss"]
        assert (session.memo.hits, session.memo.misses) == (1, 4)
