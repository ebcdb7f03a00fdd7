"""A document as one HTML page with plots, for a browser and for print.

The page asks for nothing: no script, no font, no picture from elsewhere, and a policy in its head that forbids them.
Whatever text stands in a document is shown as text: Jinja2 escapes it, and what a browser would act on unseen (control
characters, direction overrides) is written out before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.plain_text import printable, shortened
from merge_advisor.report.document import Document

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")
_NAME_LENGTH = 200
"""Characters of a name shown in a table, a heading or a note."""
_ROW_TEXT = 300
"""Characters of an input, an output or a target shown in the rows won and lost."""


def to_html(document: Document, *, style: str = "") -> str:
    """Return a document as one HTML page, with a final newline; the same document gives the same bytes.

    Args:
        document: see `merge_advisor.report.document`.
        style: rules for classes that `templates/style.css` does not know, e.g. those of a builder's own figures.

    >>> from merge_advisor.report.document import Facts, Heading, Headline
    >>> answer = Headline("Verdict", "none", "Not scored yet", "Run score.")
    >>> page = to_html(Document(Heading("Merge plan for ", "<b>"), answer, Facts(()), (), ()))
    >>> "<title>Merge plan for &lt;b&gt;</title>" in page
    True
    """
    styles = (_TEMPLATES / "style.css").read_text(encoding="utf-8") + style
    return _environment().get_template("page.html.j2").render(document=document, styles=styles)


def _environment() -> Environment:
    """Templates whose every expression is made printable and escaped, unless it is markup made here."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def shown(value: object) -> object:
        return value if isinstance(value, Markup) else printable(str(value))

    def lines(value: str) -> Markup:
        text = shortened(value, _ROW_TEXT)  # cut first: a row may hold a whole document
        return escape("\n".join(printable(part) for part in text.replace("\r\n", "\n").split("\n")))

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=shown,  # runs before escaping, on every expression: no template can forget it
        undefined=StrictUndefined,  # a misspelt field is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["lines"] = lines
    environment.filters["short"] = lambda value, length=_NAME_LENGTH: shortened(str(value), length)
    environment.filters["markup"] = Markup  # for SVG from `svg`, which escapes what it is given, and style sheets
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment
