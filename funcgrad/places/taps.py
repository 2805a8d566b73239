"""What a tap returns: values, their cotangents, and where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from funcgrad import _jax, errors


@dataclass(frozen=True)
class Tapped:
    """The values that a selector means in one run, with the cotangents that arrived at them.

    A value in a scan has leading axes, one for each scan around it, with an element for each step; a
    value in a while loop is that of the last step. All lists have the order of the program.

    Attributes:
      values: the values: floating-point ones, or others where a place has no floating-point one.
      cotangents: the derivative of the function's output by each value, of the value's shape and dtype;
        None for an integer. Where nothing that is returned depends on the value, it is zeros.
      present: for each value a bool array, with the leading axes: False where a branch was not taken
        or a loop did no step, so that value and cotangent are zeros that mean nothing.
      places: where each value is computed, in words.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> loss = lambda x: 3 * jnp.exp(x)
      >>> gradient, tapped = funcgrad.grad(loss, taps={"e": funcgrad.at(op="exp")})(0.0)
      >>> print(tapped["e"].values, tapped["e"].cotangents)
      [Array(1., dtype=float32, weak_type=True)] [Array(3., dtype=float32, weak_type=True)]
    """

    values: list[Any]
    cotangents: list[Any]
    present: list[Any]
    places: tuple[str, ...]

    @property
    def value(self) -> Any:
        """The value, if the selector means one.

        Raises:
          errors.SelectorError: there are more.
        """
        return self.values[self._only()]

    @property
    def cotangent(self) -> Any:
        """The cotangent of the value, if the selector means one.

        Raises:
          errors.SelectorError: there are more.
        """
        return self.cotangents[self._only()]

    def _only(self) -> int:
        if len(self.places) != 1:
            listed = "".join(f"\n- {i}: {place}" for i, place in enumerate(self.places))
            raise errors.SelectorError(
                f"One tapped value was asked for, and the selector means {len(self.places)}:{listed}\n"
                "Take one of `values` and `cotangents` by its number, or narrow the selector: "
                "selector[i]."
            )
        return 0

    def __repr__(self) -> str:
        lines = [f"Tapped, {len(self.places)} value(s):"]
        lines += [f"  {i}: {place}" for i, place in enumerate(self.places)]
        return "\n".join(lines)


jax.tree_util.register_dataclass(
    Tapped, data_fields=["values", "cotangents", "present"], meta_fields=["places"]
)

# --- what stands at a tapped place in the program


Measure = Callable[[Any], Any]
"""A function from an array to the numbers of it that are returned in its place."""


def tap(x: Any, sink: Any, measure: Measure | None = None) -> Any:
    """`x`; the sink's cotangent is the one that arrives at `x`, or what `measure` says of it."""
    return _jax.tap_p.bind(x, sink) if measure is None else _measured(x, sink, measure)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _measured(x: Any, sink: Any, measure: Measure) -> Any:
    return x


def _measured_forward(x: Any, sink: Any, measure: Measure) -> tuple[Any, None]:
    return x, None


def _measured_backward(measure: Measure, _: None, ct: Any) -> tuple[Any, Any]:
    return ct, measure(ct)


_measured.defvjp(_measured_forward, _measured_backward)


@jax.custom_vjp
def sink_of_step(sink: Any, arrived: Any) -> tuple[Any, Any, Any]:
    """A sink for one step of a while loop, and what the loop carries on to the next.

    The walk back meets the last step first: ct_arrived is 0 there, and 1 in the steps before. So the
    loop's sink has the last step's cotangent: ct_sink = ct_arrived > 0 ? ct_sink : ct_step.
    """
    return sink, sink, arrived


def _sink_of_step_forward(sink: Any, arrived: Any) -> tuple[Any, None]:
    return (sink, sink, arrived), None


def _sink_of_step_backward(_: None, cts: Any) -> tuple[Any, Any]:
    ct_step, ct_sink, ct_arrived = cts
    return jnp.where(ct_arrived > 0, ct_sink, ct_step), jnp.ones_like(ct_arrived)


sink_of_step.defvjp(_sink_of_step_forward, _sink_of_step_backward)


def with_cotangent_changed(x: Any, change: Callable[..., Any], takes_value: bool) -> Any:
    """`x`, of which the cotangent that goes on is `change(ct)`, or `change(ct, x)`."""

    @jax.custom_vjp
    def identity(x: Any) -> Any:
        return x

    def forward(x: Any) -> tuple[Any, Any]:
        return x, x if takes_value else None

    def backward(x: Any, ct: Any) -> tuple[Any]:
        return (change(ct, x) if takes_value else change(ct),)

    identity.defvjp(forward, backward)
    return identity(x)


def sink_for(aval: Any, lengths: Sequence[int], measure: Measure | None = None) -> Any:
    """Zeros whose cotangent is that of a tapped value, or its measure, with an axis for each scan."""
    of_ct = _jax.strong(_jax.cotangent_aval(aval))
    return _jax.blank(of_ct if measure is None else type_of_measure(measure, of_ct), *lengths)


def type_of_measure(measure: Measure, aval: Any) -> Any:
    """The type of a measure of values of a type.

    Raises:
      errors.EditError: it is not one floating-point array.
    """

    def leaves(x: Any) -> list[Any]:
        return jax.tree.leaves(measure(x))

    results = _jax.stage_closed(leaves, [aval], "measure").out_avals
    if len(results) != 1 or not _jax.is_inexact(results[0]):
        found = ", ".join(result.str_short() for result in results) or "nothing"
        raise errors.EditError(
            f"The measure of a tap was given {aval.str_short()} and returned {found}. Return one "
            "floating-point array."
        )
    return _jax.strong(results[0])
