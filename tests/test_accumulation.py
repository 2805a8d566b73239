"""Pullbacks that add cotangents to references, and what pullbacks keep of the arguments."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import _jax, errors
from tests.compare import assert_same

VALUE, DROP = _jax.GradValue(), _jax.DontWant()


def loss(params: Any, x: Any) -> Any:
    return jnp.sum(jnp.tanh(params["w"] @ x + params["b"]) ** 2)


def arguments() -> tuple[Any, Any]:
    w = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    return {"w": w, "b": jnp.array([0.5, -0.2])}, jnp.array([0.3, -1.0, 2.0])


@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_cotangents_are_added_to_references(how):
    params, x = arguments()
    start = jnp.full((2, 3), 10.0)

    @how
    def run(start):
        ref = jax.new_ref(start)
        _, pullback = funcgrad.vjp(loss, params, x)
        for ct in (1.0, 2.0):
            out = pullback.with_refs({"w": ref, "b": VALUE}, DROP)(ct)
        return ref[...], out

    (ct_params, _) = jax.grad(loss, (0, 1))(params, x)
    total, (ct, dropped) = run(start)
    assert_same(total, start + 3 * ct_params["w"], rtol=1e-6, weak=False)
    assert_same(ct["b"], 2 * ct_params["b"], rtol=1e-6, weak=False)
    assert (ct["w"], dropped) == (_jax.GradRef(), _jax.DidntWant())


def test_what_comes_back_is_what_jax_gives():
    params, x = arguments()
    results = []
    for vjp in (funcgrad.vjp, jax.vjp):
        refs = {"w": jax.new_ref(jnp.ones((2, 3))), "b": jax.new_ref(jnp.zeros(2))}
        _, pullback = vjp(lambda params, x, n: loss({**params, "b": 0.0}, x), params, x, 3)
        out = pullback.with_refs(refs, VALUE, DROP)(jnp.float32(1.5))
        results.append((out, jax.tree.map(lambda ref: ref[...], refs)))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    assert_same(results[0], results[1], rtol=1e-6, weak=False)


def test_scan_over_batches_with_one_reference():
    params, _ = arguments()
    xs = jnp.arange(12.0).reshape(4, 3) / 7

    @jax.jit
    def run(params):
        refs = jax.tree.map(lambda x: jax.new_ref(jnp.zeros_like(x)), params)

        def step(_, x):
            value, pullback = funcgrad.vjp(lambda params: loss(params, x), params)
            pullback.with_refs(refs)(jnp.ones_like(value))
            return (), value

        lax.scan(step, (), xs)
        return jax.tree.map(jax.freeze, refs)

    expected = jax.grad(lambda p: jnp.sum(jax.vmap(lambda x: loss(p, x))(xs)))(params)
    assert_same(run(params), expected, rtol=1e-5, weak=False)


def test_vmapped():
    def by_reference(x):
        ref = jax.new_ref(jnp.zeros_like(x))
        y, pullback = funcgrad.vjp(lambda x: jnp.sin(x) * x, x)
        pullback.with_refs(ref)(jnp.ones_like(y))
        return jax.freeze(ref)

    x = jnp.arange(4.0)
    assert_same(jax.vmap(by_reference)(x), jax.vmap(jax.grad(lambda x: jnp.sin(x) * x))(x))


def test_accumulator():
    from jax._src.interpreters import ad

    total = ad.ValAccum(jax.typeof(jnp.zeros(3)))
    _, pullback = funcgrad.vjp(lambda x: jnp.sum(x**3), jnp.arange(3.0))
    for _ in range(2):
        (out,) = pullback.with_refs(total)(1.0)
    assert_same(out, 6 * jnp.arange(3.0) ** 2)


# --- arguments that are references


def rewrites(x: Any, ref: Any) -> Any:
    before = ref[...]
    ref[0] = jnp.sin(x) * before[1]
    return jnp.sum(ref[...] ** 2) * x


def pure(x: Any, content: Any) -> Any:
    after = content.at[0].set(jnp.sin(x) * content[1])
    return jnp.sum(after**2) * x, after


@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_reference_as_a_differentiated_argument(how):
    """The entry's reference holds the cotangent of the content, after and then before."""
    with jax.enable_x64(True):
        content, ct_after = jnp.array([1.0, 2.0, -0.5]), jnp.array([0.1, 0.2, 0.3])
        ref, ct_ref = jax.new_ref(content), jax.new_ref(ct_after)
        y, pullback = funcgrad.vjp(how(rewrites), 0.7, ref)
        ct_x, _ = pullback.with_refs(VALUE, ct_ref)(1.3)
        (expected, after), theirs = jax.vjp(pure, 0.7, content)
        assert_same((y, ref[...]), (expected, after), weak=False)
        assert_same((ct_x, ct_ref[...]), theirs((jnp.asarray(1.3), ct_after)), weak=False)
        assert pullback.with_refs(VALUE, DROP)(1.3)[1] == _jax.DidntWant()


