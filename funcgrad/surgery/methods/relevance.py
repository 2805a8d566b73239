"""Layer-wise relevance propagation: how much of an output each value contributed, layer by layer.

The relevance of a value x is ``R_x = x * ct_x``, where the walk back computes a cotangent that is no
derivative: each layer hands the relevance of its output y on to its inputs in proportion to their parts
z_jk of a sum. A rule says which sum:

    epsilon     z_jk = x_j w_jk                        R_j = sum_k z_jk / (y_k + eps sign y_k) R_k
    gamma       z_jk = x_j (w_jk + gamma max(w_jk, 0))     R_j = sum_k z_jk / sum_j z_jk R_k
    alpha-beta  R_j = sum_k (alpha max(z_jk, 0) / sum_j max(z_jk, 0)
                             - beta min(z_jk, 0) / sum_j min(z_jk, 0)) R_k, with alpha - beta = 1
    z-plus      alpha-beta with alpha = 1 and beta = 0

The sums over j include the bias. A rectifier, or another activation, hands its output's relevance on
whole; a max-pooling to the largest element; a sum in proportion to its terms. What no rule is for has
its own derivative: its relevance is the gradient times the value.

S. Bach et al.: On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
propagation. PLOS ONE 10(7), 2015. G. Montavon et al.: Layer-wise relevance propagation: an overview.
2019. R. Achtibat et al.: AttnLRP: attention-aware layer-wise relevance propagation for transformers.
ICML 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad.places import Edit, Selector, at
from funcgrad.surgery.methods.layers import Layers, Operations, Outermost
from funcgrad.surgery.methods.surrogate import surrogate
from funcgrad.transforms import grad

Rule = Callable[..., Any]
"""From a layer's function, its input and its weights, to the layer's output with another derivative."""

EPS = 1e-6


def epsilon(eps: float = EPS) -> Rule:
    """The rule that lets weak evidence vanish: relevance in proportion to ``x_j w_jk``."""

    def rule(layer: Callable[..., Any], x: Any, *weights: Any) -> Any:
        y = layer(x, *weights)
        return _shared(y, (1.0, y), eps=eps)

    return rule


def gamma(gamma: float = 0.25, eps: float = EPS) -> Rule:
    """The rule that favours positive weights, for inputs that are not negative."""

    def rule(layer: Callable[..., Any], x: Any, *weights: Any) -> Any:
        favoured = layer(x, *(w + gamma * jnp.maximum(w, 0) for w in weights))
        return _shared(layer(x, *weights), (1.0, favoured), eps=eps)

    return rule


def alpha_beta(alpha: float = 2.0, beta: float = 1.0, eps: float = EPS) -> Rule:
    """The rule that treats positive and negative contributions apart.

    Raises:
      ValueError: ``alpha - beta`` is not 1, so that relevance would be made or lost.
    """
    if not abs(alpha - beta - 1) < 1e-6:
        raise ValueError(
            f"alpha_beta was given alpha={alpha} and beta={beta}; alpha - beta must be 1."
        )

    def rule(layer: Callable[..., Any], x: Any, *weights: Any) -> Any:
        positive, negative = _part(layer, x, weights, 1), _part(layer, x, weights, -1)
        return _shared(layer(x, *weights), (alpha, positive), (-beta, negative), eps=eps)

    return rule


def z_plus(eps: float = EPS) -> Rule:
    """The rule that looks at positive contributions alone."""
    return alpha_beta(1.0, 0.0, eps)


def _part(layer: Callable[..., Any], x: Any, weights: Sequence[Any], sign: int) -> Any:
    """The sum of a layer's contributions of one sign: those of the bias, of x > 0 and of x < 0."""
    same = [jnp.maximum(w, 0) if sign > 0 else jnp.minimum(w, 0) for w in weights]
    opposite = [w - part for w, part in zip(weights, same, strict=True)]
    above, below = jnp.maximum(x, 0), jnp.minimum(x, 0)
    return layer(above, *same) + layer(below, *opposite) - layer(jnp.zeros_like(x), *opposite)


def _shared(y: Any, *parts: tuple[float, Any], eps: float) -> Any:
    """`y`, whose relevance goes to the terms of sums: of each sum a share of it.

    With ``ct = R_y / y`` arriving, each sum s is given ``ct_s = share * R_y / s``.
    """
    shares = (share * s * lax.stop_gradient(y / stabilised(s, eps)) for share, s in parts)
    return surrogate(y, sum(shares))


def stabilised(y: Any, eps: float) -> Any:
    """A denominator away from zero: ``y + eps sign y``, where the sign of 0 is 1."""
    return y + jnp.where(y >= 0, eps, -eps).astype(y.dtype)


# --- the methods

ACTIVATIONS = Outermost(
    at(function=jax.nn.gelu) | at(function=jax.nn.silu) | Operations(frozenset({lax.tanh_p}), 1)
)
"""Activations with f(0) = 0 that hand relevance on whole; a rectifier does so by its derivative."""


def _whole(original: Callable[..., Any], x: Any) -> Any:
    """An activation's output, whose relevance is its input's: ``ct_x = ct * y / x``."""
    y = original(x)
    at_zero = x == 0
    slope = lax.stop_gradient(y / jnp.where(at_zero, 1, x))
    return surrogate(y, jnp.where(at_zero, y, x * slope))


