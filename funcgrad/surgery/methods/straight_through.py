"""Straight-through estimators: gradients through functions that are constant almost everywhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad.default import DEFAULT
from funcgrad.places.selectors import Selector
from funcgrad.registry import Rules, defvjp


@defvjp(lax.round_p, lax.floor_p, lax.ceil_p, optional=True)
def identity_vjp(ct: Any, x: Any, **_: Any) -> Any:
    """The cotangent of the output is the input's.

    Bengio, Léonard and Courville (2013), "Estimating or Propagating Gradients Through Stochastic
    Neurons".

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import identity_vjp
      >>> rules = funcgrad.DEFAULT.override({jnp.round: identity_vjp})
      >>> print(funcgrad.grad(jnp.round, rules=rules)(1.4))
      1.0
    """
    return ct


@defvjp(lax.sign_p, optional=True)
def saturating_vjp(ct: Any, x: Any, **_: Any) -> Any:
    """The cotangent goes through where the input lies between -1 and 1.

    Hubara, Courbariaux, Soudry, El-Yaniv and Bengio (2016), "Binarized Neural Networks".

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import saturating_vjp
      >>> rules = funcgrad.DEFAULT.override({jax.lax.sign_p: saturating_vjp})
      >>> print(jax.vmap(funcgrad.grad(jnp.sign, rules=rules))(jnp.array([0.5, 2.0])))
      [1. 0.]
    """
    return jnp.where(jnp.abs(x) <= 1, ct, 0)


@defvjp(optional=True)
def softmax_vjp(ct: Any, scores: Any, **_: Any) -> Any:
    """The cotangent goes through as if the output were the softmax of the scores over the last axis.

    Jang, Gu and Poole (2017), "Categorical Reparameterization with Gumbel-Softmax", the
    straight-through
    form: the rule of a function from scores to ``one_hot(argmax(scores))``.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import softmax_vjp
      >>> def choose(scores):
      ...     return jax.nn.one_hot(jnp.argmax(scores), 2)
      >>> rules = funcgrad.DEFAULT.override({choose: softmax_vjp})
      >>> print(funcgrad.grad(lambda scores: choose(scores)[0], rules=rules)(jnp.zeros(2)))
      [ 0.25 -0.25]
    """
    p = jax.nn.softmax(scores)
    return p * (ct - jnp.sum(ct * p, axis=-1, keepdims=True))


def straight_through(*, rules: Rules = DEFAULT, at: Selector | None = None) -> Rules:
    """Return rules in which gradients go through rounding and signs.

    ``round``, ``floor`` and ``ceil`` have :func:`identity_vjp`, ``sign`` has
    :func:`saturating_vjp`. Another function, such as one of a model's that returns
    ``one_hot(argmax(scores))``, is given a rule by hand: ``rules.override({model.choose:
    softmax_vjp})``.

    Args:
      rules: the rules to begin with.
      at: where gradients go through; None for everywhere.

    Returns:
      New rules.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import straight_through
      >>> print(funcgrad.grad(lambda x: jnp.round(x) ** 2, rules=straight_through())(2.9))
      6.0
    """
    entries = (identity_vjp, saturating_vjp)
    return rules.override({op: entry for entry in entries for op in entry.ops}, at=at)
