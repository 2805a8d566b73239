"""``python -m funcgrad``: versions, devices, and where the documentation is."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from pathlib import Path

import jax

import funcgrad


def devices() -> str:
    """The devices by kind: ``2 cpu``."""
    counts = Counter(device.platform for device in jax.devices())
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def documentation(root: Path) -> str:
    """Where the documentation is: the built site or the pages of a checkout at `root`, or a web page."""
    for page in (root / "docs" / "_build" / "index.html", root / "docs" / "index.md"):
        if page.is_file():
            return str(page)
    urls = importlib.metadata.metadata("funcgrad").get_all("Project-URL") or []
    pages = dict(url.split(", ", 1) for url in urls)
    return pages.get("Documentation", "help(funcgrad) in Python")


def report() -> str:
    """What is said, a line each."""
    jaxlib = importlib.metadata.version("jaxlib")
    lines = {
        "funcgrad": f"{funcgrad.__version__}, rules of {len(funcgrad.DEFAULT)} operations",
        "JAX": f"{jax.__version__}, jaxlib {jaxlib}, Python {platform.python_version()}",
        "devices": devices(),
        "documentation": documentation(Path(funcgrad.__file__).parents[1]),
        "commands": "python -m funcgrad.inspect --help, python -m funcgrad.testing.fuzz --help",
    }
    return "\n".join(f"{name + ':':<15} {text}" for name, text in lines.items())


if __name__ == "__main__":
    print(report())
