"""Cases in forked processes, so that a hang, a crash or much memory is one fault more and not the end."""

from __future__ import annotations

import base64
import dataclasses
import faulthandler
import functools
import gc
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.checks import Case
from tests.fuzz.oracle import Fault, Said, faults_of, run_command
from tests.fuzz.targets import TARGETS, make_case, placed, with_file
from tests.fuzz.world import KEPT, Place, without_children

SECONDS = 10
"""Of CPU time that the cases of one command may take together."""
WALL = 300
"""Of time, where nothing is computed."""
MORE_MEMORY = 1 << 30
"""Bytes that one command may take more than was taken before."""
_TRIES = 250


@dataclass
class Found:
    """A fault with the first case that had it."""

    fault: Fault
    case: Case


@dataclass
class Outcome:
    """What came of some cases."""

    cases: int = 0
    commands: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    """How many cases had a kind of fault."""
    found: dict[str, Found] = field(default_factory=dict)


def warm(loads: bool) -> None:
    """Import what commands import, once for all processes that are forked."""
    import merge_advisor.advisor.planning.dry_run
    import merge_advisor.benchmark.running.dry_run
    import merge_advisor.cli.commands
    import merge_advisor.cli.parser
    import merge_advisor.pool

    if loads:
        import optuna
        import torch
        import transformers

        torch.set_num_threads(1)
        del optuna, transformers
    parser = merge_advisor.cli.parser
    build = functools.cache(parser.build_parser)
    # made once for all commands of a kind: it takes longer than most inputs
    parser.build_parser = lambda wanted=(): build(tuple(wanted))


