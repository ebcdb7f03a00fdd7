"""How rows are split into shots, tuning rows and held-out rows."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies._internal.random import ArtificialRandom

from merge_advisor.errors import TaskError
from merge_advisor.tasks import keep_apart, majority, split
from merge_advisor.types import Row, Task


def rows_of(n: int, start: int = 0) -> list[Row]:
    return [Row(f"question {i}", f"answer {i % 3}") for i in range(start, start + n)]


unique_rows = st.lists(
    st.builds(Row, st.text(max_size=3), st.text(max_size=2), st.sampled_from([None, ("x", "y"), ("y", "x")])),
    min_size=2, max_size=60,
)  # fmt: skip
optional_count = st.none() | st.integers(0, 70)


@settings(deadline=None)
@given(
    rows=unique_rows,
    extra=st.none() | st.integers(0, 70) | unique_rows,
    shots=st.integers(2, 70),
    tuning=optional_count,
    seed=st.integers(0, 5),
    shuffle=st.randoms(use_true_random=False),
)
def test_split_is_disjoint_complete_and_independent_of_order(
    rows: list[Row], extra: int | list[Row] | None, shots: int, tuning: int | None, seed: int, shuffle: ArtificialRandom
) -> None:
    arguments: dict[str, Any] = {"name": "t", "shots": shots, "tuning": tuning, "seed": seed}
    given_rows = extra if isinstance(extra, list) else []
    scored = {(row.input, row.output) for row in given_rows}
    inputs = {row.plain_input for row in given_rows}
    distinct = {(row.input, row.output) for row in rows if row.plain_input not in inputs}
    known = {Row(*pair).plain_input for pair in distinct}
    if len(distinct) < 2:
        with pytest.raises(TaskError, match="the minimum is 2"):
            split(rows, heldout=extra, **arguments)
        return
    task, notes = split(rows, heldout=extra, **arguments)

    parts = [*task.shots, *task.tuning, *task.heldout]
    keys = [(row.input, row.output) for row in parts]
    assert len(keys) == len(set(keys))
    of_parts = [{row.plain_input for row in part} for part in (task.shots, task.tuning, task.heldout)]
    assert len(set().union(*of_parts)) == sum(map(len, of_parts))
    assert set(parts) <= set(rows) | set(given_rows)
    assert 2 <= len(task.shots) <= shots
    if given_rows:
        assert {(row.input, row.output) for row in task.heldout} == scored
    elif isinstance(extra, int) and len(known) == len(distinct):
        assert len(task.heldout) == min(extra, len(distinct) - 2)
    unused = len(distinct | scored) - len(keys)
    # rows are left over only where the shots asked for are full
    assert unused == 0 or len(task.shots) == shots or len(known) < len(distinct)
    assert (len(known) < len(distinct)) == any("those of one input stay in one part" in note for note in notes)
    assert (unused > 0) == any(f"rows not used: {unused};" in note for note in notes)
    assert all(note.startswith("t: ") and note.isprintable() for note in notes)

    mixed = list(rows)
    shuffle.shuffle(mixed)
    other = list(extra) if isinstance(extra, list) else extra
    if isinstance(other, list):
        shuffle.shuffle(other)
    assert split(mixed, heldout=other, **arguments) == (task, notes)


@pytest.mark.parametrize(
    ("n", "shots", "heldout", "tuning", "sizes"),
    [
        (12, 20, None, None, (5, 2, 5)),
        (20, 20, None, None, (8, 4, 8)),
        (100, 20, None, None, (20, 20, 60)),
        (400, 20, None, None, (20, 20, 360)),
        (100, 5, None, None, (5, 20, 75)),
        (11, 20, None, None, (11, 0, 0)),
        (2, 20, None, None, (2, 0, 0)),
        (100, 20, None, 5, (20, 5, 75)),
        (100, 20, None, 500, (20, 80, 0)),
        (11, 20, None, 3, (8, 3, 0)),
        (100, 20, 30, None, (20, 20, 30)),
        (20, 20, 10, None, (7, 3, 10)),
        (20, 20, 100, None, (2, 0, 18)),
        (8, 20, 3, None, (5, 0, 3)),
        (20, 20, 0, None, (14, 6, 0)),
    ],
)
def test_sizes_by_number(
    n: int, shots: int, heldout: int | None, tuning: int | None, sizes: tuple[int, int, int]
) -> None:
    task, _ = split(rows_of(n), name="t", shots=shots, heldout=heldout, tuning=tuning, seed=0)
    assert (len(task.shots), len(task.tuning), len(task.heldout)) == sizes


@pytest.mark.parametrize(
    ("n", "tuning", "sizes"),
    [
        (2, None, (2, 0)),
        (5, None, (5, 0)),
        (6, None, (4, 2)),
        (20, None, (14, 6)),
        (90, None, (20, 20)),
        (20, 0, (20, 0)),
    ],
)
def test_sizes_with_heldout_rows(n: int, tuning: int | None, sizes: tuple[int, int]) -> None:
    task, _ = split(rows_of(n), name="t", shots=20, heldout=rows_of(4, start=500), tuning=tuning, seed=0)
    assert (len(task.shots), len(task.tuning)) == sizes
    assert set(task.heldout) == set(rows_of(4, start=500))


def test_the_seed_matters_and_the_parts_are_nested() -> None:
    rows = rows_of(60)
    few, _ = split(rows, name="t", shots=5, heldout=20, tuning=10, seed=1)
    more, _ = split(rows, name="t", shots=20, heldout=20, tuning=10, seed=1)
    other, _ = split(rows, name="t", shots=20, heldout=20, tuning=10, seed=2)
    assert few.shots == more.shots[:5]
    assert (few.tuning, few.heldout) == (more.tuning, more.heldout)
    assert set(other.shots) != set(more.shots)


def test_heldout_rows_are_never_learned_from() -> None:
    rows = rows_of(10)
    reordered = Row(rows[0].input, rows[0].output, (rows[0].output, "else"))
    task, notes = split(rows, name="t", shots=20, heldout=[reordered, rows[3], Row("new", "x")], seed=0)
    assert not {rows[0], rows[3]} & {*task.shots, *task.tuning}
    assert "t: rows not learned from, as their inputs are among the held-out rows: 2" in notes
    with pytest.raises(TaskError, match=r"t: rows to learn from: 1 \(9 more are held-out rows too\), the minimum is 2"):
        split(rows, name="t", shots=20, heldout=rows[1:], seed=0)


def test_notes_say_what_was_clamped() -> None:
    _, notes = split(rows_of(20), name="t", shots=20, heldout=100, tuning=4, seed=0)
    assert notes == (
        "t: 2 shots, not 20: there are 20 rows to split; add examples",
        "t: 0 tuning rows, not 4: there are 20 rows to split; add examples",
        "t: 18 held-out rows, not 100: there are 20 rows to split; add examples",
    )
    _, notes = split(rows_of(8), name="t", shots=8, seed=0)
    assert notes == ("t: no held-out rows, so nothing can be scored; give some as `heldout`, or at least 12 rows",)
    _, notes = split([*rows_of(60), Row("question 1", "answer 1", ("answer 1", "else"))], name="t", shots=5, heldout=9)
    assert notes == (
        "t: rows left out, as they repeat input and output of another: 1",
        "t: rows not used: 29; a larger `shots` takes them in",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 1}, "t: shots 1 is too few; give at least 2"),
        ({"shots": 5, "tuning": -1}, "t: tuning -1 is too few; give at least 0"),
        ({"shots": 5, "heldout": -3}, "t: heldout -3 is too few; give at least 0"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        split(rows_of(20), name="t", **arguments)


def test_majority() -> None:
    assert majority(rows_of(4)) == "answer 0"
    assert majority([Row("1", "b"), Row("2", "a"), Row("3", "b"), Row("4", "a"), Row("5", "c")]) == "a"
    assert majority(rows_of(3)[::-1]) == "answer 0"


def test_rows_of_one_input_stay_in_one_part_and_others_where_they_were() -> None:
    pairs = [Row(f"say {number}", f"{number} {word}") for number in range(30) for word in ("yes", "no")]
    task, notes = split(pairs, name="t", shots=20, seed=0)
    assert not {row.input for row in (*task.shots, *task.tuning)} & {row.input for row in task.heldout}
    assert [len(part) for part in (task.shots, task.tuning, task.heldout)] == [20, 12, 28]
    assert notes == ("t: rows whose input another row has too: 60; those of one input stay in one part",)
    one, _ = split([Row("say", f"{number}") for number in range(30)], name="t", shots=20, seed=0)
    assert [len(part) for part in (one.shots, one.tuning, one.heldout)] == [20, 0, 0]
    # what is kept hangs on it
    assert split(rows_of(60), name="t", shots=20, seed=0)[0].digest.startswith("725e36b045ef8fe0")


def test_held_out_rows_are_left_out_by_their_input_whatever_its_blanks_and_the_output() -> None:
    rows = rows_of(20)
    given = [Row(" question  1\n", "answer 1"), Row("question 2", "another answer "), Row("new", "x")]
    task, notes = split(rows, name="t", shots=20, heldout=given, seed=0)
    assert not {"question 1", "question 2"} & {row.input for row in (*task.shots, *task.tuning)}
    assert notes[0] == "t: rows not learned from, as their inputs are among the held-out rows: 2"


def test_what_judges_one_task_is_learned_from_in_none() -> None:
    rows = rows_of(60)
    first, _ = split(rows, name="a", shots=20, seed=0)
    second, _ = split([*first.shots, *first.tuning], name="b", shots=20, seed=0)
    assert {row.digest for row in second.heldout} <= {row.digest for row in (*first.shots, *first.tuning)}
    (one, notes), (other, _) = keep_apart([first, second])
    judging = {row.digest for task in (one, other) for row in task.heldout}
    assert not judging & {row.digest for task in (one, other) for row in (*task.shots, *task.tuning)}
    tuning = {row.digest for task in (one, other) for row in task.tuning}
    assert not tuning & {row.digest for task in (one, other) for row in task.shots}
    assert (one.heldout, other.heldout) == (first.heldout, second.heldout)
    assert f"a: rows not learned from, as another task holds their inputs out: {len(second.heldout)}" in notes
    assert keep_apart([first]) == ((first, ()),)
    with pytest.raises(TaskError, match=r"c: shots: 0 \(20 more have inputs that judge another task\), .*give each"):
        keep_apart([Task("c", first.shots, (), ()), Task("d", tuple(rows_of(2, start=500)), (), first.shots)])
