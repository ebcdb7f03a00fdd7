"""Rules of the code read off its syntax: what docstrings say, how many parameters functions take, public names.

Nothing is imported: a file is parsed, and every breach comes back as a line that names the place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

MOST_PARAMETERS = 8
RESULT_FIRST = re.compile(r"(Return|Yield|Tell|Say|Count|Make|Build|Give)\b")
"""First words of a docstring that say what comes back, so that a Returns section would repeat it."""
OF_A_PROTOCOL = re.compile(r"See `")
"""First words of an implementation whose protocol method is documented."""


def module_level_names(path: Path) -> list[str]:
    """The public names that a file defines itself: classes, functions, constants, aliases; not what it imports."""
    names: list[str] = []
    for node in ast.parse(path.read_text()).body:
        inside = [*node.body, *node.orelse] if isinstance(node, ast.If) else [node]
        for part in inside:
            if isinstance(part, ast.FunctionDef | ast.ClassDef):
                names.append(part.name)
            elif isinstance(part, ast.Assign):
                names.extend(target.id for target in part.targets if isinstance(target, ast.Name))
            elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                names.append(part.target.id)
    return sorted({name for name in names if not name.startswith("_") and name != "main"})


def docstring_breaches(path: Path) -> list[str]:
    """Public functions without Args, Returns or Raises where they apply, public classes without an example."""
    breaches = []
    for node, owner in public_definitions(ast.parse(path.read_text())):
        doc = ast.get_docstring(node) or ""
        name = f"{path.name}:{node.lineno} {owner}{node.name}"
        if isinstance(node, ast.ClassDef):
            if ">>>" not in doc:
                breaches.append(f"{name}: no example (>>>)")
        elif not OF_A_PROTOCOL.match(doc):
            breaches.extend(f"{name}: {breach}" for breach in section_breaches(node, doc, method=bool(owner)))
    return breaches


def public_definitions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.ClassDef, str]]:
    """Yield public functions, classes and methods, each with the name of its class and a dot before it."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node, ""
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and not is_attribute(part):
                    yield part, f"{node.name}."


def is_attribute(function: ast.FunctionDef) -> bool:
    """True for properties, which one line describes, and for overloads, which the implementation describes."""
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    return any(name in ("property", "cached_property", "overload") or name.endswith(".setter") for name in decorators)


def section_breaches(function: ast.FunctionDef, doc: str, method: bool) -> Iterator[str]:
    """Yield what the sections of a docstring lack; a method's only parameter is left to its first line."""
    names = parameters(function)
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", doc + "\n", re.MULTILINE)
    if section:
        missing = [name for name in names if not re.search(rf"^    \**{name}(?: \([^)]*\))?:", section[1], re.M)]
        if missing:
            yield f"Args lacks {', '.join(missing)}"
    elif len(names) > method:
        yield f"no Args section ({', '.join(names)})"
    gives = function.returns is not None and ast.unparse(function.returns) not in ("None", "NoReturn")
    if gives and not re.search(r"^(Returns|Yields):", doc, re.MULTILINE) and not RESULT_FIRST.match(doc):
        yield "neither a Returns section nor a first line that begins with Return or Yield"
    errors = raised(function)
    if errors and not re.search(r"^Raises:", doc, re.MULTILINE):
        yield f"raises {', '.join(errors)} without a Raises section"


def parameters(function: ast.FunctionDef) -> list[str]:
    """The names of all parameters, without self and cls."""
    spec = function.args
    stars = [star for star in (spec.vararg, spec.kwarg) if star]
    names = [part.arg for part in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *stars)]
    return [name for name in names if name not in ("self", "cls")]


def raised(function: ast.FunctionDef) -> list[str]:
    """The exceptions that a function raises itself, by name; a bare `raise` passes on what another raised."""
    errors = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(error, ast.Name) and error.id[0].isupper():
                errors.add(error.id)
    return sorted(errors)


def parameter_breaches(path: Path) -> list[str]:
    """Functions of more than eight parameters that give no reason, public ones that take `**anything: Any`."""
    breaches = []
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and len(parameters(node)) > MOST_PARAMETERS:
            doc = " ".join((ast.get_docstring(node) or "").split())
            if "more than eight parameters because" not in doc:
                breaches.append(
                    f"{path.name}:{node.lineno} {node.name}: {len(parameters(node))} parameters;"
                    ' its docstring must say "Takes more than eight parameters because ..."'
                )
    for node, owner in public_definitions(tree):
        rest = node.args.kwarg if isinstance(node, ast.FunctionDef) else None
        if rest and (rest.annotation is None or ast.unparse(rest.annotation) == "Any"):
            breaches.append(f"{path.name}:{node.lineno} {owner}{node.name}: **{rest.arg} says nothing; use Unpack")
    return breaches