class Fuzzer:
    """Runs cases at a place of its own.

    Args:
        world: of `make_world`.
        scratch: a folder for the place.
    """

    def __init__(self, world: Path, scratch: Path) -> None:
        self.world, self.scratch = world.resolve(), scratch.resolve()
        self._mark = mmap.mmap(-1, 16)

    def practise(self) -> None:
        """Run what is right of every target in this process: what it imports and remembers, no fork does again."""
        place = self._place()
        for target in TARGETS:
            case = make_case(target, 0, 0, self.world)
            right = {name: (self.world / name).read_bytes() for name in case.files if (self.world / name).is_file()}
            if right:
                self.run_here(place, target, [dataclasses.replace(case, files={**case.files, **right})])
        gc.collect()
        gc.freeze()  # else the first collection of every fork would copy all that was imported

    def _place(self) -> Place:
        """A folder for the cases of this process, which is all that it takes for its own."""
        place = Place(self.scratch / "place", self.world)
        os.environ |= {
            "MERGE_ADVISOR_CACHE": str(place.folder / KEPT),
            "HOME": str(place.folder),
            "TMPDIR": str(place.folder / "tmp"),
        }
        tempfile.tempdir = str(place.folder / "tmp")
        return place

    def numbers(self, target: str, seed: int, numbers: range) -> Outcome:
        """Run the cases of these numbers, each a function of target, seed and number."""
        return self.cases(
            target, [functools.partial(make_case, target, seed, number, self.world) for number in numbers]
        )

    def cases(self, target: str, make: Sequence[Callable[[], Case]]) -> Outcome:
        """Run cases, some together where the target has it so, in as many processes as it takes."""
        size = TARGETS[target].together
        groups = [make[at : at + size] for at in range(0, len(make), size)]
        total, at = Outcome(), 0
        while at < len(groups):
            at += self._one_process(target, groups[at:], total)
        return total

    def _one_process(self, target: str, groups: Sequence[Sequence[Callable[[], Case]]], total: Outcome) -> int:
        """Run groups until one ends the process; returns how many were run."""
        self._mark[:16] = struct.pack("qq", -1, 0)
        self.scratch.mkdir(parents=True, exist_ok=True)
        report, stack = self.scratch / "report.jsonl", self.scratch / "stack"
        report.write_text("")
        stack.write_text("")
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _in_child(self, target, groups, report, stack)
        _, status = os.waitpid(child, 0)
        for line in report.read_text().splitlines():
            _add(total, json.loads(line))
        at = int(struct.unpack("qq", self._mark[:16])[0])
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) == 0:
            return at + 1
        place = _innermost(stack.read_text())
        ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        kind = f"hang {place}" if ended in ("SIGPROF", "SIGALRM") else f"died of {ended} {place}"
        group = [make() for make in groups[max(at, 0)]]
        if len(group) > 1:  # one of them: each alone
            before = sum(total.faults.values())
            for case in group:
                self._one_process(target, [[functools.partial(_itself, case)]], total)
            if sum(total.faults.values()) == before:
                _count(total, group[:1], [Fault(f"{kind}, together", stack.read_text()[-2000:])])
        else:
            fault = Fault(kind, stack.read_text()[-2000:])
            _count(total, [group[0]], [fault])
            total.cases += 1
            total.commands += 1
        return max(at, 0) + 1

    def case(self, case: Case) -> Outcome:
        """Run one case."""
        return self.cases(case.target, [lambda: case])

    def faults(self, case: Case) -> list[str]:
        """The kinds of fault that a case has."""
        return list(self.case(case).faults)

    def run_here(self, place: Place, target: str, cases: Sequence[Case]) -> tuple[Said, list[Fault]]:
        """Run one command in this process; returns what it did and its faults."""
        kind = TARGETS[target]
        place.clear()
        files: dict[str, bytes] = {}
        for number, case in enumerate(cases):
            files |= placed(case, number)
        place.put(files, kind.copied)
        os.chdir(place.folder)
        with without_children():
            said = run_command(cases[0].words, place.folder)
        faults = faults_of(said, kind.codes)
        if not faults and kind.check is not None:
            faults = kind.check(self.world, place.folder, cases, said)
        if kind.kept:
            changed = [name for name, data in files.items() if _content(place.folder / name) != data]
            faults += [Fault("input changed", name) for name in changed[:1]]
        return said, faults

    def smallest(self, case: Case, kind: str) -> Case:
        """The case with as little in its files as still has the fault."""
        tries = _TRIES
        for name in sorted(case.files):
            data, size = case.files[name], max(1, len(case.files[name]) // 2)
            while size and tries > 0:
                at, shrunk = 0, False
                while at < len(data) and tries > 0:
                    less = with_file(case, name, data[:at] + data[at + size :])
                    tries -= 1
                    if kind in self.faults(less):
                        case, data, shrunk = less, less.files[name], True
                    else:
                        at += size
                size = size if shrunk and size < len(data) else size // 2
        return case


def _itself(case: Case) -> Case:
    return case


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _in_child(
    fuzzer: Fuzzer, target: str, groups: Sequence[Sequence[Callable[[], Case]]], report: Path, stack: Path
) -> None:
    """Run groups and end the process; what a group comes to is written as soon as it is done."""
    code = 1
    try:
        log = stack.open("w")
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
            faulthandler.register(number, log, all_threads=False, chain=True)
        faulthandler.enable(log, all_threads=False)
        said = os.open(fuzzer.scratch / "said", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        place = fuzzer._place()
        used = _data_bytes()
        resource.setrlimit(resource.RLIMIT_DATA, (used + 2 * MORE_MEMORY, resource.RLIM_INFINITY))
        with report.open("a") as lines:
            for at, group in enumerate(groups):
                fuzzer._mark[:16] = struct.pack("qq", at, 0)
                cases = [make() for make in group]
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                signal.setitimer(signal.ITIMER_REAL, WALL)
                one, faults = fuzzer.run_here(place, target, cases)
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
                more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
                if more > MORE_MEMORY:
                    faults.append(Fault("memory", f"{more >> 20} MiB more"))
                faults += _said_past_the_streams(said)
                if faults and len(cases) > 1:
                    alone = [fuzzer.run_here(place, target, [case])[1] for case in cases]
                    blamed = [pair for pair in zip(cases, alone, strict=True) if pair[1]] or [(cases[0], faults)]
                else:
                    blamed = [(cases[0], faults)] if faults else []
                lines.write(json.dumps(_told(len(cases), one, blamed)) + "\n")
                lines.flush()
                if more > MORE_MEMORY // 4:  # else what it took would hide what the next one takes
                    break
        code = 0
    except BaseException:
        import traceback

        (fuzzer.scratch / "broken").write_text(traceback.format_exc())
        stack.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _said_past_the_streams(said: int) -> list[Fault]:
    """What was written to the descriptors themselves."""
    size = os.fstat(said).st_size
    if not size:
        return []
    text = os.pread(said, 4000, 0).decode("utf-8", "replace")
    os.ftruncate(said, 0)
    return [Fault(f"a line of others past the streams: {' '.join(text.split()[:6])}", text)]


def _data_bytes() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmData"))


def _innermost(stack: str) -> str:
    """The first place of this package in a stack that faulthandler wrote, the innermost first."""
    for line in stack.splitlines():
        if f"{os.sep}merge_advisor{os.sep}" in line and "site-packages" not in line:
            path, _, rest = line.partition('", line')
            return f"at {path.rpartition(f'{os.sep}merge_advisor{os.sep}')[2]}:{rest.rpartition(' in ')[2]}"
    return ""


def _told(cases: int, said: Said, blamed: Sequence[tuple[Case, Sequence[Fault]]]) -> dict[str, Any]:
    return {
        "cases": cases, "code": str(said.code),
        "faults": [[to_plain_case(case), [[fault.kind, fault.seen] for fault in faults]] for case, faults in blamed],
    }  # fmt: skip


def _add(total: Outcome, told: dict[str, Any]) -> None:
    total.cases += told["cases"]
    total.commands += 1
    total.codes[told["code"]] = total.codes.get(told["code"], 0) + 1
    for case, faults in told["faults"]:
        _count(total, [from_plain_case(case)], [Fault(*fault) for fault in faults])


def _count(total: Outcome, cases: Sequence[Case], faults: Sequence[Fault]) -> None:
    for case in cases:
        for fault in {fault.kind: fault for fault in faults}.values():
            total.faults[fault.kind] = total.faults.get(fault.kind, 0) + 1
            total.found.setdefault(fault.kind, Found(fault, case))


def to_plain_case(case: Case) -> dict[str, Any]:
    """A case as JSON has it: bytes as text where they are ASCII, else as base64."""
    files = {}
    for name, data in case.files.items():
        plain = data.isascii() and all(byte >= 32 or byte in (9, 10) for byte in data)
        files[name] = {"text": data.decode()} if plain else {"base64": base64.b64encode(data).decode()}
    return {"target": case.target, "files": files, "words": list(case.words), "about": dict(case.about)}


def from_plain_case(plain: dict[str, Any]) -> Case:
    """What `to_plain_case` gave."""
    files = {
        name: data["text"].encode() if "text" in data else base64.b64decode(data["base64"]) for name,
        data in plain["files"].items()
    }  # fmt: skip
    return Case(plain["target"], files, tuple(plain["words"]), plain["about"])


def read_case(path: Path) -> Case:
    """A case of the corpus."""
    return from_plain_case(json.loads(path.read_text()))


def write_case(path: Path, case: Case, fault: Fault) -> None:
    """Keep a case, and what was seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({**to_plain_case(case), "fault": fault.kind, "seen": fault.seen[-1500:]}, indent=1, sort_keys=True)
        + "\n"
    )


def corpus(folder: Path) -> Iterator[Path]:
    """The cases in a folder."""
    yield from sorted(folder.glob("*.json"))


def removed(folder: Path) -> None:
    """Take a folder away."""
    shutil.rmtree(folder, ignore_errors=True)
