"""The rules in use unless a user passes others: formulas, calls, and the third-party fallback."""

from __future__ import annotations

import importlib
import pkgutil

from funcgrad import rules
from funcgrad.calls import CALLS
from funcgrad.calls.third_party import FOREIGN
from funcgrad.registry import Deferred, Rules

DEFERRED = (
    Deferred("jax.experimental.sparse", ("funcgrad.rules.sparse", "funcgrad.calls.sparse")),
    Deferred("jax.experimental.multihost_utils", ("funcgrad.rules.multihost",)),
)
"""Modules of rules for what costs time to import: they wait until somebody has imported it."""

FAMILIES = tuple(
    importlib.import_module(name)
    for name in (f"funcgrad.rules.{m.name}" for m in pkgutil.iter_modules(rules.__path__))
    if not name.startswith("funcgrad.rules._") and all(name not in d.rules for d in DEFERRED)
)
"""The modules of rules, one a family of ops."""

DEFAULT = Rules.collect(*FAMILIES, *CALLS, fallback=FOREIGN, deferred=DEFERRED)
"""Every rule of the package."""
