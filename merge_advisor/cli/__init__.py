"""The command line: parse, call the public API, print. Results go to stdout, progress and errors to stderr.

Exit codes: 0 ok, 1 failed, 2 usage or bad input, 3 done but some models of the pool were set aside, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from merge_advisor.cli.options import build_parser
from merge_advisor.errors import MergeAdvisorError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the only place that turns errors into lines."""
    arguments = build_parser().parse_args(argv)
    try:
        from merge_advisor.cli import commands

        code: int = getattr(commands, f"run_{arguments.command}")(arguments)
        sys.stdout.flush()
        return code
    except MergeAdvisorError as error:
        if arguments.debug:
            raise
        print(f"merge-advisor: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if arguments.debug:
            raise
        print("merge-advisor: interrupted; all that was measured is stored, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) went away: nobody is left to tell
        return 0
    except OSError as error:
        if arguments.debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        print(f"merge-advisor: error: {where}{reason}; check the path, permissions and free space", file=sys.stderr)
        return 2
