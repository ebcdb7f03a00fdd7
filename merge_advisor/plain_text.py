"""Text from anywhere made safe to show: on one line, without control characters, no longer than there is room."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text on one line, with everything that a terminal or a browser acts on written as an escape.

    Args:
        text: any text, e.g. the name of a model that someone else published.

    >>> printable("two\nlines, \x1b[31mred")
    'two\\nlines, \\x1b[31mred'
    """
    # most names are, and a pool of 128 adapters has 20,000 of tensors
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    r"""Return a text of several lines, each as `printable` has it.

    >>> printable_lines("two\nlines, \x1b[31mred")
    'two\nlines, \\x1b[31mred'

    Args:
        text: any text.
    """
    return "\n".join(printable(line) for line in text.split("\n"))


def short_name(name: str) -> str:
    r"""Return a name from any file as it stands in a message: on one line, 80 characters at most.

    Args:
        name: any text, e.g. a key of a weight file.

    >>> short_name("two\nlines" + "!" * 100) == r"two\nlines" + "!" * 70
    True
    """
    return printable(name)[:80]


def without_middle(text: str, length: int) -> str:
    """Return a text without its middle where it is longer: a message begins with its place and ends with its remedy.

    >>> without_middle("abcdefghij", 5)
    'ab … ij'

    Args:
        text: any text.
        length: number of characters to keep, about.
    """
    return text if len(text) <= length else f"{text[: length // 2]} … {text[-(length // 2) :]}"


def shortened(text: str, length: int) -> str:
    """Return the beginning of a text, the last character "…" where something was cut off.

    Args:
        text: any text.
        length: number of characters to keep, the "…" included.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= length else text[: length - 1] + "…"
