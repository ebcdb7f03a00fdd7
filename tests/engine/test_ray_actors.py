"""A local Ray cluster of two workers: the same work, one killed or hanging; absent or too small, it is one line."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_advisor.engine.ray_actors import LOOKING, RayFleet
from merge_advisor.engine.supervisor import run_work
from merge_advisor.engine.work import ListedWork, WorkItem
from merge_advisor.errors import ExternalError, InputError
from merge_advisor.owners import is_running
from tests.support.ray_cluster import needs_ray
from tests.support.work_world import SILENCE, Arithmetic, Surroundings, comes, squares

SQUARES = {number: number * number for number in range(6)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from tests.support.ray_cluster import local_cluster

    with local_cluster(cpus=3):
        yield


def run(opening: Arithmetic, count: int = 6, *, silence: float = 60.0) -> tuple[dict[int, int], list[str]]:
    work, found = squares(count)
    run_work(work, RayFleet(opening, 2, 1, gpu=True), 2, silence=silence)
    return found, [f"{item.name}: {reason}" for item, reason in work.failures]


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
class TestCluster:
    def test_every_item_is_done_once_by_two_actors(self, tmp_path: Path) -> None:
        opening = Arithmetic(tmp_path, together=2)
        assert run(opening) == (SQUARES, [])
        assert len({line.split()[1] for line in opening.lines("done")}) == len(opening.lines("opened")) == 2

    @pytest.mark.parametrize("how", ["kill", "crash", "stop", "wait"])
    def test_what_an_actor_leaves_is_done_by_another(self, tmp_path: Path, how: str) -> None:
        (tmp_path / f"once-{how}-2").touch()
        opening = Arithmetic(tmp_path)
        assert run(opening, silence=SILENCE) == (SQUARES, [])
        again = [line.split()[1] for line in opening.lines("done") if line.startswith("2 ")]
        assert len(again) > 1 and again[0] != again[-1]
        assert comes(lambda: not is_running(int(again[0])))

    def test_an_item_two_actors_died_on_has_failed(self, tmp_path: Path) -> None:
        (tmp_path / "always-kill-2").touch()
        found, failures = run(Arithmetic(tmp_path))
        assert sorted(found) == [0, 1, 3, 4, 5]
        assert len(failures) == 1 and failures[0].startswith(
            "number 2: the worker died on it twice, the actor ended on "
        )

    def test_what_is_raised_or_refused_comes_back(self, tmp_path: Path) -> None:
        (tmp_path / "always-raise-3").touch()
        (tmp_path / "refusing").mkdir()
        with pytest.raises(InputError, match="a number that nobody can square"):
            run(Arithmetic(tmp_path))
        with pytest.raises(ExternalError, match=r"2 of 2 workers could not begin: base x: .* \(worker on .*\)"):
            run(refusing := Arithmetic(tmp_path / "refusing", refusal="base x: no such folder"))
        # what refused is gone, and nobody asks it any more: it would hold a CPU of the cluster, and begin one after it
        refused = [int(line.split()[0]) for line in refusing.lines("opened")]
        assert len(refused) == 2 and comes(lambda: not any(map(is_running, refused)))
        assert comes(lambda: LOOKING not in [thread.name for thread in threading.enumerate()])

    def test_an_actor_reads_by_the_limits_set_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The cluster was begun before: its processes have another environment."""
        names = ("MERGE_ADVISOR_LIMITS", "MERGE_ADVISOR_CACHE", "HF_HUB_OFFLINE")
        for name, value in zip(names, ("row_bytes=77", "/where/it/is", None), strict=True):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        said: dict[str, tuple[str | None, int]] = {}
        work = ListedWork([WorkItem(name, name) for name in names], lambda item, reply: said.update({item.name: reply}))
        run_work(work, RayFleet(Surroundings(), 1, 1, gpu=False), 1, silence=60.0)
        assert said == dict(zip(names, [("row_bytes=77", 77), ("/where/it/is", 77), (None, 77)], strict=True))

    def test_too_few_processors_are_said(self, tmp_path: Path) -> None:
        with pytest.raises(ExternalError, match="`workers=9`: the Ray cluster has 3 CPUs, and a worker takes one"):
            RayFleet(Arithmetic(tmp_path), 9, None, gpu=False)


def test_without_ray_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExternalError, match=r"`engine=ray` needs the package ray: pip install 'merge-advisor\[ray\]'"):
        RayFleet(Arithmetic(tmp_path), 2, 1, gpu=False)
