"""Text from outside that ought to be a number."""

from __future__ import annotations

MOST_DIGITS = 15
"""Of a number that is read from text: below 2^53, so that what is written as JSON is read as the same."""


def natural_number(text: str) -> int | None:
    """Return the number that a text of decimal digits is; None of any other text, which says no more of it.

    int() alone refuses "²", which is a digit to `str.isdigit`, and more than some thousand digits; it takes "1_0", " 1"
    and "+1", which nobody means here.

    >>> natural_number("007"), natural_number("²"), natural_number("1_0"), natural_number("9" * 16)
    (7, None, None, None)

    Args:
        text: any; with more than `MOST_DIGITS` digits, zeros at the front counted, it is no number here.
    """
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None
