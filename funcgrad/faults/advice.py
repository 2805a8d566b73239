"""What helps against a NaN or an infinity whose cause is a known one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class Facts:
    """What is known of an op that made a NaN or an infinity.

    Attributes:
      op: the primitive.
      pulls_back: the op whose derivative it computes; None on the way forward.
      kind: ``nan`` or ``inf``.
      dtype: of its result.
      there: the operands' elements at the bad element, None where that is not known.
      became_nan: whether an infinity became a NaN later on.
      constant: whether it reads a number in the program that is not finite.
    """

    op: str
    pulls_back: str | None
    kind: str
    dtype: str
    there: tuple[Any, ...]
    became_nan: bool = False
    constant: bool = False

    @property
    def zero(self) -> bool:
        """Whether an operand's element is zero there."""
        return any(x == 0 for x in self.there if x is not None)

    @property
    def infinite(self) -> bool:
        """Whether an operand's element is infinite there."""
        return any(_is_infinite(x) for x in self.there)

    def below(self, position: int, bound: float) -> bool:
        """Whether an operand's element is less than a bound there."""
        if position >= len(self.there):
            return False
        x = self.there[position]
        return isinstance(x, (int, float)) and x < bound


def _is_infinite(x: Any) -> bool:
    return isinstance(x, (int, float)) and math.isinf(x)


def advice(facts: Facts) -> str | None:
    """What helps, in a sentence or two; None where the cause is not a known one."""
    if facts.constant:
        return None
    said = []
    if facts.pulls_back is not None:
        said = [text for holds, text in BACKWARD if holds(facts)][:1]
        at_a_pole = bool(said) or facts.became_nan
        said = said or _forward(facts)
        said += [MASKED] * facts.became_nan + [KINKS] * at_a_pole
    else:
        said = _forward(facts)
    return " ".join(said) or None


def _forward(facts: Facts) -> list[str]:
    found = [text for holds, text in FORWARD if holds(facts)][:1]
    return [text.format(dtype=facts.dtype, greatest=_greatest(facts.dtype)) for text in found]


def _greatest(dtype: str) -> str:
    try:
        return f"{float(jnp.finfo(dtype).max):.4g}"
    except ValueError:
        return "its greatest number"


MASKED = (
    "Where jnp.where does not take a value, its cotangent is 0, and 0 times an infinite derivative is "
    "nan. Put jnp.where around the operand too: f(jnp.where(ok, x, 1.0)), and mask the result as before."
)
KINKS = 'Without editing the function: rules=funcgrad.kinks("zero") makes such a cotangent 0.'
ALL_MASKED = (
    "The difference of two infinities is nan, as in a softmax of which every entry is masked with -inf. "
    "Mask with a large finite number such as -1e9, or keep one entry of each row."
)
ROOT = (
    "The derivative of sqrt at 0 is infinite, and so is that of a norm. Add a small number under the "
    "root, or put jnp.where around the operand: jnp.sqrt(jnp.where(x > 0, x, 1.0)), and mask the result."
)

SMALL = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float8_e3m4")
LOGS = ("log", "log1p", "log2")


