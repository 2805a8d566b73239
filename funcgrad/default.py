"""The rules in use unless a user passes others: formulas, calls, and the third-party fallback."""

from __future__ import annotations

import importlib
import pkgutil

from funcgrad import rules
from funcgrad.calls import CALLS
from funcgrad.calls.third_party import FOREIGN
from funcgrad.registry import Rules

FAMILIES = tuple(
    importlib.import_module(f"funcgrad.rules.{m.name}")
    for m in pkgutil.iter_modules(rules.__path__)
    if not m.name.startswith("_")
)
"""The modules of rules, one a family of ops."""

DEFAULT = Rules.collect(*FAMILIES, *CALLS, fallback=FOREIGN)
"""Every rule of the package."""
