"""Every rule of the package, one module a family; this order is the reading order."""

from __future__ import annotations

import importlib
import pkgutil

from funcgrad.fallback import FOREIGN
from funcgrad.registry import Rules

DEFAULT = Rules.collect(
    *(importlib.import_module(f"funcgrad.rules.{m.name}") for m in pkgutil.iter_modules(__path__)),
    fallback=FOREIGN,
)
"""Every rule of the package."""
