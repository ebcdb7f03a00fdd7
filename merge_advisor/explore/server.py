"""The page's server: routes and their answers. `guarded` stands before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import InputError, MergeAdvisorError
from merge_advisor.explore.guarded import TooLargeError
from merge_advisor.explore.model_details import model_details, neighbours_of
from merge_advisor.explore.run_views import (
    compared_runs,
    gate_decisions,
    listed_runs,
    refusal_line,
    run_details,
    run_file,
    run_folder_of,
)
from merge_advisor.hub.filters import read_filter
from merge_advisor.natural_numbers import natural_number

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from merge_advisor.explore.map_points import MapPoints
    from merge_advisor.explore.navigator import Navigator

WEB = Path(__file__).parent / "web"
"""The page's own files; `scripts/build_web` makes script and style."""
WEB_FILES = {"explore.js": "text/javascript", "explore.css": "text/css"}
_PACKED = "application/octet-stream"
_MOST_FOUND = 500
_MOST_NEIGHBOURS = 100


def make_app(navigator: Navigator) -> Starlette:
    """Return the ASGI app of a page.

    Args:
        navigator: what answers.
    """
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route

    def get(answer: Callable[[Request], Any]) -> Callable[[Request], Response]:
        """An answer as a response: bytes are packed arrays, a path is a download, all else is JSON."""

        def endpoint(request: Request) -> Response:
            found = answer(request)
            if isinstance(found, bytes):
                return Response(found, media_type=_PACKED)
            if isinstance(found, Path):
                return FileResponse(found, media_type=_PACKED, filename=found.name)
            text = found if isinstance(found, str) else json.dumps(found, allow_nan=False, default=str)
            return Response(text, media_type="application/json")

        return endpoint

    async def post_task(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        data = await request.body()
        name = _unquoted(request.headers.get("x-file-name", "examples.jsonl"))
        fields = request.query_params.get("fields") or None

        def start() -> dict[str, Any]:
            points = navigator.points(_space(request))  # whatever the page shows: numbers of entries are ranked
            return navigator.start_task(points, navigator.keep_task(name, data), fields).plain()

        return JSONResponse(await run_in_threadpool(start))

    async def post_json(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        asked = _object_in(await request.body())
        if asked is None:
            return JSONResponse({"error": "the request is no JSON object"}, 400)
        doer = _stop if request.url.path.endswith("/stop") else _plan
        return JSONResponse(await run_in_threadpool(doer, navigator, request, asked))

    def page(request: Request) -> Response:
        return FileResponse(WEB / "index.html", media_type="text/html")

    def web_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in WEB_FILES:
            return JSONResponse({"error": "there is no such file"}, 404)
        return FileResponse(WEB / name, media_type=WEB_FILES[name])

    answers: dict[str, Callable[[Request], Any]] = {
        "hub": lambda _: navigator.overview(),
        "map": lambda request: navigator.map_bytes(_points(navigator, request)),
        "state": lambda request: {"state": _points(navigator, request).state},
        "version": lambda _: {"version": navigator.version()},
        "names": lambda request: list(_points(navigator, request).names),
        "layout": lambda request: _layout(navigator, request),
        "scores": lambda request: navigator.scores_bytes(
            _points(navigator, request), _text(request, "task"), _text(request, "metric")
        ),
        "filter": lambda request: _filtered(navigator, request),
        "find": lambda request: _found(navigator, request),
        "model": lambda request: _model(navigator, request),
        "neighbours": lambda request: _neighbours(navigator, request),
        "costs": lambda request: _costs(navigator, request),
        "jobs": lambda _: [job.plain() for job in navigator.board.jobs() if job.kind != "layout"],
        "job": lambda request: _job(navigator, request),
        "runs": lambda _: navigator.ask(listed_runs),
        "run": lambda request: run_details(_run(navigator, _text(request, "run"))),
        "run-file": lambda request: run_file(_run(navigator, _text(request, "run")), _text(request, "name")),
        "compare": lambda request: compared_runs([_run(navigator, run) for run in _text(request, "runs").split(",")]),
        "choices": lambda _: _choices(),
        "decisions": lambda _: gate_decisions(navigator.logs),
    }
    routes = [Route(f"/api/{name}", get(answer), methods=["GET"]) for name, answer in answers.items()]
    routes += [
        Route("/api/tasks", post_task, methods=["POST"]),
        Route("/api/plans", post_json, methods=["POST"]),
        Route("/api/stop", post_json, methods=["POST"]),
        Route("/", page),
        Route("/web/{name}", web_file),
    ]

    def refused(_: Request, error: Exception) -> Response:
        changed = isinstance(error, MapChangedError)
        return JSONResponse({"error": refusal_line(error), "changed": changed}, 409 if changed else 400)

    def failed(_: Request, error: Exception) -> Response:
        if isinstance(error, TooLargeError):  # the guard's own
            raise error
        # it is raised again behind this answer, and so stands on stderr as well
        return JSONResponse({"error": refusal_line(error)}, 500)

    return Starlette(routes=routes, exception_handlers={MergeAdvisorError: refused, Exception: failed})


def _object_in(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class MapChangedError(InputError):
    """What is asked for is of a map that is not this one any more.

    >>> MapChangedError().exit_code
    2
    """

    def __init__(self) -> None:
        super().__init__("the hub has changed since this map was loaded; load it again")


def _points(navigator: Navigator, request: Request) -> MapPoints:
    """The models of the space that is asked about; refused where the page shows other ones.

    The page names its state with whatever it asks of a map: a position, or a model that it marks, would be another's.
    """
    points, shown = navigator.points(_space(request)), request.query_params.get("state")
    if shown is not None and shown != points.state:
        raise MapChangedError
    return points


def _layout(navigator: Navigator, request: Request) -> Any:
    layout, job = navigator.layout(_points(navigator, request))
    if layout is None:
        return job.plain() if job is not None else {}
    return navigator.layout_bytes(layout, job)


def _filtered(navigator: Navigator, request: Request) -> bytes:
    points, wanted = _points(navigator, request), read_filter(_text(request, "wanted"))
    return navigator.positions(points, navigator.ask(lambda hub: hub.catalogue.numbers(wanted)))


def _found(navigator: Navigator, request: Request) -> bytes:
    points, text = _points(navigator, request), _text(request, "text")[:1000]
    found = navigator.ask(lambda hub: hub.texts.find_text(text, hub.filtered("", points.space.base), _MOST_FOUND))
    return navigator.positions(points, [number for number, _ in found], cut=len(found) == _MOST_FOUND)


def _model(navigator: Navigator, request: Request) -> dict[str, Any]:
    _points(navigator, request)
    number = _number(request, "number")
    return navigator.ask(lambda hub: model_details(hub, number))


def _neighbours(navigator: Navigator, request: Request) -> dict[str, Any]:
    points, number = _points(navigator, request), _number(request, "number")
    k = max(1, min(_MOST_NEIGHBOURS, _number(request, "k", 10)))
    only_open = request.query_params.get("open") == "1"
    return navigator.ask(lambda hub: neighbours_of(hub, points, number, k, only_open=only_open))


def _costs(navigator: Navigator, request: Request) -> dict[str, Any]:
    _points(navigator, request)
    return navigator.costs(_number(request, "number"), _numbers(_text(request, "others")))


def _job(navigator: Navigator, request: Request) -> dict[str, Any]:
    job = navigator.board.job(_text(request, "id"))
    if job.kind != "task" or job.state != "done":
        return job.plain() | {"result": job.result if job.state == "done" else None}
    return job.plain() | {"result": navigator.task_result(job, _points(navigator, request))}


def _run(navigator: Navigator, run: str) -> Path:
    return navigator.ask(lambda hub: run_folder_of(hub, run))


def _stop(navigator: Navigator, request: Request, asked: dict[str, Any]) -> dict[str, Any]:
    job = navigator.board.job(str(asked.get("id", "")))
    navigator.board.stop(job)
    return job.plain()


def _plan(navigator: Navigator, request: Request, asked: dict[str, Any]) -> dict[str, Any]:
    _points(navigator, request)
    task = navigator.board.job(str(asked.get("task", "")))
    if task.kind != "task" or task.state != "done":
        raise InputError("a plan needs examples: drop some first, and wait until they are ranked")
    given = asked.get("models")
    if not isinstance(given, list) or not all(isinstance(number, int) for number in given):
        raise InputError("`models` is no list of numbers")
    options = asked.get("options")
    return navigator.start_plan(task, given, options if isinstance(options, dict) else {}).plain()


def _choices() -> dict[str, Any]:
    from merge_advisor import registry
    from merge_advisor.options import PlanOptions

    default = PlanOptions()
    return {
        "strategies": list(registry.names("strategy")), "adaptations": list(registry.names("adaptation")),
        "strategy": default.strategy, "adaptation": default.adaptation, "k": default.k,
    }  # fmt: skip


def _space(request: Request) -> int | None:
    return _number(request, "space") if request.query_params.get("space") else None


def _number(request: Request, name: str, default: int | None = None) -> int:
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    number = natural_number(text or "")
    if number is None:
        raise InputError(f"`{name}`: is no number")
    return number


def _numbers(text: str) -> list[int]:
    numbers = [natural_number(part) for part in text.split(",") if part]
    if None in numbers:
        raise InputError("numbers with commas between are asked for")
    return [number for number in numbers if number is not None]


def _text(request: Request, name: str) -> str:
    text = request.query_params.get(name)
    if text is None:
        raise InputError(f"`{name}`: is missing")
    return text


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)
