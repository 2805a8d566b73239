"""Mutable references, against jax.grad and against the same program written without them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from tests.calls import hijax_examples
from tests.calls.ref_programs import CALLS, STRAIGHT, Value, X
from tests.compare import assert_same

REFUSED_BY_JAX = {"own in scan", "checkpoint"}
"""Programs for which jax.grad raises an error, or, with `own in scan`, returns zeros."""

STORES_CONSTANTS = {
    "swapped",
    "overwritten by a constant",
    "partly overwritten",
    "undifferentiated beside",
}
if jax.__version_info__ < (0, 11):  # it cannot transpose a store of a constant
    REFUSED_BY_JAX |= {*STORES_CONSTANTS, "read in scan"}
else:
    STORES_CONSTANTS = set()


def of_gradient(inner: Any, outer: Any, fun: Any) -> Any:
    """A gradient of a gradient: the Hessian times a vector."""
    return outer(lambda x: jnp.vdot(inner(fun)(x), jnp.cos(jnp.arange(x.size))))


def check(name: str, fun: Any, pure: Any, x: Any) -> None:
    """Against jax.grad of the program without references, and of `fun` where JAX is able to."""
    with jax.enable_x64(True):
        x = jnp.asarray(x)
        batch = jnp.stack([x, 1.1 * x])

        def answers(grad: Any, fun: Any) -> Any:
            return grad(fun)(x), jax.vmap(grad(fun))(batch), of_gradient(grad, grad, fun)(x)

        expected = jax.jit(lambda: answers(jax.grad, pure))()
        same = {"rtol": 1e-12, "weak": False}
        assert_same(funcgrad.grad(fun)(x), expected[0], **same)
        assert_same(jax.jit(lambda: answers(funcgrad.grad, fun))(), expected, **same)
        assert_same(funcgrad.grad(jax.jit(fun))(x), expected[0], **same)
        if name not in STORES_CONSTANTS:
            over = jax.jit(of_gradient(funcgrad.grad, jax.grad, fun))(x)
            assert_same(over, expected[2], **same)
        if name not in REFUSED_BY_JAX:
            theirs = jax.jit(
                lambda: (jax.grad(fun)(x), of_gradient(jax.grad, funcgrad.grad, fun)(x))
            )()
            assert_same(theirs, (expected[0], expected[2]), **same)


@pytest.mark.parametrize("name", STRAIGHT)
def test_straight_program(name):
    program, x = STRAIGHT[name]
    fun = lambda x: program(jax.new_ref, x)
    check(name, fun, lambda x: program(Value, x), x)


@pytest.mark.parametrize("name", CALLS)
def test_call(name):
    fun, pure = CALLS[name]
    check(name, fun, pure, X)


# --- references from outside, and those that no gradient passes through


def test_reference_from_outside_that_is_read():
    ref = jax.new_ref(jnp.arange(1.0, 5.0))
    fun = lambda x: jnp.sum(jnp.sin(x) * ref[...]) + ref[1] * x[0]
    for how in (lambda f: f, jax.jit):
        assert_same(funcgrad.grad(how(fun))(jnp.asarray(X)), jax.grad(how(fun))(jnp.asarray(X)))


@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_reference_from_outside_that_is_written(how):
    """jax.grad refuses. Within the function the gradient follows; outside there is the value."""
    with jax.enable_x64(True):
        x = jnp.asarray(X)
        ref = jax.new_ref(jnp.zeros(4))

        def fun(x, ref):
            ref[...] = jnp.sin(x)
            ref[0] = x[1]
            return jnp.sum(ref[...] ** 2)

        pure = lambda x: jnp.sum(jnp.sin(x).at[0].set(x[1]) ** 2)
        assert_same(funcgrad.grad(how(fun))(x, ref), jax.grad(pure)(x))
        assert_same(ref[...], jnp.sin(x).at[0].set(x[1]))
        assert_same(jax.jit(funcgrad.grad(how(fun)))(x, ref), jax.grad(pure)(x))


@pytest.mark.parametrize("where", ["function", "jit", "scan", "checkpoint"])
def test_reference_that_no_gradient_passes_through(where):
    def fun(x, ref):
        def step(x, _=None):
            ref[...] = jnp.sin(x)
            return ref[...] * x, jnp.sum(ref[...])

        if where == "scan":
            x, _ = lax.scan(step, x, None, length=3)
        else:
            how = {"function": lambda f: f, "jit": jax.jit, "checkpoint": jax.checkpoint}[where]
            x = how(step)(how(step)(x)[0])[0]
        return jnp.sum(x)

    with jax.enable_x64(True):
        x = jnp.asarray(X)
        refs = [jax.new_ref(jnp.zeros(4), kind="no_grad_no_remat") for _ in range(2)]
        assert_same(funcgrad.grad(fun)(x, refs[0]), jax.grad(fun)(x, refs[1]))
        assert_same(refs[0][...], refs[1][...])


@jax.custom_vjp
def stash(ref, x):
    """The identity; its cotangent is stored in `ref`."""
    return x


def stash_fwd(ref, x):
    return x, ref


def stash_bwd(ref, ct):
    ref[...] = ct
    return None, ct


stash.defvjp(stash_fwd, stash_bwd)


def stashing_in_scan(x, ref):
    return jnp.sum(lax.scan(lambda c, _: (jnp.sin(stash(ref, c * x)), None), x, None, length=3)[0])


def stashing_in_checkpoints(x, ref):
    step = jax.checkpoint(lambda c, _: (jnp.sin(stash(ref, c * x)), None))
    return jnp.sum(lax.scan(step, x, None, length=3)[0])


STASHING = {
    "function": lambda x, ref: jnp.sum(jnp.sin(stash(ref, x**2))),
    "jit": jax.jit(lambda x, ref: jnp.sum(jnp.sin(stash(ref, x**2)))),
    "scan": stashing_in_scan,
    "checkpoint": jax.checkpoint(lambda x, ref: jnp.sum(jnp.sin(stash(ref, x**2)))),
    "checkpoint in scan": stashing_in_checkpoints,
}


@pytest.mark.parametrize("checks", [False, True], ids=["", "checks"])
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("fun", STASHING.values(), ids=STASHING)
def test_cotangent_stored_by_a_custom_vjp(fun, jit, checks):
    with jax.enable_x64(True), jax.enable_checks(checks):
        refs = [jax.new_ref(jnp.zeros(4)) for _ in range(2)]
        for grad, ref in zip((funcgrad.grad, jax.grad), refs, strict=True):
            found = (jax.jit(grad(fun)) if jit else grad(fun))(jnp.asarray(X), ref)
            if grad is funcgrad.grad:
                ours = found
        assert_same(ours, found)
        assert_same(refs[0][...], refs[1][...])


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


def sine_fwd(x):
    ref = jax.new_ref(jnp.zeros_like(x))
    ref[0] = jnp.sin(x[0])
    ref[1:] = jnp.sin(x[1:])
    return ref[...], x


def sine_bwd(x, ct):
    ref = jax.new_ref(ct)
    ref[...] *= jnp.cos(x)
    return (ref[...],)


sine.defvjp(sine_fwd, sine_bwd)


@pytest.mark.parametrize("where", ["function", "jit", "scan", "checkpoint"])
def test_custom_vjp_with_references_of_its_own(where):
    def fun(sine):
        if where == "scan":
            return lambda x: jnp.sum(
                lax.scan(lambda c, _: (sine(c) * x, None), x, None, length=3)[0]
            )
        how = {"function": lambda f: f, "jit": jax.jit, "checkpoint": jax.checkpoint}[where]
        return how(lambda x: jnp.sum(sine(x * x[0]) ** 2))

    with jax.enable_x64(True):
        assert_same(funcgrad.grad(fun(sine))(jnp.asarray(X)), jax.grad(fun(jnp.sin))(X))


@jax.custom_vjp
def load_times(ref, x):
    """What `ref` holds times x; its backward says other numbers than the derivatives."""
    return ref[...] * x


load_times.defvjp(
    lambda ref, x: (load_times(ref, x), (ref[...], x)),
    lambda kept, ct: (5 * ct * kept[1], 3 * ct * kept[0]),
)


def loads_twice(x):
    ref = jax.new_ref(jnp.cos(x))
    first = load_times(ref, x)
    ref[...] = ref[...] * first
    return jnp.sum(first + load_times(ref, x) * ref[...])


def loads_a_store_in_part(x):
    ref = jax.new_ref(x)
    ref[1:] = jnp.sin(x[1:])
    return jnp.sum(jax.jit(load_times)(ref, x))


@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("fun", [loads_twice, loads_a_store_in_part])
def test_custom_vjp_given_a_differentiated_reference(fun, how):
    """The cotangent that its backward returns for a reference is one of the content."""
    with jax.enable_x64(True):
        x = jnp.asarray(X)
        assert_same(funcgrad.grad(how(fun))(x), jax.grad(fun)(x), rtol=1e-12)
        assert_same(jax.jit(funcgrad.grad(how(fun)))(x), jax.grad(fun)(x), rtol=1e-12)


# --- what jax.grad gets wrong or does not have


def test_place_that_is_stored_to_twice():
    """Of two values stored at one place the last is there; jax.grad gives both a gradient."""

    def fun(x):
        ref = jax.new_ref(jnp.zeros_like(x))
        ref[jnp.array([1, 1])] = x[:2]
        ref.addupdate(x[2:], (jnp.array([3, 3]),))
        return jnp.sum(ref[...] ** 2)

    pure = lambda x: x[1] ** 2 + (x[2] + x[3]) ** 2
    with jax.enable_x64(True):
        x = jnp.asarray(X)
        assert float(fun(x)) == pytest.approx(float(pure(x)), rel=1e-12)
        assert_same(funcgrad.grad(fun)(x), jax.grad(pure)(x))
        assert_same(funcgrad.grad(jax.jit(fun))(x), jax.grad(pure)(x))


def test_while_loop():
    def fun(x):
        ref = jax.new_ref(x)

        def step(i):
            ref[i % 4] = jnp.sin(ref[(i + 1) % 4]) * x[0]
            return i + 1

        lax.while_loop(lambda i: i < 4 + jnp.argmax(x), step, 0)
        return jnp.sum(ref[...] ** 2)

    def pure(x):
        value = x
        for i in range(4 + X.argmax()):
            value = value.at[i % 4].set(jnp.sin(value[(i + 1) % 4]) * x[0])
        return jnp.sum(value**2)

    with jax.enable_x64(True):
        x = jnp.asarray(X)
        assert_same(funcgrad.grad(fun)(x), jax.grad(pure)(x))
        assert_same(jax.jit(funcgrad.grad(fun))(x), jax.grad(pure)(x))


def test_read_in_checkpoint_and_changed_since():
    def fun(x):
        ref = jax.new_ref(jnp.full_like(x, 2.0))
        y = jax.checkpoint(lambda x: jnp.sin(x) * ref[...])(x)
        ref[...] = jnp.zeros_like(x)
        return jnp.sum(y)

    assert_same(funcgrad.grad(fun)(jnp.asarray(X)), 2 * jnp.cos(X), rtol=1e-6, weak=False)


# --- what is kept, and how often a program is traced


def test_no_residuals_but_indices():
    def fun(x):
        ref = jax.new_ref(x)
        ref[1:] = ref[:-1]
        ref[jnp.argmax(x)] = 1.0
        return jnp.sum(ref[...])

    _, pullback = funcgrad.vjp(fun, jnp.asarray(X, jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(pullback)) <= 1


def test_body_is_traced_once():
    traces = []

    @jax.jit
    def store(ref, y):
        traces.append(1)
        ref[0] = jnp.sin(y)

    def fun(x):
        ref = jax.new_ref(x)
        for _ in range(3):
            store(ref, ref[1])
        return jnp.sum(ref[...])

    for _ in range(2):
        funcgrad.grad(fun)(jnp.asarray(X))
    assert len(traces) == 1


def test_reference_keeps_nothing_of_the_differentiation():
    kept = []

    def fun(x):
        kept.append(jax.new_ref(x))
        kept[-1][0] = jnp.sin(x[1])
        return jnp.sum(kept[-1][...])

    funcgrad.grad(fun)(jnp.asarray(X))
    assert not isinstance(kept[0][...], jax.core.Tracer)
    other = lambda x: jnp.sum(kept[0][...] * x)
    assert_same(funcgrad.grad(other)(jnp.asarray(X)), kept[0][...], weak=False)


# --- errors


def test_gradient_by_a_reference():
    with pytest.raises(errors.InputError, match=r"no array.*argnums"):
        funcgrad.grad(lambda ref: ref[...])(jax.new_ref(1.0))


def test_reference_returned():
    with pytest.raises(errors.OutputError, match=r"no array.*has_aux=True"):
        funcgrad.grad(jax.new_ref)(1.0)


@jax.custom_vjp
def scaled(ref, x):
    return ref[0] * x


scaled.defvjp(lambda ref, x: (ref[0] * x, ref[0]), lambda scale, ct: (None, scale * ct))


def test_custom_vjp_given_a_reference_in_a_loop():
    """Read, it works; where the loop also stores into it, the error says where."""

    def fun(x, store):
        ref = jax.new_ref(jnp.full(3, 2.0))

        def step(carry, _):
            if store:
                ref[0] = carry
            return scaled(ref, carry), None

        return lax.scan(step, x, None, length=3)[0]

    assert_same(funcgrad.grad(fun)(1.5, False), jnp.asarray(8.0), weak=False)
    with pytest.raises(errors.MutableReferenceError, match=r"`scan` at .*test_references.py:\d+"):
        funcgrad.grad(fun)(1.5, True)


def test_rule_for_a_function_that_is_given_a_reference():
    @jax.jit
    def store(ref, x):
        ref[...] = x

    def fun(x):
        ref = jax.new_ref(x)
        store(ref, 2 * x)
        return ref[...]

    rules = funcgrad.DEFAULT.override({store: lambda ct, *operands, out, **_: (ct, ct)})
    with pytest.raises(errors.MutableReferenceError, match=r"`store at .*test_references.py:\d+"):
        funcgrad.grad(fun, rules=rules)(1.0)


@jax.custom_jvp
def doubled(x):
    return 2 * x


@doubled.defjvp
def doubled_jvp(primals, tangents):
    ref = jax.new_ref(tangents[0])
    return doubled(*primals), 2 * ref[...]


def test_tangent_stored():
    with pytest.raises(
        errors.MutableReferenceError, match=r"`new_ref` at .*test_references.py:\d+"
    ):
        funcgrad.grad(doubled)(1.0)


def test_reference_of_a_condition_and_its_body():
    """JAX runs such a loop on two copies."""

    def fun(x):
        ref = jax.new_ref(x)

        def step(i):
            ref[...] = ref[...] * 0.5
            return i + 1

        lax.while_loop(lambda i: ref[...] > 0.1, step, 0)
        return ref[...]

    with pytest.raises((errors.MutableReferenceError, ValueError), match=r"twice|only one"):
        funcgrad.grad(fun)(1.0)


@jax.custom_vjp
def scaled_backward(x: Any, content: Any) -> Any:
    """x; its derivative, which the body does not show, is 2 by x and x by the content."""
    return x


scaled_backward.defvjp(lambda x, content: (x, x), lambda x, ct: (2 * ct, x * ct))


def reads(call: Any) -> Any:
    """A function whose call of `scaled_backward`, within another call, reads a reference."""

    def fun(x: Any, y: Any) -> Any:
        ref = jax.new_ref(y)
        return call(lambda x: scaled_backward(x, ref[...]) + scaled_backward(x, ref[...]), x)

    return fun


def test_a_call_that_reads_keeps_the_derivatives_of_what_it_calls() -> None:
    fun = reads(lambda inner, x: jax.jit(inner)(x))
    args = jnp.float32(3), jnp.float32(5)
    for gradient in (jax.grad, funcgrad.grad):
        assert gradient(fun, (0, 1))(*args) == (4, 6)


@pytest.mark.parametrize(
    "call",
    [
        lambda inner, x: lax.scan(lambda x, _: (inner(x), None), x, length=2)[0],
        lambda inner, x: lax.cond(x > 0, inner, lambda x: x, x),
    ],
    ids=["scan", "cond"],
)
def test_a_loop_that_reads_keeps_the_derivatives_of_what_it_calls(call: Any) -> None:
    fun, args = reads(call), (jnp.float32(3), jnp.float32(5))
    without = lambda x, y: call(lambda x: scaled_backward(x, y) + scaled_backward(x, y), x)
    assert funcgrad.grad(fun, (0, 1))(*args) == jax.grad(without, (0, 1))(*args)


def test_a_loop_that_gives_a_reference_to_a_custom_vjp_function_is_refused() -> None:
    @jax.custom_vjp
    def scaled(ref: Any, x: Any) -> Any:
        return ref[...] * x

    scaled.defvjp(lambda ref, x: (ref[...] * x, None), lambda _, ct: (None, ct))

    def fun(x: Any) -> Any:
        ref = jax.new_ref(x)
        return lax.scan(lambda x, _: (scaled(ref, x), None), x, length=2)[0]

    with pytest.raises(errors.MutableReferenceError, match="a derivative of its own"):
        funcgrad.grad(fun)(1.0)


# --- calls that store, and functions with a derivative that their bodies do not show


@jax.custom_jvp
def odd_sin(x: Any) -> Any:
    return jnp.sin(x)


odd_sin.defjvp(lambda primals, tangents: (odd_sin(*primals), 7 * jnp.cos(*primals) * tangents[0]))


@jax.custom_vjp
def odd_product(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


odd_product.defvjp(
    lambda x, y: (odd_product(x, y), (x, y)),
    lambda kept, ct: (5 * ct * kept[1], 3 * ct * jnp.sin(kept[0])),
)

OWN_DERIVATIVES = {
    "custom_jvp": odd_sin,
    "custom_vjp": lambda x: odd_product(x, x),
    "jitted": jax.jit(odd_sin),
    "ByVjp": hijax_examples.apply(hijax_examples.ByVjp),
    "ByAccumulator": hijax_examples.apply(hijax_examples.ByAccumulator),
}


def scanned(step: Any, x: Any) -> Any:
    return lax.scan(lambda c, _: (step(c), None), x, None, length=3)[0]


RUNS = {
    "jit": (1, lambda step, x: jax.jit(step)(x)),
    "checkpoint": (1, lambda step, x: jax.checkpoint(step)(x)),
    "cond": (1, lambda step, x: lax.cond(x > 0, step, lambda c: c, x)),
    "scan": (3, scanned),
    "scan in jit": (3, lambda step, x: jax.jit(lambda c: scanned(step, c))(x)),
    "scan of cond": (3, lambda step, x: scanned(lambda c: lax.cond(c > -9, step, jnp.sin, c), x)),
    "fori_loop": (3, lambda step, x: lax.fori_loop(0, 3, lambda _, c: step(c), x)),
    "while_loop": (3, lambda step, x: lax.while_loop(
        lambda state: state[0] < 3, lambda state: (state[0] + 1, step(state[1])), (0, x))[1]),
}  # fmt: skip
"""How often a call runs a step, and the call."""


@pytest.mark.parametrize("call", RUNS)
@pytest.mark.parametrize("own", ["custom_jvp", "custom_vjp", "ByVjp"])
def test_calls_that_store_keep_the_derivatives_of_what_they_call(own: str, call: str) -> None:
    fun = OWN_DERIVATIVES[own]
    times, run = RUNS[call]

    def next_of(x: Any, content: Any) -> Any:
        content = 0.5 * content + fun(x)
        return jnp.cos(fun(x)) * content, content

    def storing(x: Any, y: Any) -> Any:
        ref = jax.new_ref(y)

        def step(x: Any) -> Any:
            x, ref[...] = next_of(x, ref[...])
            return x

        return run(step, x) + 2 * ref[...]

    def unrolled(x: Any, y: Any) -> Any:
        for _ in range(times):
            x, y = next_of(x, y)
        return x + 2 * y

    args = jnp.float32(0.7), jnp.float32(0.4)
    expected = jax.grad(unrolled, (0, 1))(*args)
    np.testing.assert_allclose(funcgrad.grad(storing, (0, 1))(*args), expected, rtol=1e-5)


@pytest.mark.parametrize("own", OWN_DERIVATIVES)
def test_a_gradient_of_a_gradient_keeps_the_derivatives_beside_a_reference(own: str) -> None:
    """The inner gradient has a reference of its own, and calls of which only the outer one is taken."""
    fun = OWN_DERIVATIVES[own]

    def inner_gradient(x: Any) -> Any:
        def inner(y: Any) -> Any:
            ref = jax.new_ref(y)
            ref[...] = ref[...] * fun(x)
            return ref[...] * y

        return funcgrad.grad(jax.jit(inner))(x)

    x = jnp.float32(0.7)
    expected = jax.grad(lambda x: 2 * x * fun(x))(x)
    for outer in (funcgrad.grad, jax.grad):
        np.testing.assert_allclose(outer(inner_gradient)(x), expected, rtol=1e-5)
