"""Nobody but the page asks, and what it asks is small: foreign hosts, other sites, missing tokens, huge uploads."""

from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import InputError
from merge_advisor.explore.guarded import MOST_UPLOADED, Guarded
from merge_advisor.explore.serving import free_socket
from tests.explore.explore_world import PORT, TOKEN, ask

OWN = {"host": f"127.0.0.1:{PORT}", "x-navigator-token": TOKEN}


class Echo:
    """Answers with the size of what it was sent; counts how often it was reached."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached += 1
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        (OWN, 200, ""),
        ({**OWN, "host": f"localhost:{PORT}", "origin": f"http://localhost:{PORT}"}, 200, ""),
        ({**OWN, "sec-fetch-site": "same-origin"}, 200, ""),
        ({**OWN, "host": f"evil.example:{PORT}"}, 421, "is served as http://127.0.0.1:8000 alone"),
        ({**OWN, "host": "127.0.0.1"}, 421, "open the address that was printed"),
        ({"x-navigator-token": TOKEN}, 421, "open the address"),
        ({**OWN, "origin": "http://evil.example"}, 403, "a page of another site asked; nothing was done"),
        ({**OWN, "origin": "null"}, 403, "another site"),
        ({**OWN, "origin": "http://127.0.0.1:9999"}, 403, "another site"),
        ({**OWN, "sec-fetch-site": "cross-site"}, 403, "another site"),
        ({**OWN, "sec-fetch-site": "same-site"}, 403, "another site"),
        ({"host": OWN["host"]}, 403, "the token is missing or wrong; open the address"),
        ({**OWN, "x-navigator-token": TOKEN + "x"}, 403, "the token is missing or wrong"),
        ({**OWN, "x-navigator-token": "ü"}, 403, "the token is missing or wrong"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_may_ask(headers: dict[str, str], status: int, says: str, method: str) -> None:
    echo = Echo()
    answer = ask(Guarded(echo, TOKEN, PORT), "/api/hub", method=method, own=False, headers=headers)
    assert answer.status == status and echo.reached == (status == 200)
    if says:
        assert says in answer.json["error"]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_needs_the_token_in_its_address_and_scripts_do_not() -> None:
    app = Guarded(Echo(), TOKEN, PORT)
    host = {"host": OWN["host"]}
    assert ask(app, "/", own=False, headers=host).status == 403
    assert ask(app, "/", own=False, headers=host, query="token=wrong").status == 403
    assert ask(app, "/", own=False, headers=host, query=f"x=1&token={TOKEN}").status == 200
    assert ask(app, "/web/explore.js", own=False, headers=host).status == 200
    # a link to it may be followed from anywhere; nothing else may
    link = {**host, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(app, "/", own=False, headers=link, query=f"token={TOKEN}").status == 200
    assert ask(app, "/", own=False, headers=link).status == 403
    assert ask(app, "/api/hub", own=False, headers={**link, "x-navigator-token": TOKEN}).status == 403
    assert ask(app, "/", own=False, headers=link, query=f"token={TOKEN}", method="POST").status == 403
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(app, "/api/hub", method=method).status == 405


def test_a_gigabyte_is_refused_before_it_is_read() -> None:
    echo = Echo()
    app = Guarded(echo, TOKEN, PORT)
    answer = ask(app, "/api/tasks", method="POST", headers={"content-length": str(2**30)})
    assert answer.status == 413 and echo.reached == 0
    assert answer.json["error"].startswith("1,024 MB were sent; the page takes task files of up to 32 MB")
    for length in ("-1", "9" * 5000, "²"):
        assert ask(app, "/api/tasks", method="POST", headers={"content-length": length}).status == 413
    # in pieces, of no stated length
    part = b"x" * (MOST_UPLOADED // 4)
    assert ask(app, "/api/tasks", method="POST", body=[part] * 5).status == 413
    assert ask(app, "/api/tasks", method="POST", body=[part] * 4).body == str(MOST_UPLOADED).encode()


def test_a_port_in_use_is_one_line() -> None:
    with free_socket(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(
            InputError, match=rf"`port={port}`: cannot be used \(Address already in use\); give another"
        ):
            free_socket(port)
    for wrong in (-1, 70_000):
        with pytest.raises(InputError, match="give 1 to 65535"):
            free_socket(wrong)


def test_the_bundle_is_made_from_the_sources_and_asks_nobody() -> None:
    """Without node: the bundle says what it was made from."""
    import hashlib

    root = Path(__file__).parents[2]
    web = root / "scripts/web"
    names = sorted([*(web / "src").glob("*.js"), *(web / "src").glob("*.css")], key=lambda path: path.name)
    data = b"".join(path.read_bytes() for path in [web / "index.html", web / "package.json", *names])
    digest = hashlib.sha256(data).hexdigest()
    for name in ("explore.js", "explore.css"):
        text = (root / "merge_advisor/explore/web" / name).read_text()
        assert digest in text[:200], f"{name} is not made from these sources; run scripts/build_web"
        found = text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in found and "https://" not in found and "//cdn" not in found
        assert "eval(" not in found and "new Function" not in found and "innerHTML" not in found
    assert (root / "merge_advisor/explore/web/index.html").read_text() == (web / "index.html").read_text()
