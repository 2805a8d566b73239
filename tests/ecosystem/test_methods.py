"""Each method on models of libraries, against its formula in the network written out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.tree_util import keystr, tree_leaves_with_path

from funcgrad import at, errors
from funcgrad.surgery import methods
from funcgrad.surgery.methods import relevance
from tests.ecosystem.models import FORMS, LAYERS, MODELS, ROWS, WIDTH, Model, X
from tests.ecosystem.test_places import NO_CHANGE, Wrap, assert_changed, assert_close

BASELINE = 0.3 * X[::-1] + 0.1


def of_input(model: Model) -> Callable[..., Any]:
    return lambda x: model.loss(model.params, x)


def written(model: Model, **hooks: Any) -> Callable[..., Any]:
    return lambda x: model.written(model.params, x, **hooks)


def with_cotangent(value: Callable[..., Any], ct_of: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one array whose derivative is ``ct_of(ct, x)``."""
    f = jax.custom_vjp(value)
    f.defvjp(lambda x: (value(x), x), lambda x, ct: (ct_of(ct, x),))
    return f


def values_of(model: Model, x: Any) -> list[Any]:
    values: list[Any] = []
    model.written(model.params, x, value=lambda i, z: values.append(z) or z)
    return values


def cotangents_of(model: Model, x: Any, value: Callable[..., Any] = lambda i, z: z) -> list[Any]:
    """Those of the site's values, once they are changed."""
    moved = lambda e: model.written(model.params, x, value=lambda i, z: value(i, z) + e[i])
    return jax.grad(moved)(NO_CHANGE)


# --- attributions


def rectifiers(model: Model, wrap: Wrap) -> None:
    """Guided backpropagation and the deconvnet."""
    formulas = {
        methods.guided_backprop: lambda ct, z: ct * (z > 0) * (ct > 0),
        methods.deconvnet: lambda ct, z: ct * (ct > 0),
    }
    for method, ct_of in formulas.items():
        hook = with_cotangent(lambda z: jnp.maximum(z, 0), ct_of)
        expected = jax.grad(written(model, activation=lambda i, z, hook=hook: hook(z)))(X)
        assert_close(wrap(method(of_input(model)))(X), expected)


def stabilised(z: Any, eps: float) -> Any:
    return z + eps * jnp.where(z >= 0, 1, -1)


def by_epsilon(eps: float) -> Callable[..., Any]:
    """``R_j = sum_k h_j w_jk / (z_k + eps sign z_k) R_k``, of which ``R_j = h_j ct_j``."""

    def dense(h: Any, w: Any, b: Any) -> Any:
        def ct_of(ct: Any, h: Any) -> Any:
            z = h @ w + b
            return (ct * z / stabilised(z, eps)) @ w.T

        return with_cotangent(lambda h: h @ w + b, ct_of)(h)

    return dense


def by_z_plus(h: Any, w: Any, b: Any) -> Any:
    """``R_j = sum_k max(h_j w_jk, 0) / (sum_j max(h_j w_jk, 0) + max(b_k, 0)) R_k``."""

    def ct_of(ct: Any, h: Any) -> Any:
        parts = jnp.maximum(h[:, :, None] * w, 0)
        of_output = ct * (h @ w + b) / stabilised(parts.sum(1) + jnp.maximum(b, 0), relevance.EPS)
        of_input = jnp.einsum("tio,to->ti", parts, of_output)
        return jnp.where(h == 0, 0, of_input / jnp.where(h == 0, 1, h))

    return with_cotangent(lambda h: h @ w + b, ct_of)(h)


def lrp(model: Model, wrap: Wrap) -> None:
    """One rule in the site, and another in the other layers of an attention block."""
    other = by_epsilon(0.1)
    dense = lambda here, h, w, b: (by_z_plus if here else other)(h, w, b)
    expected = X * jax.grad(written(model, dense=dense))(X)
    composite = [(model.site, relevance.z_plus())]
    ours = methods.lrp(of_input(model), relevance.epsilon(0.1), composite)
    assert_close(wrap(ours)(X), expected)


def attn_lrp(model: Model, wrap: Wrap) -> None:
    def half_of_each(here: bool, spec: str, a: Any, b: Any) -> Any:
        def pull(operands: Any, ct: Any) -> Any:
            return jax.vjp(lambda a, b: jnp.einsum(spec, a, b), *operands)[1](ct / 2)

        product = jax.custom_vjp(lambda a, b: jnp.einsum(spec, a, b))
        product.defvjp(lambda a, b: (jnp.einsum(spec, a, b), (a, b)), pull)
        return product(a, b)

    rule = by_epsilon(0.1)
    hooks = {"product": half_of_each, "dense": lambda here, h, w, b: rule(h, w, b)}
    expected = X * jax.grad(written(model, constant=lax.stop_gradient, **hooks))(X)
    assert_close(wrap(methods.attn_lrp(of_input(model), relevance.epsilon(0.1)))(X), expected)