def lrp(
    fun: Callable[..., Any],
    rule: Rule | None = None,
    composite: Mapping[Selector, Rule] | Sequence[tuple[Selector, Rule]] = (),
    argnums: int | Sequence[int] = 0,
    *,
    taps: Mapping[str, Selector] | None = None,
    edit: Sequence[Edit] = (),
) -> Callable[..., Any]:
    """Return a function that computes the relevance of the inputs of a scalar-valued `fun`.

    Args:
      fun: maps pytrees of arrays to a scalar, such as the logit of a class. A layer is a
        product with what does not depend on the arguments that are explained, its bias, and a batch
        normalisation in evaluation.
      rule: the rule of the layers; ``epsilon()`` if none is given.
      composite: other rules by place: pairs of a selector and a rule. The last that means a layer holds.
      argnums: the positional arguments that are explained.
      taps: places whose relevance is wanted: value times cotangent.
      edit: more edits.

    Returns:
      A function with `fun`'s arguments that returns a pytree like the argument, of relevances; with
      `taps` a pair of that and the tapped values.

    Raises:
      errors.SelectorError: a selector of `composite` means no layer.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods.relevance import lrp
      >>> w = jnp.array([[2.0, -1.0], [1.0, 1.0]])
      >>> model = lambda x: jnp.sum(jax.nn.relu(x @ w))
      >>> print([f"{r:.3f}" for r in lrp(model)(jnp.array([3.0, 1.0]))])
      ['6.000', '1.000']
    """
    gradient = grad(fun, argnums, taps=taps, edit=[*_layer_edits(rule, composite), *edit, PASSED])

    def relevance(*args: Any, **kwargs: Any) -> Any:
        found = gradient(*args, **kwargs)
        cts, tapped = found if taps is not None else (found, None)
        explained = args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)
        relevances = jax.tree.map(lambda x, ct: x * ct, explained, cts)
        return relevances if tapped is None else (relevances, tapped)

    return relevance


PASSED = ACTIVATIONS.replaced(_whole, optional=True)


def _layer_edits(rule: Rule | None, composite: Any) -> list[Edit]:
    pairs = [*(composite.items() if isinstance(composite, Mapping) else composite)]
    places = [selector for selector, _ in pairs]
    rest = Layers(None, tuple(places)).replaced(folded(rule or epsilon()), optional=True)
    chosen = (
        Layers(selector, tuple(places[i + 1 :])).replaced(folded(one), optional=True)
        for i, (selector, one) in enumerate(pairs)
    )
    return [rest, *chosen]


def folded(rule: Rule) -> Rule:
    """A rule of layers whose product may be scaled by constants: by a batch normalisation in evaluation.

    The layer ``y = s (x w) + t`` has the weight ``s w``. A rule asks of a weight no more than its sign,
    so `rule` is given the weights w, read where s is positive, and -w, read where s is negative.
    """

    def of_layer(original: Any, x: Any, w: Any, *constants: Any) -> Any:
        layer = original.site
        if not layer.scaled:
            return rule(original, x, w, *constants)
        ones = jnp.ones(layer.product.outputs[0].shape, layer.product.outputs[0].dtype)
        zero, one = (original.after(layer.product, p, x, w, *constants) for p in (0 * ones, ones))

        def with_shift(x: Any, w: Any, negative_w: Any, shift: Any) -> Any:
            above = original(x, w, *constants) - zero
            below = zero - original(x, negative_w, *constants)
            return jnp.where(one >= zero, above, below) + shift

        return rule(with_shift, x, w, -w, zero)

    return of_layer


NORMALISERS = ("rsqrt", "sqrt")
"""Operations that compute a norm or a standard deviation; AttnLRP treats their results as constants."""


def attn_lrp(
    fun: Callable[..., Any],
    rule: Rule | None = None,
    composite: Mapping[Selector, Rule] | Sequence[tuple[Selector, Rule]] = (),
    argnums: int | Sequence[int] = 0,
    *,
    taps: Mapping[str, Selector] | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the relevance of the inputs of a transformer: AttnLRP.

    Arguments, results and errors are those of :func:`lrp`. Besides the layers' rules: a product of two
    values that both depend on the input (queries and keys, attention and values, gates) gives each half;
    a softmax gives each logit ``x_i (R_i - s_i sum_j R_j)``; a normalisation hands relevance on whole,
    its standard deviation a constant.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from funcgrad.surgery.methods.relevance import attn_lrp
      >>> def attention(x):
      ...     return jnp.sum(jax.nn.softmax(x @ x.T) @ x)
      >>> print(attn_lrp(attention)(jnp.eye(2)).shape)
      (2, 2)
    """
    products = frozenset({lax.dot_general_p, lax.mul_p})
    both = Operations(products, 2, NORMALISERS) & ~ACTIVATIONS
    norms = Operations(frozenset({lax.rsqrt_p, lax.sqrt_p}), 1)
    edit = [
        both.replaced(_halved, optional=True),
        norms.replaced(lambda original, x: lax.stop_gradient(original(x)), optional=True),
    ]
    return lrp(fun, rule, composite, argnums, taps=taps, edit=edit)


def _halved(original: Callable[..., Any], *operands: Any) -> Any:
    """A product of which each operand is given half the relevance."""
    z = original(*operands)
    return surrogate(z, z / 2)
