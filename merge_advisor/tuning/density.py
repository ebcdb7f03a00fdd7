"""The density in a composition's spec, which is searched as a number of its own."""

from __future__ import annotations

import dataclasses

from merge_advisor import registry


def has_density(spec: str) -> bool:
    """Return whether the composition has a parameter `density`.

    >>> has_density("ties"), has_density("exact")
    (True, False)

    Args:
        spec: of a composition.

    Raises:
        SpecError: there is no such composition.
    """
    cls = registry.load("composition", spec.partition(":")[0].strip())
    return any(field.name == "density" for field in dataclasses.fields(cls))


def density_of(spec: str) -> float | None:
    """Return the density a spec stands for, its default included; None where it has none.

    >>> density_of("ties:density=0.4")
    0.4

    Args:
        spec: of a composition.

    Raises:
        SpecError: the spec names no composition, or a parameter it does not have.
    """
    return float(registry.build("composition", spec).density) if has_density(spec) else None


def with_density(spec: str, density: float) -> str:
    """Return the spec with that density.

    >>> with_density("ties", 0.4)
    'ties:density=0.4'

    Args:
        spec: of a composition that has a density.
        density: share of the entries kept.
    """
    bare = without_density(spec)
    return f"{bare}{',' if ':' in bare else ':'}density={float(density)!r}"


def without_density(spec: str) -> str:
    """Return the spec without its density.

    >>> without_density("ties:density=0.4,sign=count")
    'ties:sign=count'

    Args:
        spec: of a composition.
    """
    name, _, tail = spec.partition(":")
    pieces = [piece.strip() for piece in tail.split(",") if piece.strip()]
    kept = [piece for piece in pieces if piece.partition("=")[0].strip() != "density"]
    return ":".join([name.strip(), *([",".join(kept)] if kept else [])])


def split_density(spec: str) -> tuple[str, float | None]:
    """Return the spec of a composition without its density, and the density.

    >>> split_density("ties:density=0.4")
    ('ties', 0.4)

    Args:
        spec: of a composition; without a density the second value is None.
    """
    pairs = (part.partition("=") for part in spec.partition(":")[2].split(","))
    density = next((value for key, _, value in pairs if key.strip() == "density"), None)
    return without_density(spec), None if density is None else float(density)