def deep_lift(model: Model, wrap: Wrap) -> None:
    """Of rectifiers with the slope ``(relu(z) - relu(z')) / (z - z')``; the rest is linear."""
    method = wrap(methods.deep_lift(of_input(model)))
    if model.scope == "attn":
        with pytest.raises(errors.EditError, match="rescale rule"):
            method(X, BASELINE)
        return
    z, z0 = values_of(model, X), values_of(model, BASELINE)
    slopes = [(jnp.maximum(a, 0) - jnp.maximum(b, 0)) / (a - b) for a, b in zip(z, z0, strict=True)]
    expected = jax.grad(written(model, activation=lambda i, z: slopes[i] * z))(X)
    assert_close(method(X, BASELINE), (X - BASELINE) * expected)


POINTS, POINT_WEIGHTS = np.polynomial.legendre.leggauss(32)
ALONG = [*zip((POINTS + 1) / 2, POINT_WEIGHTS / 2, strict=True)]


def integrated_gradients(model: Model, wrap: Wrap) -> None:
    """Of the input, and of the last site: in a scan of all, each on its own straight way."""
    gradient = jax.grad(written(model))
    mean = sum(w * gradient(BASELINE + a * (X - BASELINE)) for a, w in ALONG)
    of_x = wrap(methods.integrated_gradients(of_input(model)))
    assert_close(of_x(X, BASELINE), (X - BASELINE) * mean, rtol=1e-6)

    last = model.site if model.form == "scan" else model.site[-1]
    z, z0 = values_of(model, X), values_of(model, BASELINE)
    chosen = range(LAYERS) if model.form == "scan" else [LAYERS - 1]
    on_way = lambda a: lambda i, z_i: z0[i] + a * (z[i] - z0[i]) if i in chosen else z_i
    cts = [jax.tree.map(lambda c, w=w: w * c, cotangents_of(model, X, on_way(a))) for a, w in ALONG]
    means = jax.tree.map(lambda *cts: sum(cts), *cts)
    expected = [(z[i] - z0[i]) * means[i] for i in chosen]
    of_site = wrap(methods.integrated_gradients(of_input(model), last))
    assert_close(model.stacked(of_site(X, BASELINE)), jnp.stack(expected), rtol=1e-6)


def grad_cam(model: Model, wrap: Wrap) -> None:
    maps, cts = values_of(model, X), cotangents_of(model, X)
    heat = [
        jnp.maximum(jnp.sum(jnp.mean(ct, axis=0) * z, axis=-1), 0)
        for z, ct in zip(maps, cts, strict=True)
    ]
    expected = jnp.stack(heat) if model.form == "scan" else heat[0]
    place = model.site if model.form == "scan" else model.site[0]
    assert_close(wrap(methods.grad_cam(of_input(model), place, spatial=(-2,)))(X), expected)


def patching(model: Model, wrap: Wrap) -> None:
    """The first two features of each layer are those of another run."""
    z, other, cts = values_of(model, X), values_of(model, BASELINE), cotangents_of(model, X)
    mask = np.arange(WIDTH) < 2
    values = methods.activations(of_input(model), model.site)(BASELINE).values
    ours = wrap(methods.patched(of_input(model), model.site))(X, values, [mask] * len(values))
    expected = written(model, value=lambda i, z: jnp.where(mask, other[i], z))(X)
    assert_close(ours, expected)
    effects = wrap(methods.attribution_patching(of_input(model), model.site))(X, BASELINE)
    first_order = [(b - a) * ct for a, b, ct in zip(z, other, cts, strict=True)]
    assert_close(model.stacked(effects), jnp.stack(first_order))


# --- other backward passes


def cotangent_edits(model: Model, wrap: Wrap) -> None:
    def scaled_down(ct: Any) -> Any:
        return ct * jnp.minimum(1, 0.5 / jnp.sqrt(jnp.sum(ct**2)))

    edits = [
        (methods.reversed_at(model.site, 2.0), lambda ct, z: -2 * ct),
        (methods.clipped_at(model.site, 0.1), lambda ct, z: jnp.clip(ct, -0.1, 0.1)),
        (methods.norm_clipped_at(model.site, 0.5), lambda ct, z: scaled_down(ct)),
    ]
    for edit, ct_of in edits:
        hook = with_cotangent(lambda z: z, ct_of)
        assert_changed(model, wrap, {"value": lambda i, z, hook=hook: hook(z)}, edit=edit)


def straight_through(model: Model, wrap: Wrap) -> None:
    """Of a model that rounds."""
    hook = with_cotangent(lambda z: jnp.round(z), lambda ct, z: ct)
    rules = methods.straight_through()
    assert_changed(model, wrap, {"activation": lambda i, z: hook(z)}, rules=rules)


