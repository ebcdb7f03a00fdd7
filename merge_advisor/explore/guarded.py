"""Who may ask: the page itself, on this machine, with the token in its address; and what a browser may do with it.

A page of another site can make a browser send requests here, straight to the port or under a name of its own that leads
to 127.0.0.1. So the Host header has to be ours, Origin where there is one too, and every question needs the token, in a
header that no form and no link can set.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from merge_advisor.natural_numbers import natural_number

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_UPLOADED = 32 * 2**20
"""Bytes of a task file: some hundred thousand rows."""
TOKEN_HEADER = "x-navigator-token"
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS = {
    "content-security-policy": _CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class TooLargeError(Exception):
    """More came than may be uploaded; never leaves the guard, which answers it.

    >>> issubclass(TooLargeError, OSError)
    False
    """


class Guarded:
    """An ASGI app behind its checks.

    >>> async def app(scope, receive, send): ...
    >>> Guarded(app, "secret", 8000).hosts
    ('127.0.0.1:8000', 'localhost:8000')

    Args:
        app: what is guarded.
        token: what every question under `/api/`, and the page, has to bring.
        port: where it is served.
    """

    def __init__(self, app: AsgiApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it; see the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        begun = [False]

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                begun[0] = True
                own = [(name.encode(), value.encode()) for name, value in SAFE_HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        try:
            await self._app(scope, _limited(receive), with_headers)
        except TooLargeError:
            if begun[0]:
                raise
            await _answer(send, 413, _too_large("more"))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        if headers.get("host", "") not in self.hosts:
            return 421, f"this page is served as http://{self.hosts[0]} alone; open the address that was printed"
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.hosts}:
            return 403, "a page of another site asked; nothing was done"
        # a link to the page may stand anywhere, as in a terminal that is itself a page; the token is asked for as well
        followed = scope["path"] == "/" and scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if not followed and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "a page of another site asked; nothing was done"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "GET and POST alone are understood"
        if scope["path"].startswith("/api/"):
            given = headers.get(TOKEN_HEADER, "")
        elif scope["path"] == "/":
            query = scope.get("query_string", b"").decode("latin-1")
            given = next((part[6:] for part in query.split("&") if part.startswith("token=")), "")
        else:
            given = self._token  # scripts and styles are no secret
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return 403, "the token is missing or wrong; open the address that `merge-advisor explore` printed"
        number = natural_number(headers.get("content-length", "0"))
        if number is None or number > MOST_UPLOADED:
            return 413, _too_large("more" if number is None else f"{number / 2**20:,.0f} MB")
        return None


def _too_large(size: str) -> str:
    return (
        f"{size} were sent; the page takes task files of up to {MOST_UPLOADED // 2**20} MB. Give larger ones to "
        "`merge-advisor plan --hub DIR --task FILE`"
    )


def _limited(receive: Receive) -> Receive:
    """The same body, up to what may be uploaded, whatever its length is said to be."""
    taken = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_UPLOADED:
            raise TooLargeError
        return message

    return limited


async def _answer(send: Send, status: int, line: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in SAFE_HEADERS.items()]
    body = json.dumps({"error": line}).encode()
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                (b"connection", b"close")]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