def test_reference_that_is_not_used():
    _, pullback = funcgrad.vjp(lambda x, ref: 2 * x, 3.0, jax.new_ref(jnp.zeros(3)))
    ref = jax.new_ref(jnp.ones(3))
    assert_same(pullback.with_refs(VALUE, ref)(1.0)[0], jnp.asarray(2.0), weak=False)
    assert_same(ref[...], jnp.ones(3))


def test_reference_without_a_reference_for_its_cotangent():
    _, pullback = funcgrad.vjp(lambda x, ref: x * ref[...], 3.0, jax.new_ref(2.0))
    for call in (pullback, lambda ct: pullback.with_refs(VALUE, VALUE)(ct)):
        with pytest.raises(errors.CotangentError, match=r"`<lambda> at .*with_refs"):
            call(1.0)


@pytest.mark.skipif(not _jax.REFERENCES_NEED_REFERENCES, reason="JAX asks for it from 0.12 on")
def test_reference_that_is_to_be_returned_as_a_value():
    """Even where its content has no cotangent, and before the pullback is called, as in JAX 0.12."""
    _, pullback = funcgrad.vjp(lambda x, ref: 2 * x, 3.0, jax.new_ref(2.0))
    with pytest.raises(errors.CotangentError, match="can't be returned as a value"):
        pullback.with_refs(VALUE, VALUE)
    assert pullback.with_refs(VALUE, DROP)(1.0)[1] == _jax.DidntWant()


# --- errors


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (({"w": VALUE}, VALUE), "structure"),
        (({"w": None, "b": VALUE}, VALUE), "None is no entry"),
        (({"w": "ref", "b": VALUE}, VALUE), r"\[0\]\['w'\].*float32\[3\].*float32\[2,3\]"),
        (({"w": "int ref", "b": VALUE}, VALUE), r"int32\[2,3\].*float32\[2,3\]"),
    ],
    ids=["missing", "none", "shape", "dtype"],
)
def test_entries_that_do_not_fit(entries, said):
    refs = {"ref": jnp.zeros(3), "int ref": jnp.zeros((2, 3), jnp.int32)}
    entries = jax.tree.map(lambda e: jax.new_ref(refs[e]) if isinstance(e, str) else e, entries)
    _, pullback = funcgrad.vjp(loss, *arguments())
    with pytest.raises(errors.CotangentError, match=f"`loss at .*{said}"):
        pullback.with_refs(*entries)


# --- what is kept of the arguments


def test_arguments_are_kept_apart():
    w, x = jnp.ones((2, 3)), jnp.arange(3.0)
    _, pullback = funcgrad.vjp(lambda w, x, n: (w @ x) * n, w, x, 3.0)
    _, theirs = jax.vjp(lambda w, x, n: (w @ x) * n, w, x, 3.0)
    assert pullback.args_res[0] is w
    assert pullback.args_res[1] is x
    assert len(pullback.opaque_residuals) == len(theirs.opaque_residuals)


def test_argument_that_is_put_back():
    w, x = jnp.ones((2, 3)), jnp.arange(3.0)
    _, pullback = funcgrad.vjp(
        lambda p: jnp.tanh(p["w"] @ p["x"]),
        {"w": w, "x": x},
        saveable_args=({"w": False, "x": True},),
    )
    assert not any(leaf is w for leaf in jax.tree.leaves(pullback))
    with pytest.raises(errors.CotangentError, match=r"saveable_args.*args_res"):
        pullback(jnp.ones(2))
    pullback.args_res[0] = {"w": w, "x": x}
    expected = jax.vjp(lambda p: jnp.tanh(p["w"] @ p["x"]), {"w": w, "x": x})[1](jnp.ones(2))
    assert_same(pullback(jnp.ones(2)), expected, rtol=1e-6)


def test_argument_that_is_not_differentiated():
    w, x = jnp.ones((2, 3)), jnp.arange(3.0)
    _, pullback = funcgrad.vjp(lambda w, x: (w @ x, jnp.sin(x)), w, x, in_nzs=(True, False))
    assert pullback.out_nzs == (True, False)
    ct_w, ct_x = pullback((jnp.ones(2), x))
    assert_same(ct_w, jnp.stack([x, x]))
    assert not np.any(ct_x)
    assert all(leaf is x for leaf in jax.tree.leaves(pullback))


def test_reduce_axes():
    with pytest.raises(NotImplementedError, match="reduce_axes"):
        funcgrad.vjp(jnp.sin, 1.0, reduce_axes=("batch",))