def product_by(here_only: Any, pull: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of a product with another way back, in the site or outside of it."""

    def hook(here: bool, spec: str, a: Any, b: Any) -> Any:
        plain = lambda a, b: jnp.einsum(spec, a, b)
        if here is not here_only:
            return plain(a, b)
        product = jax.custom_vjp(plain)
        product.defvjp(lambda a, b: (plain(a, b), (a, b)), lambda ab, ct: pull(plain, *ab, ct))
        return product(a, b)

    return hook


def low_precision(model: Model, wrap: Wrap) -> None:
    rounded = lambda x: x.astype(jnp.bfloat16).astype(x.dtype)
    pull = lambda product, a, b, ct: jax.vjp(product, rounded(a), rounded(b))[1](rounded(ct))
    rules = methods.low_precision_products(jnp.bfloat16, jnp.bfloat16, scaled=False, at=model.site)
    assert_changed(model, wrap, {"product": product_by(True, pull)}, rules=rules)


def feedback_alignment(model: Model, wrap: Wrap) -> None:
    """In an attention block, of the products behind the attention."""
    of_attention = model.scope == "attn"
    places = (at("up") | at("down")) if of_attention else model.site
    turned = model.scope == "eqx.nn.Linear"  # its weights stand on the left
    draw = lambda key, shape, terms: jnp.cos(jnp.arange(np.prod(shape))).reshape(shape)

    def pull(product: Any, h: Any, w: Any, ct: Any) -> Any:
        fixed = draw(None, w.shape[::-1], 0).T if turned else draw(None, w.shape, 0)
        return jax.vjp(product, h, fixed)[1](ct)[0], jax.vjp(product, h, w)[1](ct)[1]

    rules = methods.feedback_alignment(draw=draw, weight=0 if turned else 1, at=places)
    assert_changed(model, wrap, {"product": product_by(not of_attention, pull)}, rules=rules)


def direct_feedback_alignment(model: Model, wrap: Wrap) -> None:
    """The last site's cotangent goes to the first by a fixed matrix, without what is between them."""
    if model.form == "scan":
        pytest.skip("hidden layers and the output are steps of one loop")
    fixed = np.cos(np.arange(WIDTH * WIDTH)).reshape(WIDTH, WIDTH)
    error = cotangents_of(model, X)[-1]
    hook = with_cotangent(lambda z: z, lambda ct, z: error @ fixed)
    written = lambda p, x: model.written(p, x, value=lambda i, z: hook(z) if i == 0 else z)
    ours = methods.direct_feedback_alignment(
        model.loss,
        (0, 1),
        hidden=[model.site[0]],
        error=model.site[-1],
        draw=lambda key, shape, terms: jnp.asarray(fixed),
    )
    expected = jax.value_and_grad(written, (0, 1))(model.params, X)
    assert_close(wrap(ours)(model.params, X), expected)


# --- of each example

EXAMPLES = np.stack([X, BASELINE, X * BASELINE])


def per_example_norms(model: Model, wrap: Wrap) -> None:
    ours = wrap(jax.vmap(methods.squared_norms(model.loss), (None, 0)))(model.params, EXAMPLES)
    gradients = jax.vmap(jax.grad(model.written), (None, 0))(model.params, EXAMPLES)
    expected = jax.tree.map(lambda g: jnp.sum(g**2, axis=tuple(range(1, g.ndim))), gradients)
    assert_close(ours, expected)


IS_BIAS = re.compile(r"\b(b|bias)\b[^a-z]*(value)?$")


def kronecker_factors(model: Model, wrap: Wrap) -> None:
    """``A`` of what enters each dense layer, ``G`` of its cotangent, over examples and rows."""
    if model.scope == "attn":
        pytest.skip("the factors of dense layers are compared")
    paths = [(keystr(path), leaf.ndim) for path, leaf in tree_leaves_with_path(model.params)]
    stacked_biases = [path for path, axes in paths if axes > 1 and IS_BIAS.search(path)]
    factors = methods.kronecker_factors(model.loss, in_axes=(None, 0), leave_out=stacked_biases)
    ours = wrap(factors)(model.params, EXAMPLES)
    found = [pair for _, f in sorted(ours.items()) for pair in zip(f.a, f.g, strict=True)]
    entered: list[Any] = []
    for x in EXAMPLES:
        z = values_of(model, x)
        entered.append([x, *(jnp.maximum(z, 0) for z in z[:-1])])
    cts = [cotangents_of(model, x) for x in EXAMPLES]
    moments = lambda rows, count: jnp.einsum("eti,etj->ij", rows, rows) / count
    expected = [
        (moments(jnp.stack(h), len(EXAMPLES) * ROWS), moments(jnp.stack(d), len(EXAMPLES)))
        for h, d in zip(zip(*entered, strict=True), zip(*cts, strict=True), strict=True)
    ]
    assert_close(found, expected)


METHODS = (
    rectifiers,
    lrp,
    attn_lrp,
    deep_lift,
    integrated_gradients,
    grad_cam,
    patching,
    cotangent_edits,
    straight_through,
    low_precision,
    feedback_alignment,
    direct_feedback_alignment,
    per_example_norms,
    kronecker_factors,
)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("library", MODELS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_method(method, library, form, wrap):
    activation = jnp.round if method is straight_through else jax.nn.relu
    method(MODELS[library](form, activation), wrap)
