"""The types that pass between the engine's files, by name."""

from __future__ import annotations

from typing import Any, TypeAlias

from jax.extend.core import JaxprEqn, Literal
from jax.extend.core import Var as Var

Atom: TypeAlias = Var | Literal
"""An operand or a result in a jaxpr: a variable, or a number."""

Equation: TypeAlias = JaxprEqn
"""One operation of a jaxpr."""

Aval: TypeAlias = Any
"""The type of a value: shape, dtype and the mesh axes over which it varies."""

Value: TypeAlias = Any
"""An array or a scalar, concrete or traced."""

Cotangent: TypeAlias = Any
"""A value, or None where no cotangent arrived."""

Mask: TypeAlias = tuple[bool, ...]
"""For each place of a sequence, whether the place is meant."""

Positions: TypeAlias = tuple[int, ...]
"""The places of a sequence that are meant, by number."""

Slot: TypeAlias = int
"""The place of one differentiated value on a tape."""
