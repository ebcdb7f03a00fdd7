"""`merge-advisor explore`: the Navigator of a hub folder, served on this machine until it is ended."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.errors import InputError
from merge_advisor.explore.guarded import Guarded
from merge_advisor.explore.navigator import Navigator
from merge_advisor.explore.server import WEB, make_app
from merge_advisor.explore.tokens import new_token

if TYPE_CHECKING:
    import uvicorn

    from merge_advisor.session_options import SessionOptions

LOOPBACK = "127.0.0.1"


def explore(
    folder: Path, *, port: int = 0, runs: Path = Path("runs"), logs: Sequence[Path] = (), token: str | None = None,
    on_ready: Callable[[str], None], **where: Unpack[SessionOptions],
) -> None:  # fmt: skip
    """Serve the Navigator of a hub folder on this machine alone, until it is interrupted.

    Args:
        folder: the hub folder.
        port: where; 0: any that is free.
        runs: folder where plans put their runs.
        logs: see `Navigator`.
        token: that the address holds, see `kept_token`; None: one made for this time.
        on_ready: called with the address, which holds the token, once the page can be opened.
        where: see `SessionOptions`.

    Raises:
        InputError: the port is in use, or what serves the page is not installed.
        RunError: it is no hub folder, or damaged.
    """
    check_installed()
    import uvicorn

    with closing(Navigator(folder, cache=cache_of(where), runs=runs, logs=logs, where=where)) as navigator:
        navigator.points()  # a hub without models is refused here, and the first page is quick
        with closing(free_socket(port)) as listening:
            found = int(listening.getsockname()[1])
            token = token or new_token()
            config = uvicorn.Config(
                Guarded(make_app(navigator), token, found), log_level="error", access_log=False, lifespan="off",
                server_header=False, ws="none", timeout_graceful_shutdown=2,
            )  # fmt: skip
            server = _server(config, lambda: on_ready(f"http://{LOOPBACK}:{found}/?token={token}"))
            with suppress(KeyboardInterrupt), _ended_alike():  # how it is ended
                server.run(sockets=[listening])


@contextmanager
def _ended_alike() -> Iterator[None]:
    """Let what else ends a process, a closed terminal too, do as Ctrl-C does: jobs are processes of their own."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    mine = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if mine and hasattr(signal, name)]
    # one that is ignored, as under nohup, stays so
    usual = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    before = {number: signal.signal(number, interrupt) for number in usual}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cache_of(where: SessionOptions) -> Path:
    """Return the folder of what is computed.

    Args:
        where: see `SessionOptions`.
    """
    from merge_advisor.advisor.measuring.session import default_cache

    return (where.get("cache") or default_cache()).absolute()


def check_installed() -> None:
    """Refuse where starlette or uvicorn is missing.

    Raises:
        InputError: one is.
    """
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise InputError(
            f"explore: {error.name} is not installed; pip install 'merge-advisor[explore]' (`export` works without it)"
        ) from error
    del starlette, uvicorn
    if not (WEB / "explore.js").is_file():
        raise InputError(
            f"explore: {WEB / 'explore.js'} is missing; run scripts/build_web, or install the package anew"
        )


def free_socket(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone.

    Args:
        port: where; 0: any that is free.

    Raises:
        InputError: it is in use, or not allowed.
    """
    if not 0 <= port <= 65_535:
        raise InputError(f"`port={port}`: give 1 to 65535, or leave it out for any that is free")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise InputError(
            f"`port={port}`: cannot be used ({error.strerror}); give another, or leave it out for any that is free"
        ) from error
    return listening


def _server(config: uvicorn.Config, ready: Callable[[], None]) -> uvicorn.Server:
    """A server that says when it can be asked."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    return Server(config)