def _op(*names: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.op in names


def _of(*names: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.pulls_back in names


def _both(*tests: Callable[[Facts], bool]) -> Callable[[Facts], bool]:
    return lambda facts: all(test(facts) for test in tests)


def _log_of_zero(facts: Facts) -> bool:
    return facts.op in LOGS and bool(facts.there) and facts.there[0] == _least(facts)


def _log_of_negative(facts: Facts) -> bool:
    return facts.op in LOGS and facts.below(0, _least(facts))


def _least(facts: Facts) -> float:
    return -1.0 if facts.op == "log1p" else 0.0


def _zero(position: int) -> Callable[[Facts], bool]:
    return lambda facts: len(facts.there) > position and facts.there[position] == 0


def _infinite_minus_infinite(facts: Facts) -> bool:
    return facts.op == "sub" and len(facts.there) == 2 and all(map(_is_infinite, facts.there))


def _overflows(facts: Facts) -> bool:
    return facts.kind == "inf" and facts.dtype in SMALL and not facts.infinite


Table = Sequence[tuple[Callable[[Facts], bool], str]]

FORWARD: Table = (
    (
        _log_of_zero,
        "The logarithm of 0 is -inf. Add a small number, or take jnp.log(jnp.maximum(x, tiny)); for "
        "x * log(y) use jax.scipy.special.xlogy, for the logarithm of a softmax jax.nn.log_softmax.",
    ),
    (
        _log_of_negative,
        "The logarithm of a negative number is nan. Keep the operand positive, with jnp.maximum.",
    ),
    (
        _both(_op("sqrt", "rsqrt"), lambda facts: facts.below(0, 0.0)),
        "The root of a negative number is nan: rounding may have made it so. Use jnp.maximum(x, 0).",
    ),
    (
        _both(_op("rsqrt"), _zero(0)),
        "1/sqrt(0) is infinite. Add a small number under the root, as normalisations do with epsilon.",
    ),
    (
        _both(_op("div", "rem"), _zero(0), _zero(1)),
        "0/0 is nan. Add a small number to the denominator, or divide by jnp.where(y != 0, y, 1.0) and "
        "mask the result.",
    ),
    (
        _both(_op("div", "rem"), _zero(1)),
        "The denominator is 0. Add a small number to it, or divide by jnp.where(y != 0, y, 1.0) and "
        "mask the result.",
    ),
    (
        _both(_op("pow", "integer_pow"), _zero(0)),
        "A negative power of 0 is infinite. Keep the base away from 0, with jnp.where around the base.",
    ),
    (
        _both(_op("pow"), lambda facts: facts.below(0, 0.0)),
        "A broken power of a negative number is nan. Use jnp.maximum(x, 0), or an integer power.",
    ),
    (_infinite_minus_infinite, ALL_MASKED),
    (
        _both(_op("exp", "exp2", "expm1", "sinh", "cosh"), lambda facts: facts.kind == "inf"),
        "The exponential overflows {dtype}, whose greatest number is {greatest}. Subtract the maximum "
        "first, as jax.nn.softmax and logsumexp do; or work with logarithms; or clip the operand.",
    ),
    (
        _both(_op("mul", "dot_general"), lambda facts: facts.zero and facts.infinite),
        "0 times an infinity is nan. Keep the infinity out, with jnp.where around what made it.",
    ),
    (
        _overflows,
        "The result is greater than {greatest}, the greatest number of {dtype}. Compute this in "
        "float32, or scale the operands (of a loss: use loss scaling).",
    ),
)
"""On the way forward: when, and what helps; the first that holds is said."""

BACKWARD: Table = (
    (_both(_of("sqrt"), _zero(1)), ROOT),
    (
        _both(_of("rsqrt", "cbrt"), lambda facts: facts.zero),
        "The derivative of a root at 0 is infinite. Add a small number to its operand.",
    ),
    (
        _both(_of("log", "log1p"), lambda facts: facts.zero),
        "The derivative of the logarithm at 0 is infinite. Keep the operand away from 0.",
    ),
    (
        _both(_of("pow", "integer_pow"), lambda facts: facts.zero),
        "The derivative of this power at 0 is not finite. Keep the base away from 0, with jnp.where "
        "around the base, or use an integer exponent.",
    ),
    (
        _both(_of("div"), lambda facts: facts.zero),
        "The denominator is 0. Divide by jnp.where(y != 0, y, 1.0) and mask the result.",
    ),
    (
        _both(_of("atan2"), lambda facts: facts.zero),
        "The angle of the vector (0, 0) has no derivative. Use jnp.where around the operands.",
    ),
)
"""The same on the way back, for an op's derivative."""
