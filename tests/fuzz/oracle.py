"""One command in this process, and the faults in what it did, whatever its input was."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = "merge-advisor: "
_LONGEST = 4000
"""Characters of a line on stderr at most."""
_REMEDY = re.compile(r"(; |: give |: no such option|, or )")
"""What an error has that says what to do."""
_RUNS_CODE = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "webbrowser.open")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")
_WRITES = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
)
_DEVICES = ("/dev/", "/proc/")


@dataclass(frozen=True)
class Fault:
    """What must not come of any input: a kind that is the same for all of its cases, and what was seen."""

    kind: str
    seen: str


@dataclass
class Said:
    """What one command did."""

    code: int | None
    out: str
    err: str
    raised: BaseException | None = None
    did: list[str] = field(default_factory=list)
    """Writes outside its folder, processes, connections."""


@dataclass
class _Watch:
    """What the audit hook, which cannot be taken away again, looks for at the moment."""

    folder: str = ""
    did: list[str] = field(default_factory=list)
    hooked: bool = False


_WATCH = _Watch()


def _audit(event: str, values: tuple[object, ...]) -> None:
    if not _WATCH.folder:
        return
    if event == "open":
        path, mode, flags = values[0], values[1], values[2]
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if (writes or (isinstance(mode, str) and set(mode) & set("wax+"))) and isinstance(path, (str, bytes)):
            _noted(event, path)
    elif event in _WRITES:
        for path in values[: 2 if event in ("os.rename", "os.link") else 1]:
            if isinstance(path, (str, bytes)):
                _noted(event, path)
    elif event in _RUNS_CODE or event in _NETWORK:
        _WATCH.did.append(event)


def _noted(event: str, path: str | bytes) -> None:
    """Note a write that is outside the folder, links of its parent folders followed."""
    text = os.fsdecode(path)
    if text.startswith(_DEVICES):
        return
    parent, last = os.path.split(os.path.abspath(text))  # noqa: PTH100 (a hook has to be quick)
    folder, parent = _WATCH.folder, os.path.realpath(parent)
    found = os.path.realpath(os.path.join(parent, last)) if event == "open" else os.path.join(parent, last)  # noqa: PTH118
    if found != folder and not found.startswith(folder + os.sep):
        _WATCH.did.append(f"{event} outside")


@contextmanager
def _watched(folder: Path) -> Iterator[list[str]]:
    if not _WATCH.hooked:
        sys.addaudithook(_audit)
        _WATCH.hooked = True
    _WATCH.folder, _WATCH.did = str(folder), []
    try:
        yield _WATCH.did
    finally:
        _WATCH.folder = ""


def run_command(words: Sequence[str], folder: Path) -> Said:
    """Run one command through the command line's entry, in a folder, with streams like those of a pipe."""
    from merge_advisor.cli import main

    streams = sys.stdout, sys.stderr
    said = io.BytesIO(), io.BytesIO()
    out, err = (
        io.TextIOWrapper(stream, encoding="utf-8", errors=errors, write_through=True)
        for stream, errors in zip(said, ("strict", "backslashreplace"), strict=True)
    )
    sys.stdout, sys.stderr = out, err
    code: int | None = None
    raised: BaseException | None = None
    try:
        with _watched(folder) as did:
            try:
                code = main(list(words))
            except SystemExit as usage:
                code = usage.code if isinstance(usage.code, int) else 1
            except BaseException as error:
                raised = error
    finally:
        sys.stdout, sys.stderr = streams
    shown, told = (stream.getvalue().decode("utf-8", "replace") for stream in said)
    return Said(code, shown, told, raised, sorted(set(did)))


def faults_of(said: Said, codes: Collection[int]) -> list[Fault]:
    """Return the faults in what a command did that are faults of any command.

    Args:
        said: what it did.
        codes: the exit codes that an input of its kind may lead to.
    """
    if said.raised is not None:
        return [Fault(f"traceback: {_where(said.raised)}", "".join(traceback.format_exception(said.raised))[-3000:])]
    found = [Fault(f"did: {what}", what) for what in said.did]
    if said.code not in codes:
        found.append(Fault(f"exit code {said.code}", said.err[-500:] or said.out[-500:]))
    for name, text in (("stdout", said.out), ("stderr", said.err)):
        bad = sorted({char for char in text if not char.isprintable() and char != "\n"})
        if bad:
            found.append(Fault(f"control characters on {name}", f"{bad[:5]!r} in {text[:1000]!r}"))
        if "Traceback (most recent call last)" in text or "Internal error" in text:
            found.append(Fault(f"traceback in the text on {name}", text[-1500:]))
    return [*found, *_faults_of_lines(said)]


def _faults_of_lines(said: Said) -> Iterator[Fault]:
    lines = said.err.splitlines()
    errors = [line for line in lines if line.startswith(f"{PROGRAM}error: ")]
    usage = any(line.startswith("usage: ") for line in lines)
    for line in lines:
        if not line.startswith(PROGRAM) and not usage:
            yield Fault(f"a line of others on stderr: {_words(line)}", line[:1000])
        if len(line) > _LONGEST:
            yield Fault("a line that is far too long", f"{len(line)} characters: {line[:300]}")
    if len(errors) > 1:
        yield Fault("several errors", "\n".join(errors)[:1000])
    if said.code in (1, 2) and not errors and not usage and not said.out:
        yield Fault("no error line", said.err[:500])
    if errors and not _REMEDY.search(errors[0]):
        yield Fault(f"an error without a remedy: {_words(errors[0])}", errors[0][:500])


def _words(line: str) -> str:
    """The words of a line that are no one's names: what is the same for all cases of one fault."""
    words = [word for word in line.replace(PROGRAM, "").split() if word.isalpha()]
    return " ".join(words[:8])


def _where(error: BaseException) -> str:
    """The class of an error, and the innermost place of this package that it came through."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}merge_advisor{os.sep}" in frame.filename
    ]
    frames = [frame for frame in frames if f"{os.sep}site-packages{os.sep}" not in frame.filename]
    if not frames:
        return type(error).__name__
    last = frames[-1]
    return f"{type(error).__name__} at {last.filename.rpartition(f'{os.sep}merge_advisor{os.sep}')[2]}:{last.name}"
