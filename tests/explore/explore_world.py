"""Hubs for the Navigator's tests, and questions put to its server without a socket."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from merge_advisor.explore.guarded import TOKEN_HEADER
from merge_advisor.hub import Hub
from merge_advisor.types import Base
from tests.hub.hub_world import SPACE, TIME, entry_of

TOKEN, PORT = "secret", 8000
HOSTILE = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\u202eevil\u202c \u05e9\u05dc\u05d5\u05dd",
    "n" * 300,
    "line\nbreak\x1b[31m",
    "=HYPERLINK(1)",
)
"""Names that others may give their models."""


def clustered(folder: Path, groups: int = 3, each: int = 8, dim: int = 16, names: Sequence[str] = ()) -> Path:
    """A hub of models without weights: so many groups, far apart, each with a card of its own words."""
    rng = np.random.default_rng(0)
    space = replace(SPACE, dim=dim)
    words = ("legal contracts", "python code", "clinical medicine", "algebra sums")
    with Hub.open(folder, make=True) as hub:
        hub.catalogue.keep_base(Base("org/base", None, "base", "LlamaForCausalLM"), "org/base")
        number = hub.catalogue.keep_space(space)
        centres = rng.normal(size=(groups, dim))
        with hub.catalogue.file.transaction():
            for item in range(groups * each):
                group = item % groups
                card = f"A model for {words[group % len(words)]}. {HOSTILE[0]}"
                kept = hub.catalogue.keep_entry(entry_of(item, card=card, rank=4 + item % 3, place="/nowhere"))
                name = names[item] if item < len(names) else f"{words[group % len(words)].split()[0]}-{item}"
                hub.catalogue.keep_name("base", name, kept, TIME)
                delta = centres[group] + 0.1 * rng.normal(size=dim)
                hub.deltas.keep_delta(number, kept, delta.astype(np.float32))
                hub.texts.keep_text(kept)
        hub.index.bring_up(number, space)
    return folder


class Answer:
    """What the server answered."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.status = messages[0]["status"]
        self.headers = {name.decode().lower(): value.decode() for name, value in messages[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(
    app: Any, path: str, *, method: str = "GET", query: str = "", body: Sequence[bytes] = (), own: bool = True,
    headers: dict[str, str] | None = None,
) -> Answer:  # fmt: skip
    """Put a request to an ASGI app; `own`: as the page itself asks, with Host and token."""
    given = {"host": f"127.0.0.1:{PORT}", TOKEN_HEADER: TOKEN} if own else {}
    given |= headers or {}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", PORT),
    }  # fmt: skip
    parts = list(body) or [b""]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.Event().wait()  # a browser that stays
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return Answer(sent)
