"""Every way of writing a file or folder whole, disturbed at every point that it passes: `walk` says what went wrong.

python tests/support/file_walk.py FOLDER     # prints the kinds of points passed, and what went wrong, as JSON
"""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from merge_advisor import whole_files, write_points
from merge_advisor.errors import RunError

FAULTS = ("kill", "ENOSPC", "EIO")


def write(writer: str, place: Path, text: str) -> None:
    """Write a text to a place, by one of the ways there are."""
    if writer == "write_text":
        whole_files.write_text(place, text)
    elif writer == "discard":
        whole_files.discard(place)
    elif writer == "scratch_folder":
        with whole_files.scratch_folder(place) as folder:
            (folder / "b").write_text(text)
        whole_files.write_text(place, text)
    else:
        if writer == "plain":
            whole_files._exchanged = lambda one, other: False
        kind = whole_files.whole_folder if writer == "whole_folder" else whole_files.replaced_folder
        with kind(place) as partial:
            (partial / "b").write_text(text)


def read(place: Path) -> str:
    """What stands in the file or folder; "" where there is none."""
    whole_files.restore(place)
    if not place.exists():
        return ""
    return (place / "b" if place.is_dir() else place).read_text()


def apart(work: Callable[[], object]) -> int:
    """Run something in a process of its own; the code of a killed one is -9, of an error that is one line 2."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except RunError as error:
            os._exit(2 if any(os.strerror(number) in str(error) for number in (errno.EIO, errno.ENOSPC)) else 1)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def walk(root: Path) -> tuple[set[str], list[str]]:
    """The kinds of points that were passed, and what went wrong."""
    kinds: set[str] = set()
    wrong = []
    for writer in ("write_text", "whole_folder", "replaced_folder", "plain", "discard", "scratch_folder"):
        os.environ[write_points.FAIL_AT] = ""
        write_points.passed.clear()
        before = "" if writer == "whole_folder" else "old"
        prepare(writer, root / writer / "counted", before)
        write(writer, root / writer / "counted" / "place", "new")
        points = [kind for kind in write_points.passed if kind in write_points.POINTS]
        kinds |= set(points)
        del os.environ[write_points.FAIL_AT]
        for number, (point, fault) in enumerate((point, fault) for point in points for fault in FAULTS):
            folder = root / writer / str(number)
            prepare(writer, folder, before)
            place = folder / "place"
            wanted = "" if writer == "discard" else "new"

            def disturbed(asked: str = f"{point}={fault}", place: Path = place, writer: str = writer) -> None:
                write_points.passed.clear()
                os.environ[write_points.FAIL_AT] = asked
                write(writer, place, "new")

            code = apart(disturbed)
            if code not in ((-9,) if fault == "kill" else (2,)):
                wrong.append(f"{writer} {point}={fault}: ended with {code}")
            os.environ[write_points.FAIL_AT] = ""
            write_points.passed.clear()
            found = read(place)
            if found not in (before, wanted):
                wrong.append(f"{writer} {point}={fault}: holds {found!r}")
            left = [path.name for path in folder.iterdir() if path.name != "place"]
            if left and fault != "kill":
                wrong.append(f"{writer} {point}={fault}: left {left}")
            if not (writer == "whole_folder" and found):
                write(writer, place, "new")
            elif left:
                whole_files.remove_leftovers(folder)
            kinds |= write_points.passed.keys() & write_points.POINTS.keys()
            del os.environ[write_points.FAIL_AT]
            left = [path.name for path in folder.iterdir() if path.name != "place"]
            if read(place) != wanted or left:
                wrong.append(f"{writer} {point}={fault}: again gives {read(place)!r}, leaves {left}")
    return kinds, wrong


def prepare(writer: str, folder: Path, before: str) -> None:
    """Make the folder, and in it what is there before."""
    folder.mkdir(parents=True)
    if before and writer in ("replaced_folder", "plain", "discard"):
        (folder / "place").mkdir()
        (folder / "place" / "b").write_text(before)
    elif before:
        (folder / "place").write_text(before)


if __name__ == "__main__":
    passed, problems = walk(Path(sys.argv[1]))
    sys.stdout.write(json.dumps({"kinds": sorted(passed), "wrong": problems}))
