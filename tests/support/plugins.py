"""Packages with one plugin, as an installer would leave them in a folder on the path."""

from __future__ import annotations

from pathlib import Path


def install_plugin(site: Path, kind: str, module: str, plugin: str, source: str) -> Path:
    """Write a package into a folder; put the folder on the path to make its plugin known.

    Args:
        site: the folder, made if it is not there.
        kind: "strategy", "composition", ...
        module: name of package, module and plugin alike.
        plugin: the class in the source.
        source: text of the module.

    Returns:
        The folder.
    """
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[merge_advisor.{kind}]\n{module} = {module}:{plugin}\n")
    (site / f"{module}.py").write_text(source)
    return site
