"""Each tool on models of libraries, against ``jax.grad`` of the network written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad import errors
from tests.ecosystem.models import FORMS, LAYERS, MODELS, ROWS, WIDTH, Model, X

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
NO_CHANGE = [np.zeros((ROWS, WIDTH))] * LAYERS


def assert_close(ours: Any, theirs: Any, rtol: float = 1e-9) -> None:
    """Equal pytrees, to `rtol` of the largest number in all: attention has a gradient that is 0."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    scale = max(float(np.max(np.abs(b))) for b in jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def differs(model: Model, gradient: Any) -> bool:
    """Whether a gradient is another one than that of the model without changes."""
    unchanged = jax.grad(model.loss, (0, 1))(model.params, X)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(unchanged), strict=True)
    return any(not np.allclose(a, b, rtol=1e-3) for a, b in pairs)


def assert_changed(model: Model, wrap: Wrap, hooks: Any, **asked: Any) -> None:
    """A gradient by both arguments is that of the network with these hooks, and another than without."""
    ours = wrap(funcgrad.grad(model.loss, (0, 1), **asked))(model.params, X)
    assert_close(ours, jax.grad(lambda p, x: model.written(p, x, **hooks), (0, 1))(model.params, X))
    assert differs(model, ours)


# --- tools: each is given a model


def taps(model: Model, wrap: Wrap) -> None:
    """Values, and the cotangents by what is added to them; the gradient stays."""
    tapped = wrap(funcgrad.value_and_grad(model.loss, (0, 1), taps={"z": model.site}))
    value, gradient, found = tapped(model.params, X)
    values: list[Any] = []
    model.written(model.params, X, value=lambda i, z: values.append(z) or z)
    moved = lambda e: model.written(model.params, X, value=lambda i, z: z + e[i])
    assert_close(model.stacked(found["z"].values), jnp.stack(values))
    assert_close(model.stacked(found["z"].cotangents), jnp.stack(jax.grad(moved)(NO_CHANGE)))
    assert_close((value, gradient), jax.value_and_grad(model.loss, (0, 1))(model.params, X))


def edit_of_a_value(model: Model, wrap: Wrap) -> None:
    """A change of the value that is differentiated, by an operand of its own in each layer."""
    size = np.linspace(0.5, 2.0, LAYERS)
    change = lambda z, k: k * jnp.sin(z)
    if model.form == "scan":
        edit = [model.site.value(change, size)]
    else:
        edit = [model.site[i].value(change, k) for i, k in enumerate(size)]
    hook = lambda i, z: size[i] * jnp.sin(z)
    assert_changed(model, wrap, {"value": hook}, edit=edit)


def edit_of_a_cotangent(model: Model, wrap: Wrap) -> None:
    @jax.custom_vjp
    def hook(z: Any) -> Any:
        return z

    hook.defvjp(lambda z: (z, z), lambda z, ct: (jnp.clip(ct, -0.3, 0.3) * z,))
    edit = [model.site.cotangent(lambda ct, z: jnp.clip(ct, -0.3, 0.3) * z)]
    assert_changed(model, wrap, {"value": lambda i, z: hook(z)}, edit=edit)


def replacement(model: Model, wrap: Wrap) -> None:
    edit = [model.site.replaced(lambda original, *operands: jnp.tanh(original(*operands)))]
    assert_changed(model, wrap, {"value": lambda i, z: jnp.tanh(z)}, edit=edit)


def product_vjp(ct: Any, *operands: Any, original: Any, **params: Any) -> Any:
    return tuple(3 * ct_x for ct_x in original(ct, *operands, **params))


def override_of_an_operation(model: Model, wrap: Wrap) -> None:
    """Products in the site alone hand back three times the cotangent."""

    @jax.custom_vjp
    def tripled(z: Any) -> Any:
        return z

    tripled.defvjp(lambda z: (z, None), lambda _, ct: (3 * ct,))

    def product(here: bool, spec: str, a: Any, b: Any) -> Any:
        z = jnp.einsum(spec, a, b)
        return tripled(z) if here else z

    rules = funcgrad.DEFAULT.override({jax.lax.dot_general_p: product_vjp}, at=model.site)
    assert_changed(model, wrap, {"product": product}, rules=rules)


def override_of_a_function(model: Model, wrap: Wrap) -> None:
    """The first call of the rectifier, which in a scan is all of them."""

    @jax.custom_vjp
    def rectifier(z: Any) -> Any:
        return jnp.maximum(z, 0)

    rectifier.defvjp(lambda z: (jnp.maximum(z, 0), z), lambda z, ct: (ct * jnp.cos(z),))
    hook = lambda i, z: rectifier(z) if i == 0 or model.form == "scan" else jnp.maximum(z, 0)
    first = funcgrad.at(function=jax.nn.relu)[0]
    rules = funcgrad.DEFAULT.override({jax.nn.relu: lambda ct, z, **_: ct * jnp.cos(z)}, at=first)
    assert_changed(model, wrap, {"activation": hook}, rules=rules)


def without_bias(path: Any, weights: Any) -> Any:
    named = jax.tree_util.keystr(path)
    return 0 * weights if "bias" in named or "['b']" in named else weights


def kinks(model: Model, wrap: Wrap) -> None:
    """PyTorch's slope of a leaky rectifier at 0 in all layers, and an error."""
    params = jax.tree_util.tree_map_with_path(without_bias, model.params)
    zero = np.zeros_like(X)
    gradient = lambda policy: wrap(funcgrad.grad(model.loss, (0, 1), rules=funcgrad.kinks(policy)))
    by_torch = lambda i, z: jnp.where(z > 0, z, 0.01 * z)
    written = lambda p, x: model.written(p, x, activation=by_torch)
    assert_close(gradient("torch")(params, zero), jax.grad(written, (0, 1))(params, zero))
    with pytest.raises(Exception, match=r"kink|no derivative"):
        jax.block_until_ready(gradient("raise")(params, zero))


def where_infinity_begins(model: Model, wrap: Wrap) -> None:
    """Weights so large that a product in the site overflows: of dense layers, that of the second."""
    params = jax.tree.map(lambda w: 1e120 * w, model.params)
    loss = wrap(model.loss)
    found = funcgrad.inspect.nonfinite(loss, params, 1e100 * X)
    assert found.op == "dot_general"
    assert not found.backward
    if model.scope is not None:
        assert model.scope in found.scope


def list_of_places(model: Model, wrap: Wrap) -> None:
    listed = funcgrad.inspect.places(wrap(model.loss), model.params, X)
    products = [place for place in listed if place.op is jax.lax.dot_general_p]
    assert len(products) >= (1 if model.form == "scan" else LAYERS)
    assert ("<scan" in str(listed)) == (model.form == "scan")
    if model.scope is not None:
        assert any(model.scope in place.scope for place in products)


TOOLS = (
    taps,
    edit_of_a_value,
    edit_of_a_cotangent,
    replacement,
    override_of_an_operation,
    override_of_a_function,
    kinks,
    where_infinity_begins,
    list_of_places,
)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("library", MODELS)
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_tool(tool, library, form, wrap):
    activation = jax.nn.leaky_relu if tool is kinks else jax.nn.relu
    tool(MODELS[library](form, activation), wrap)


def test_a_selector_that_means_nothing_names_the_modules_that_are_there():
    model = MODELS["linen"]("unrolled", jax.nn.relu)
    with pytest.raises(errors.SelectorError, match="layers_0/dense"):
        funcgrad.grad(model.loss, taps={"z": funcgrad.at("dense_0")})(model.params, X)
