"""What the page asks of a hub, answered from one thread that holds it; jobs run beside it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from merge_advisor.errors import InputError
from merge_advisor.explore.binary import pack_arrays
from merge_advisor.explore.clusters import unnamed_clusters
from merge_advisor.explore.jobs import JobBoard, PageJob
from merge_advisor.explore.layouts import MapLayout, kept_layout, layout_file
from merge_advisor.explore.map_points import MapPoints, choose_space, read_points, score_column
from merge_advisor.explore.model_details import MOST_COMPARED, merging_costs, named_models
from merge_advisor.explore.projection import place_among
from merge_advisor.explore.run_views import log_of
from merge_advisor.hub import Hub
from merge_advisor.json_form import digest_of
from merge_advisor.whole_files import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.session_options import SessionOptions

_T = TypeVar("_T")
_SAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_TASK_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")


class Navigator:
    """A hub folder as the page sees it.

    >>> with Hub.open("hub-map-example", make=True) as hub:
    ...     added = hub.add("adapters", base="base")
    >>> navigator = Navigator(Path("hub-map-example"), cache=Path("cache"), runs=Path("runs"))
    >>> navigator.overview()["spaces"][0]["models"]
    6
    >>> navigator.close()

    Args:
        folder: the hub folder.
        cache: of what is computed.
        runs: folder where plans put their runs.
        logs: of gates that watch a pool, or their folders; that of `runs`/watch is shown in any case.
        where: see `SessionOptions`.

    Raises:
        RunError: it is no hub folder, or damaged.
    """

    def __init__(
        self, folder: Path, *, cache: Path, runs: Path, logs: Sequence[Path] = (), where: SessionOptions | None = None
    ) -> None:
        self.folder, self.cache, self.runs = folder, cache, runs
        self.logs = (runs / "watch", *logs)
        self.where = where or {}
        self.board = JobBoard()
        self._thread = ThreadPoolExecutor(1, "hub")
        self._points: dict[int, tuple[Any, MapPoints]] = {}
        self._layouts: dict[str, MapLayout] = {}
        self._laying: dict[str, PageJob] = {}
        self._placed: dict[tuple[str, str, bool], dict[str, Any]] = {}
        self._lock = threading.Lock()
        try:
            self._hub = self._thread.submit(Hub.open, folder).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def close(self) -> None:
        """End all jobs, and close the hub."""
        self.board.close()
        self._thread.submit(self._hub.close).result()
        self._thread.shutdown()

    def ask(self, question: Callable[[Hub], _T]) -> _T:
        """Return what a question about the hub gives; asked in the thread that holds it.

        Args:
            question: called with the hub.
        """
        return self._thread.submit(question, self._hub).result()

    def points(self, space: int | None = None) -> MapPoints:
        """Return the models of a space, read anew where the hub has changed; vectors only where they have.

        Args:
            space: its number; None: the one of most models.

        Raises:
            InputError: there is none.
            RunError: the hub cannot be read.
        """

        def read(hub: Hub) -> MapPoints:
            number = choose_space(hub, space)
            stamp = hub.catalogue.file.stamp
            kept = self._points.get(number)
            if kept is None or kept[0] != stamp:
                kept = self._points[number] = (stamp, read_points(hub, number, kept and kept[1]))
            return kept[1]

        return self.ask(read)

    def version(self) -> str:
        """Return what is another whenever anything in the hub or in a gate's log is; nothing else is read for it."""
        logs = []
        for log in map(log_of, self.logs):
            try:
                found = log.stat()
                logs.append([found.st_size, found.st_mtime_ns])
            except OSError:  # it need not be there, and says why where its lines are asked for
                logs.append([])
        return digest_of([list(self.ask(lambda hub: hub.catalogue.file.stamp)), logs])[:32]

    def overview(self) -> dict[str, Any]:
        """Return what the hub holds, as plain values."""

        def look(hub: Hub) -> dict[str, Any]:
            bases = {item.base.digest: item.base.id for item in hub.bases()}
            spaces = [
                {"number": number, "base": bases.get(space.base, space.base), "embedding": space.embedding,
                 "dtype": space.dtype, "dim": space.dim, "models": hub.models_in(number)}
                for number, space in hub.catalogue.spaces().items()
            ]  # fmt: skip
            query = "SELECT task, metric, COUNT(DISTINCT entry) FROM scores GROUP BY task, metric ORDER BY task, metric"
            tasks = [{"task": t, "metric": m, "models": n} for t, m, n in hub.catalogue.file.rows(query)]
            return {"spaces": spaces, "scored": tasks, "runs": len(hub.runs())}

        version = self.version()  # before looking: of what changes meanwhile it is not that of then
        return {**self.ask(look), "version": version, "folder": str(self.folder), "name": self.folder.resolve().name}

    def map_bytes(self, points: MapPoints) -> bytes:
        """Return the map of a space by PCA, packed.

        Args:
            points: the models.
        """
        said = {
            "space": points.number, "models": len(points.entries), "dim": points.space.dim, "words": points.words,
            "explained": points.axes.explained, "state": points.state,
        }  # fmt: skip
        arrays = {
            "x": np.ascontiguousarray(points.places[:, 0]), "y": np.ascontiguousarray(points.places[:, 1]),
            "entry": points.entries.astype(np.uint32), **points.columns,
        }  # fmt: skip
        return pack_arrays(said, arrays)

    def layout(self, points: MapPoints) -> tuple[MapLayout | None, PageJob | None]:
        """Return the layout of a space as far as it is there, and the job that computes the rest, begun if need be.

        Args:
            points: the models.
        """
        with self._lock:
            kept = self._known_layout(points)
            if kept is not None and not kept.pending:
                return kept, None
            job = self._laying.get(points.digest)
            if job is None:
                asked = {**self._asked(), "space": points.number}
                job = self._laying[points.digest] = self.board.start("layout", "layout", asked)
            return kept, job

    def _known_layout(self, points: MapPoints) -> MapLayout | None:
        known = self._layouts.get(points.digest)
        if known is None or known.pending:
            known = kept_layout(layout_file(self.cache, points), len(points.entries))
            if known is not None:
                self._layouts[points.digest] = known
        return known

    def layout_bytes(self, layout: MapLayout, job: PageJob | None) -> bytes:
        """Return a layout, packed.

        Args:
            layout: of one of the hub's spaces.
            job: what computes the rest of it.
        """
        said = {
            "clusters": layout.clusters, "unnamed": unnamed_clusters(layout.clusters),
            "silhouette": layout.silhouette, "trust_pca": layout.trust_pca, "trust_umap": layout.trust_umap,
            "note": layout.note,
            "job": None if job is None else job.plain(),
        }  # fmt: skip
        arrays: dict[str, Any] = {"cluster": layout.cluster}
        if layout.umap is not None:
            arrays |= {"umap_x": np.ascontiguousarray(layout.umap[:, 0]),
                       "umap_y": np.ascontiguousarray(layout.umap[:, 1])}  # fmt: skip
        return pack_arrays(said, arrays)

    def scores_bytes(self, points: MapPoints, task: str, metric: str) -> bytes:
        """Return what the models of a space reached on a task, packed.

        Args:
            points: the models.
            task: its name.
            metric: the metric's name.
        """
        return pack_arrays({}, {"value": self.ask(lambda hub: score_column(hub, points, task, metric))})

    def positions(self, points: MapPoints, numbers: Sequence[int], *, cut: bool = False) -> bytes:
        """Return the positions of some entries in a space, packed.

        Args:
            points: the models.
            numbers: of the entries.
            cut: whether there may be more; the page says so.
        """
        found = np.flatnonzero(np.isin(points.entries, numbers)).astype(np.uint32)
        return pack_arrays({"cut": cut}, {"position": found})

    def costs(self, number: int, others: Sequence[int]) -> dict[str, Any]:
        """Return what merging a model with others costs; reads their weights.

        Args:
            number: of the entry.
            others: numbers of the others.

        Raises:
            InputError: too many are named, or one cannot be opened.
        """

        def named(hub: Hub) -> tuple[list[Any], str]:
            entries = named_models(hub, [number, *others], MOST_COMPARED + 1)
            return entries, hub.base_of(entries[0].base).place

        entries, base = self.ask(named)
        return {str(key): value for key, value in merging_costs(entries, base, **self.where).items()}

    def keep_task(self, name: str, data: bytes) -> Path:
        """Return the file that examples were kept in, under a name that is safe as one.

        Args:
            name: of the file that was dropped.
            data: what is in it.

        Raises:
            InputError: it is empty, or of a kind that is none of task files.
            RunError: the cache cannot be written.
        """
        if not data.strip():
            raise InputError("the examples are empty: drop a file of rows, or paste some, one JSON object a line")
        path = Path(name)
        suffix = path.suffix.lower() if path.suffix.lower() in _TASK_SUFFIXES else ".jsonl"
        stem = (_SAFE.sub("-", path.stem).strip("-.") or "examples")[:60]
        folder = self.cache / "explore" / "tasks" / digest_of(data.hex())[:16]
        file = folder / f"{stem}{suffix}"
        with whole_file(file) as partial:
            partial.write_bytes(data)
        return file

    def start_task(self, points: MapPoints, file: Path, fields: str | None) -> PageJob:
        """Return the job that ranks models for a task.

        Args:
            points: the models.
            file: of the examples.
            fields: of its rows, as `plan` takes them.

        Raises:
            InputError: too many jobs are running.
        """
        asked = {**self._asked(), "space": points.number, "file": str(file), "fields": fields}
        said = {"space": points.number, "file": str(file), "fields": fields}
        return self.board.start("task", file.stem, asked, said=said)

    def task_result(self, job: PageJob, points: MapPoints) -> dict[str, Any]:
        """Return how models were ranked for a task, and where it lies on the map as that is now.

        Args:
            job: of a task, done.
            points: the models that the page shows.
        """
        found = dict(job.result or {})
        vector = np.array(found.pop("vector"), np.float32)
        return found | (self._places(job.id, vector, points) if job.said["space"] == points.number else {})

    def _places(self, job: str, vector: NDArray[np.float32], points: MapPoints) -> dict[str, Any]:
        """By PCA, and by UMAP once that is there: a task may have been ranked before it."""
        layout = self._known_layout(points)
        umap = None if layout is None else layout.umap
        key = job, points.digest, umap is not None
        if key not in self._placed:
            places: dict[str, Any] = {"pca": points.place_vector(vector), "umap": None}
            if umap is not None:
                unit = (vector / (float(np.linalg.norm(vector)) or 1.0)).astype(np.float32)
                places["umap"] = place_among(unit[None], points.units, umap)[0].tolist()
            self._placed[key] = places
        return self._placed[key]

    def start_plan(self, task: PageJob, numbers: Sequence[int], options: dict[str, Any]) -> PageJob:
        """Return the job that plans with some models for a task.

        Args:
            task: the job that ranked models for it.
            numbers: of the entries.
            options: `k`, `strategy`, `adaptation`.

        Raises:
            InputError: a model cannot be opened, or too many jobs are running.
        """
        from merge_advisor.explore.job_work import MOST_PLANNED

        self.ask(lambda hub: named_models(hub, list(numbers), MOST_PLANNED))
        out = free_folder(self.runs, Path(task.said["file"]).stem)
        asked = {**self._asked(), "file": task.said["file"], "fields": task.said.get("fields"), "out": str(out),
                 "numbers": list(numbers), "options": options}  # fmt: skip
        return self.board.start("plan", out.name, asked, said={"task": task.id, "models": len(numbers)})

    def _asked(self) -> dict[str, Any]:
        where: dict[str, Any] = {"offline": self.where.get("offline", False), "cache": str(self.cache.absolute())}
        store, machine = self.where.get("store"), self.where.get("machine")
        if store is not None:
            where["store"] = str(store.absolute())
        if machine is not None:
            where["machine"] = asdict(machine)
        return {"hub": str(self.folder.absolute()), "where": where}


def free_folder(runs: Path, name: str) -> Path:
    """Return a folder of a name that is not taken: with a number behind it where it is.

    >>> free_folder(Path("runs"), "sums").name
    'sums'

    Args:
        runs: where it is to be.
        name: of the task.
    """
    found, number = runs / name, 2
    while found.exists():
        found, number = runs / f"{name}-{number}", number + 1
    return found.absolute()
