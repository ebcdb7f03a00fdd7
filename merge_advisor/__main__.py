"""`python -m merge_advisor`, and the command `merge-advisor`."""

import signal
import sys


def entry() -> int:
    """Return the exit code of the command line, which may be interrupted while it is still being imported.

    >>> callable(entry)
    True
    """
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of `merge_advisor.__init__`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        from merge_advisor.cli import main

        return main()
    except KeyboardInterrupt:
        print("merge-advisor: interrupted", file=sys.stderr)  # noqa: T201
        return 130


if __name__ == "__main__":
    sys.exit(entry())
