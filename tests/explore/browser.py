"""A real browser for the tests of the page: Chromium by Playwright; where either is missing they skip and say so."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader"]  # fmt: skip
SECONDS = 240_000
"""Milliseconds that are waited at most: machines of CI are slow, and share their cores."""


def chromium() -> str:
    """Where Chromium is; skips where there is none."""
    pytest.importorskip("playwright", reason="playwright is not installed (pip install 'merge-advisor[dev]')")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("no chromium on this machine (apt-get install chromium, or set CHROMIUM)")
    return found


@contextmanager
def served(folder: Path, world: Path, *more: str) -> Iterator[str]:
    """`merge-advisor explore`, as a process of its own; yields the address that it prints."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "merge_advisor", "explore", str(folder), "--no-browser", "--offline",
               "--cache", str(world / "cache"), "--runs", str(world / "runs"), *more]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        command, cwd=world, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout is not None and server.stderr is not None
    try:
        line = server.stdout.readline()
        assert "http://127.0.0.1:" in line, line + server.stderr.read()
        yield line.split()[-1]
    finally:
        server.send_signal(signal.SIGINT)
        try:
            code = server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise
        server.stdout.close()
        said = server.stderr.read()
        server.stderr.close()
    assert code == 0 and "Traceback" not in said, f"Ctrl-C ended it with {code}: {said}"


class Visit:
    """A page, open, and all that must not happen on it: errors, and requests to anywhere but its own server."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.wrong: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(f"page: {error}"))
        page.on("request", self._seen)

    def _said(self, message: Any) -> None:
        # what the browser notes of drawing without a GPU is no fault of the page
        if message.type in ("error", "warning") and "GL Driver Message" not in message.text:
            self.wrong.append(f"console: {message.text}")

    def _seen(self, request: Any) -> None:
        own = self.address.split("/?")[0]
        if not request.url.startswith((own, "data:", "blob:", "file:")):
            self.wrong.append(f"request: {request.url}")

    def open(self, more: str = "") -> "Visit":
        """Go to the page, and wait for the map and the names."""
        self.page.goto(self.address + more)
        self.wait("html[data-names]")
        return self

    def wait(self, selector: str) -> None:
        """Wait for an element, seen or not."""
        self.page.wait_for_selector(selector, state="attached", timeout=SECONDS)

    def until(self, script: str) -> None:
        """Wait until a script gives true; not by `wait_for_function`, which needs what the page's policy forbids."""
        for _ in range(SECONDS // 100):
            if self.page.evaluate(script):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"never true: {script}")

    def place_of(self, name: str) -> tuple[float, float]:
        """Where a model is on the screen."""
        script = """(name) => {
          const { model, scene } = window.navigatorPage, index = model.names.indexOf(name);
          const box = scene.element.getBoundingClientRect();
          const [left, top] = scene.camera.toScreen(scene.x[index], scene.y[index]);
          return [box.left + left, box.top + top];
        }"""
        left, top = self.page.evaluate(script, name)
        return left, top

    def focus(self) -> str:
        """What has the focus: its id, label or text; the id of a panel around it in front."""
        script = """() => { const held = document.activeElement, panel = held.closest('[role=tabpanel]');
          return (panel && panel !== held ? panel.id + ' ' : '') +
            (held.id || held.getAttribute('aria-label') || held.labels?.[0]?.querySelector('span')?.innerText ||
             (held === document.body ? '' : held.innerText) || held.tagName); }"""
        return " ".join(str(self.page.evaluate(script)).split())

    def tab_to(self, wanted: str, most: int = 150) -> None:
        """Press Tab until the focus is on what is wanted, as `focus` calls it."""
        seen = [self.focus()]
        for _ in range(most):
            if f" {seen[-1]}".endswith(f" {wanted}"):
                return
            self.page.keyboard.press("Tab")
            seen.append(self.focus())
        raise AssertionError(f"Tab never reached {wanted}; it went {seen}")

    def entry_of(self, name: str) -> int:
        """The number of a model."""
        script = "(name) => { const { model } = window.navigatorPage; return model.entry[model.names.indexOf(name)]; }"
        return int(self.page.evaluate(script, name))


@contextmanager
def visiting(
    address: str, *, size: tuple[int, int] = (1400, 860), scheme: str = "light", **more: Any
) -> Iterator[Visit]:
    """A new browser with nothing in it; afterwards nothing must have gone wrong."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, accept_downloads=True, **more
            )
            context.set_default_timeout(SECONDS)
            visit = Visit(context.new_page(), address)
            yield visit
            assert not visit.wrong, visit.wrong
        finally:
            browser.close()
