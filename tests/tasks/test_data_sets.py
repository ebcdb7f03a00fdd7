"""Data sets of the hub and in folders: the spelling, what is taken of them, and what goes wrong in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import MergeAdvisorError, OfflineError, TaskError
from merge_advisor.tasks import data_set_of, read_rows
from merge_advisor.types import Row

ROWS = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(30)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two splits, and a cache of its own for whatever the library writes."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = tmp_path / "sums"
    made.mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:5])):
        (made / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return made


@pytest.mark.parametrize("text", ["hf:squad:validation", "hf:org/name@v1:train", "hf:org/name@refs/pr/1:test:de"])
def test_the_spelling_goes_there_and_back(text: str) -> None:
    found = data_set_of(Path(text))
    assert found is not None and str(found) == text


def test_a_file_is_no_data_set(tmp_path: Path) -> None:
    assert data_set_of(Path("rows.jsonl")) is None
    odd = tmp_path / "hf:rows.jsonl"
    odd.write_text('{"input": "a", "output": "b"}')
    assert read_rows(odd, minimum=1).rows == (Row("a", "b"),)  # by its absolute path


@pytest.mark.parametrize("text", ["hf:squad", "hf:squad:", "hf::train", "hf:a/b@:train", "hf:a:b:c:d"])
def test_a_wrong_spelling_is_one_line(text: str) -> None:
    with pytest.raises(TaskError, match=r"write hf:NAME:SPLIT, hf:NAME@REVISION:SPLIT or hf:NAME:SPLIT:CONFIG"):
        read_rows(Path(text))


def test_a_small_split_is_read_whole(folder: Path) -> None:
    found = read_rows(Path(f"hf:{folder}:test"))
    assert found.name == "sums-test" and found.notes == ()
    assert [row.output for row in found.rows] == ["1", "2", "3", "4", "5"]
    assert found.rows[1].called == "hf:sums:test: row 2"  # no path of one machine
    assert found.understood == "hf:sums:test: 5 rows, read as question answering (fields question, answer)"


def test_of_a_large_split_a_sample_is_taken_and_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(f"hf:{folder}:train")
    found = read_rows(source, most=8)
    assert found.notes == ("hf:sums:train: 8 of 30 rows taken, chosen by hash",)
    assert found.rows == read_rows(source, most=8).rows and set(found.rows) <= set(read_rows(source, most=12).rows)
    assert max(int(row.output) for row in found.rows) > 8  # no mere beginning
    monkeypatch.setenv("MERGE_ADVISOR_LIMITS", "streamed_rows=10")
    cut = read_rows(source, most=8)
    assert cut.notes == ("hf:sums:train: 8 of the first 10 rows (streamed_rows) taken, chosen by hash",)
    assert max(int(row.output) for row in cut.rows) <= 10


def test_names_of_labels_and_what_cannot_be_used(tmp_path: Path, folder: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    columns = {"text": ["a", "b", "", "d", "e"], "label": [1, 0, 1, -1, 1]}
    saved = DatasetDict({"train": Dataset.from_dict(columns, features=features)})
    saved.save_to_disk(tmp_path / "saved")
    saved["train"].to_parquet(tmp_path / "flat" / "train-00000-of-00001.parquet")
    for name in ("saved", "flat"):
        found = read_rows(Path(f"hf:{tmp_path / name}:train"))
        assert [(row.input, row.output) for row in found.rows] == [("a", "good"), ("b", "bad"), ("e", "good")]
        assert {row.choices for row in found.rows} == {("bad", "good")}
        whole, remedy = f"hf:{name}:train", "fill it in or drop the row"
        # nobody can correct a row of another's data set
        assert found.notes == (
            f"{whole}: 1 row left out that cannot be used; the first: {whole}: row 3: text is empty; {remedy}",
            f"{whole}: 1 row left out: label is -1, which stands for no label (the first: {whole}: row 4)",
        )


def test_a_folder_of_one_data_set_has_one_split(tmp_path: Path, folder: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert len(read_rows(Path(f"hf:{tmp_path}/one:train")).rows) == 30
    with pytest.raises(TaskError, match=r'one:test: the folder holds one data set, of split "train"; name that'):
        read_rows(Path(f"hf:{tmp_path}/one:test"))


def test_a_part_of_a_split_is_refused_as_such(folder: Path) -> None:
    with pytest.raises(TaskError, match=r"train\[:4\]: names a part of a split; name the split, of which as many rows"):
        read_rows(Path(f"hf:{folder}:train[:4]"))


def test_choices_in_a_table_of_a_folder_are_a_json_list(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.csv").write_text(
        'question,choices,answer\na,"[""x"",""y""]",1\nb,"[""x"",""y""]",0\n'
    )
    found = read_rows(Path(f"hf:{tmp_path}/tables:train"))
    assert found.rows == (Row("a", "y", ("x", "y")), Row("b", "x", ("x", "y")))


def test_a_layout_that_is_not_known_is_refused_with_a_map(folder: Path) -> None:
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"en": str(n), "fr": str(n)}) for n in range(5)))
    source = Path(f"hf:{folder}:train")
    with pytest.raises(TaskError, match=r'train: row \d: has fields "en", "fr"; .*`fields=input=FIELD,output=FIELD`'):
        read_rows(source)
    assert len(read_rows(source, fields="input=en,output=fr").rows) == 5


def test_what_goes_wrong_in_a_folder_is_one_line(folder: Path) -> None:
    with pytest.raises(TaskError, match=r"(?i)split.*dev") as refused:
        read_rows(Path(f"hf:{folder}:dev"))
    assert "\n" not in str(refused.value)
    (folder / "test.jsonl").write_text("not json")
    with pytest.raises(MergeAdvisorError) as broken:
        read_rows(Path(f"hf:{folder}:test"))
    assert "\n" not in str(broken.value) and "save its rows as JSONL or Parquet" in str(broken.value)


def standing_in(error: Exception) -> Callable[..., Any]:
    """Something that stands for `datasets.load_dataset` and fails as it does."""

    def load(*arguments: object, **named: object) -> None:
        assert "trust_remote_code" not in named
        raise error

    return load


def test_a_script_is_never_run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The library refuses it by itself; the remedy is the copy that the hub keeps."""
    import datasets

    (folder / "sums.py").write_text("raise SystemExit('was run')")
    with pytest.raises(TaskError, match=r"name the Parquet copy .* or save its rows as a file"):
        read_rows(Path(f"hf:{folder}:train:plain"))
    script = RuntimeError("Dataset scripts are no longer supported, but found name.py")
    monkeypatch.setattr(datasets, "load_dataset", standing_in(script))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(TaskError, match=r"\(hf:org/name@refs/convert/parquet:train:de\)"):
        read_rows(Path("hf:org/name:train:de"))


def test_a_parquet_copy_has_its_configurations_in_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[dict[str, Any]] = []

    def load(path: str, config: str | None, **named: Any) -> Any:
        asked.append({"path": path, "config": config, **named})
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    read_rows(Path("hf:org/name@refs/convert/parquet:train:de"))
    read_rows(Path("hf:org/name@abc:train:de"))
    assert [(one["config"], one["data_dir"], one["revision"], one["streaming"]) for one in asked] == [
        (None, "de", "refs/convert/parquet", True), ("de", None, "abc", True),
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["asked", "environment"])
def test_offline_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, folder: Path, how: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if how == "environment" else "0")
    with pytest.raises(OfflineError, match=r"hf:org/none:train: not in the cache of `datasets`, and fetching is off"):
        read_rows(Path("hf:org/none:train"), offline=how == "asked")
    assert len(read_rows(Path(f"hf:{folder}:test"), offline=how == "asked").rows) == 5


def test_a_network_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", standing_in(ConnectionError("Couldn't reach\nthe hub")))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(
        MergeAdvisorError, match=r"cannot be fetched \(Couldn't reach the hub\); check the network"
    ) as no:
        read_rows(Path("hf:org/none:train"))
    assert no.value.exit_code == 1
