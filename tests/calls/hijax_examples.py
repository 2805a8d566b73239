"""Primitives and types of ``jax.experimental.hijax`` for tests: written once for all versions of JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.experimental import hijax

Primitive: Any = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive
"""The base class, which has another name from JAX 0.12."""


class Unary(Primitive):
    """The sine. The derivatives are wrong by a factor, so that using the sine's own shows."""

    def __init__(self, aval: Any):
        self.in_avals = (aval,)
        self.out_aval = aval
        self.params = {}
        super().__init__()

    def expand(self, x: Any) -> Any:
        return jnp.sin(x)

    def batch(self, axis: Any, args: Any, dims: Any) -> Any:
        return type(self)(jax.typeof(args[0]))(*args), dims[0]


class ByVjp(Unary):
    """Ten times the derivative, by ``vjp_fwd`` and ``vjp_bwd_retval``."""

    def vjp_fwd(self, nonzero: Any, x: Any) -> Any:
        return self(x), x

    def vjp_bwd_retval(self, x: Any, ct: Any) -> Any:
        return (10 * ct * jnp.cos(x),)


class ByAccumulator(Unary):
    """The same, by ``vjp_bwd``, which adds in two steps."""

    def vjp_fwd(self, nonzero: Any, x: Any) -> Any:
        return self(x), {"x": x, "none": None}

    def vjp_bwd(self, kept: Any, ct: Any, ct_x: Any) -> None:
        ct_x.accum(4 * ct * jnp.cos(kept["x"]))
        ct_x.accum(6 * ct * jnp.cos(kept["x"]))


class ByJvp(Unary):
    """The same, by ``jvp`` alone."""

    def jvp(self, primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        return self(x), 10 * t * jnp.cos(x)


class ByLin(Unary):
    """The same, by ``lin`` and ``linearized`` alone."""

    def lin(self, nonzero: Any, x: Any) -> Any:
        return self(x), jnp.cos(x)

    def linearized(self, slope: Any, t: Any) -> Any:
        return 10 * t * slope


class WithoutRule(Unary):
    """No rule, although its operations could be differentiated."""


KINDS = {kind.__name__: kind for kind in (ByVjp, ByAccumulator, ByJvp, ByLin)}


def apply(kind: Any) -> Any:
    """A function of one array that binds a primitive of this kind."""
    return lambda x: kind(jax.typeof(x))(x)


class Product(Primitive):
    """x * y with 10 y and 100 x for derivatives; it says which operands were differentiated."""

    asked: ClassVar[list[Any]] = []

    def __init__(self, x: Any, y: Any):
        self.in_avals = (x, y)
        self.out_aval = {"product": x, "zero": x}
        self.params = {}
        super().__init__()

    def expand(self, x: Any, y: Any) -> Any:
        return {"product": x * y, "zero": x * 0}

    def vjp_fwd(self, nonzero: Any, x: Any, y: Any) -> Any:
        self.asked.append(tuple(nonzero))
        return self(x, y), (x, y), {"product": True, "zero": False}

    def vjp_bwd(self, kept: Any, ct: Any, ct_x: Any, ct_y: Any) -> None:
        x, y = kept
        ct_x.accum(10 * ct["product"] * y)
        ct_y.accum(100 * ct["product"] * x)


def product(x: Any, y: Any) -> Any:
    return Product(jax.typeof(x), jax.typeof(y))(x, y)["product"]


# --- a type of its own: a pair of an array and a scale, whose tangents are pairs too


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


@dataclass(frozen=True)
class PairType(hijax.HiType):
    part: Any

    def __hash__(self) -> int:
        return hash(self.part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PairType) and self.part == other.part

    def str_short(self, short_dtypes: bool = False, **_: Any) -> str:
        return f"Pair[{self.part.str_short()}]"

    def lo_ty(self) -> Any:
        return [self.part, self.part]

    def lower_val(self, hi_val: Any) -> Any:
        return [hi_val.left, hi_val.right]

    def raise_val(self, *lo_vals: Any) -> Any:
        return Pair(*lo_vals)

    def to_tangent_aval(self) -> Any:
        return PairType(self.part.to_tangent_aval())

    def vspace_zero(self) -> Any:
        return pair(*(jnp.zeros(self.part.shape, self.part.dtype),) * 2)

    def vspace_add(self, x: Any, y: Any) -> Any:
        return pair(left(x) + left(y), right(x) + right(y))


hijax.register_hitype(Pair, lambda x: PairType(jax.typeof(x.left)))


class MakePair(Primitive):
    """(x, y) -> a pair; the cotangent of y is tripled."""

    def __init__(self, part: Any):
        self.in_avals = (part, part)
        self.out_aval = PairType(part)
        self.params = {}
        super().__init__()

    def expand(self, x: Any, y: Any) -> Any:
        return Pair(x, y)

    def vjp_fwd(self, nonzero: Any, x: Any, y: Any) -> Any:
        return self(x, y), None

    def vjp_bwd_retval(self, _: Any, ct: Any) -> Any:
        return left(ct), 3 * right(ct)


class Side(Primitive):
    """The first or the second of a pair."""

    def __init__(self, aval: Any, side: int):
        self.in_avals = (aval,)
        self.out_aval = aval.part
        self.params = {"side": side}
        super().__init__()

    def expand(self, x: Any) -> Any:
        return (x.left, x.right)[self.side]

    def vjp_fwd(self, nonzero: Any, x: Any) -> Any:
        return self(x), x

    def vjp_bwd_retval(self, x: Any, ct: Any) -> Any:
        nothing = jnp.zeros_like(ct)
        return (pair(nothing, ct) if self.side else pair(ct, nothing),)


def pair(x: Any, y: Any) -> Any:
    return MakePair(jax.typeof(x))(x, y)


def left(x: Any) -> Any:
    return Side(jax.typeof(x), 0)(x)


def right(x: Any) -> Any:
    return Side(jax.typeof(x), 1)(x)
