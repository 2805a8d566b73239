"""Run by Python when it starts with this folder on its path: funcgrad's gradients, once jax is there."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


class AfterImport:
    """A finder that finds nothing itself, and acts when jax or funcgrad has been imported.

    funcgrad imports jax: if that is what imports it, it is waited for.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in ("jax", "funcgrad"):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                imported(name)

            loader.exec_module = exec_module
        return spec


def imported(name: str) -> None:
    """jax, or funcgrad, has been imported."""
    try:
        if name == "funcgrad":
            importlib.import_module("funcgrad.startup").begin()
        elif "funcgrad" not in sys.modules:
            importlib.import_module("funcgrad")  # which leads here again
    except ImportError:  # another Python, without it: jax.grad stays JAX's, which is counted
        with open(os.environ["FUNCGRAD_COUNTS"], "ab", buffering=0) as file:
            file.write(b"x")


def run_the_next() -> None:
    """Run the sitecustomize that this one stands before, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec(
        "sitecustomize", [p for p in sys.path if os.path.abspath(p) != here]
    )
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if "FUNCGRAD_COUNTS" in os.environ:
    sys.meta_path.insert(0, AfterImport())  # type: ignore[arg-type]
run_the_next()
