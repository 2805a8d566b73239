"""Learning without the transposed weights: feedback alignment, and direct feedback alignment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad.default import DEFAULT
from funcgrad.places.selectors import Selector
from funcgrad.registry import Rules, defvjp
from funcgrad.surface import public
from funcgrad.transforms import value_and_grad

Draw = Callable[[Any, tuple[int, ...], int], Any]
"""From a random key, a shape and the number of terms of each sum, a feedback matrix."""


def normal(key: Any, shape: tuple[int, ...], terms: int) -> Any:
    """Normally distributed numbers, so that products keep the size of what is multiplied."""
    return jax.random.normal(key, shape) / math.sqrt(terms)


def feedback_alignment(
    *,
    seed: int = 0,
    weight: int = 1,
    draw: Draw = normal,
    rules: Rules = DEFAULT,
    at: Selector | None = None,
) -> Rules:
    """Return rules in which cotangents go back through fixed random matrices instead of the weights.

    Lillicrap, Cownden, Tweed and Akerman (2016), "Random synaptic feedback weights support error
    backpropagation for deep learning": for ``z = x w`` the rule is ``ct_x = ct B^T`` with a fixed B
    in the shape of w, and ``ct_w = x^T ct`` as ever.

    Args:
      seed: for the random matrices. Layers whose weights have one shape have the same matrix,
        unless rules for each of them are made with another seed and `at`; so have the layers of a
        scan.
      weight: which operand of a matrix product is the weight: 1 for ``x @ w`` (flax, haiku), 0 for
        ``w @ x`` (equinox).
      draw: how a matrix is drawn, from a key, a shape and the number of terms of a sum over it.
      rules: the rules to begin with.
      at: which matrix products; None for all. Products of activations, as in attention, have no
        weight, and must be left out.

    Returns:
      New rules.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import feedback_alignment
      >>> rules = feedback_alignment(draw=lambda key, shape, terms: jnp.full(shape, 0.5))
      >>> w = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> print(funcgrad.grad(lambda x: jnp.sum(x @ w), rules=rules)(jnp.ones(2)))
      [1. 1.]
    """

    @defvjp(lax.dot_general_p)
    def feedback_vjp(ct: Any, x: Any, y: Any, *, original: Any, **params: Any) -> Any:
        operands = [x, y]
        w, summed = operands[weight], params["dimension_numbers"][0][weight]
        terms = math.prod(w.shape[axis] for axis in summed)
        fixed = draw(jax.random.key(seed), w.shape, terms).astype(w.dtype)
        through_weights = original(ct, x, y, **params)
        operands[weight] = fixed
        through_feedback = original(ct, *operands, **params)
        return tuple((through_feedback, through_weights)[i == weight][i] for i in (0, 1))

    return rules.override({lax.dot_general_p: feedback_vjp}, at=at)


@public
def direct_feedback_alignment(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    hidden: Sequence[Selector],
    error: Selector,
    seed: int = 0,
    axis: int = -1,
    draw: Draw = normal,
) -> Callable[..., Any]:
    """Return a function like ``value_and_grad(fun)`` by direct feedback alignment.

    Nøkland (2016), "Direct Feedback Alignment Provides Learning in Deep Neural Networks": the
    cotangent of each hidden layer is ``e B``, where e is the cotangent of the network's output and
    B a fixed random matrix of that layer's own. What is between a hidden layer and its parameters
    is differentiated.

    Args:
      fun: maps pytrees of arrays to a scalar of real dtype.
      argnums: the arguments to differentiate.
      hidden: a selector for each hidden layer, each of one value or, in a scan, of one value for each
        step.
      error: the network's output, one value with the hidden layers' axes but for that of the features.
      seed: for the random matrices.
      axis: that of the features. Where the function calls ``jax.vmap``, it may be another than the
        last.
      draw: how a matrix is drawn, from a key, a shape and the number of terms of a sum over it.

    Returns:
      A function with `fun`'s arguments that returns the value, and a pytree like the argument.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import direct_feedback_alignment
      >>> def loss(w, x):
      ...     h = jnp.tanh(x @ w["hidden"])
      ...     return jnp.sum((h @ w["out"]) ** 2)
      >>> w = {"hidden": jnp.zeros((3, 4)), "out": jnp.ones((4, 2))}
      >>> layers = {"hidden": [funcgrad.at(op="tanh")], "error": funcgrad.at(op="dot_general")[-1]}
      >>> value, gradient = direct_feedback_alignment(loss, **layers)(w, jnp.ones(3))
      >>> print(gradient["hidden"].shape)
      (3, 4)
    """
    tapped_error = value_and_grad(fun, argnums, taps={"error": error})

    def of(*args: Any, **kwargs: Any) -> Any:
        *_, tapped = tapped_error(*args, **kwargs)
        e = jnp.moveaxis(tapped["error"].cotangent, axis, -1)

        def feedback(key: Any) -> Callable[[Any], Any]:
            def ct_hidden(ct: Any) -> Any:
                fixed = draw(key, (e.shape[-1], ct.shape[axis]), e.shape[-1])
                return jnp.moveaxis(e @ fixed, -1, axis).astype(ct.dtype)

            return ct_hidden

        keys = jax.random.split(jax.random.key(seed), len(hidden))
        edit = [h.cotangent(feedback(key)) for h, key in zip(hidden, keys, strict=True)]
        return value_and_grad(fun, argnums, edit=edit)(*args, **kwargs)

    return of
