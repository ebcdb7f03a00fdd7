"""A whole plan on a base that is spread over two devices: the same run as on one."""

import json
from pathlib import Path

import pytest

from merge_advisor import plan
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.measuring import session as session_module
from merge_advisor.backbone import model as model_module
from merge_advisor.backbone.device_map import DeviceMap
from merge_advisor.machine_options import Machine
from merge_advisor.options import FinetuneSettings
from tests.support.pretended_devices import pretended_devices


@pytest.mark.slow
def test_a_plan_on_two_devices_is_the_plan_on_one(
    example_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedding, finetunes, gradients, merges, generation and scores, through the public function."""
    modules = dict.fromkeys(("model.embed_tokens", "lm_head", "model.layers.0", "model.rotary_emb"), "cpu:1")
    modules |= dict.fromkeys(("model.layers.1", "model.norm"), "cpu:2")
    sizes = dict.fromkeys(("cpu:1", "cpu:2"), 10**6)
    spread = DeviceMap(modules, sizes, sizes)
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    monkeypatch.setattr(model_module, "check_devices", lambda device: tuple(device.split(",")))
    loaded: list[str] = []
    here = example_world
    for name, found in (("one", None), ("two", spread)):
        monkeypatch.setattr(session_module, "devices_for", lambda *_, found=found: found)
        with pretended_devices():
            plan(
                here / "examples.jsonl", pool=str(here / "adapters"), base=str(here / "base"),
                out=tmp_path / name, cache=tmp_path / f"cache-{name}", machine=Machine(dtype="float32", threads=1),
                options=PlanOptions(k=2, shots=12, finetune=FinetuneSettings(epochs=2)),
                progress=lambda said, done, total: loaded.append(said),
            )  # fmt: skip
    assert [said for said in dict.fromkeys(loaded) if said.startswith("loading")] == [
        "loading the base", "loading the base (on cpu:1 about 0.0 of 0.0 GB free, cpu:2 about 0.0 of 0.0 GB free)"
    ]  # fmt: skip
    one, two = (json.loads((tmp_path / name / "plan.json").read_text()) for name in ("one", "two"))
    assert (one["environment"].pop("machine") != two["environment"].pop("machine")) and "cpu:1,cpu:2" not in str(one)
    recipes = [(tmp_path / name / "recipe.json").read_bytes() for name in ("one", "two")]
    assert recipes[0] == recipes[1]
    scores = [(tmp_path / name / "score" / "0.json").read_bytes() for name in ("one", "two")]
    assert scores[0] == scores[1]
