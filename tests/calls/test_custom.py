"""custom_jvp and custom_vjp functions, stop_gradient, and overridden rules, in every context."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify
from jax.scipy.sparse.linalg import bicgstab, cg, gmres

import funcgrad
from tests.compare import assert_same

# --- functions whose derivative is not that of their body, so that using the body shows


@jax.custom_jvp
def odd_sin(x):
    return jnp.sin(x)


@odd_sin.defjvp
def odd_sin_jvp(primals, tangents):
    return odd_sin(primals[0]), 3.0 * odd_cos(primals[0]) * tangents[0]


@jax.custom_jvp
def odd_cos(x):
    return jnp.cos(x)


odd_cos.defjvps(lambda t, out, x: -5.0 * jnp.sin(x) * t)


@jax.custom_jvp
def logsumexp(x):
    top = jnp.max(x, -1, keepdims=True)
    return (jnp.log(jnp.sum(jnp.exp(x - top), -1, keepdims=True)) + top)[..., 0]


@logsumexp.defjvp
def logsumexp_jvp(primals, tangents):
    out = logsumexp(primals[0])
    return out, jnp.sum(jnp.exp(primals[0] - out[..., None]) * tangents[0], -1)


@jax.custom_jvp
def symbolic(x, y, n):
    return {"xy": jnp.sin(x) * y, "n": n, "x": 2 * x}


@functools.partial(symbolic.defjvp, symbolic_zeros=True)
def symbolic_jvp(primals, tangents):
    x, y, _ = primals
    zero = jax.custom_derivatives.SymbolicZero
    dx, dy, dn = tangents
    assert isinstance(dn, zero)
    parts = [] if isinstance(dx, zero) else [7 * y * jnp.cos(x) * dx]
    parts += [] if isinstance(dy, zero) else [jnp.sin(x) * dy]
    out = symbolic(*primals)
    dxs = zero(jax.typeof(x)) if isinstance(dx, zero) else 2 * dx
    return out, {"xy": sum(parts), "n": zero(jax.typeof(out["n"]).to_tangent_aval()), "x": dxs}


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def applied(f, x, scale):
    return f(x) * scale


@applied.defjvp
def applied_jvp(f, scale, primals, tangents):
    out, dout = jax.jvp(f, primals, tangents)
    return out * scale, 11.0 * scale * dout


@jax.custom_jvp
def through_linear(x):
    """Its rule uses jit, while-free scan, dot, gather, select, concatenate on tangents."""
    return jnp.cumsum(x) * x


@through_linear.defjvp
def through_linear_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    moved = jax.jit(lambda t: jnp.roll(t, 1) + jnp.concatenate([t[1:], t[:1]]))(t)
    picked = jnp.where(x > 0, t, 0.5 * moved)[jnp.array([0, 0, 2])].at[1].set(t[2])
    return through_linear(x), jnp.outer(x, x) @ picked - picked / (1 + x**2) + jnp.sum(t)


@jax.custom_vjp
def clipped(x):
    return x * x


clipped.defvjp(lambda x: (x * x, x), lambda x, ct: (jnp.clip(ct, -0.5, 0.5) * x,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def scaled(f, x, scale):
    return f(x) * scale


scaled.defvjp(lambda f, x, s: (f(x) * s, x), lambda f, s, x, ct: (13.0 * s * ct * jnp.cos(x),))


@jax.custom_vjp
def on_trees(tree, n):
    return {"out": tree["a"] * tree["b"][0], "n": n * 2, "b": tree["b"][0] * 3}


def on_trees_bwd(residuals, ct):
    a, b = residuals
    assert set(ct) == {"out", "n", "b"}
    return {"a": ct["out"] * b * 2, "b": (ct["b"] + a * ct["out"], None)}, None


on_trees.defvjp(lambda t, n: (on_trees(t, n), (t["a"], t["b"][0])), on_trees_bwd)


@jax.custom_vjp
def perturbed(x, y):
    return x * y, x + 1


def perturbed_fwd(x, y):
    return perturbed(x.value, y.value), (x.value, y.value, x.perturbed, y.perturbed)


def perturbed_bwd(residuals, ct):
    _, y, _, _ = residuals
    zero = jax.custom_derivatives.SymbolicZero
    first = 0.0 * y if isinstance(ct[0], zero) else 17 * ct[0] * y
    return first + (19.0 if isinstance(ct[1], zero) else ct[1]), None


perturbed.defvjp(perturbed_fwd, perturbed_bwd, symbolic_zeros=True)

X = np.random.default_rng(0).standard_normal(3)

FUNCTIONS = {
    "relu at the kink": lambda x: jnp.sum(jax.nn.relu(x - X) + jax.nn.relu(x)),
    "relu6, silu, elu": lambda x: jnp.sum(jax.nn.relu6(x) + jax.nn.silu(x) * jax.nn.elu(x)),
    "custom_jvp": lambda x: jnp.sum(odd_sin(x) ** 2),
    "custom_jvp of jitted": lambda x: jnp.sum(jax.jit(odd_sin)(x) * jax.jit(odd_sin)(2 * x)),
    "logsumexp": lambda x: jnp.sum(logsumexp(jnp.outer(x, x)) ** 2),
    "symbolic zeros": lambda x: sum(jnp.sum(symbolic(x, X, jnp.arange(3))[k]) for k in ("xy", "x")),
    "symbolic zeros, y": lambda x: jnp.sum(symbolic(X, x, jnp.arange(3))["xy"] ** 2),
    "one output used": lambda x: jnp.sum(symbolic(x, x, jnp.arange(3))["x"] ** 3),
    "nondiff custom_jvp": lambda x: jnp.sum(applied(jnp.sin, x, 2.0) ** 2),
    "linear ops in the rule": lambda x: jnp.sum(through_linear(x) ** 2),
    "nested custom_jvp": lambda x: jnp.sum(applied(lambda y: odd_sin(y) * 2, x, 2.0)),
    "custom_vjp": lambda x: jnp.sum(jnp.sin(clipped(x))),
    "nondiff custom_vjp": lambda x: jnp.sum(scaled(jnp.sin, x, 2.0) ** 2),
    "trees, None": lambda x: jnp.sum(jnp.sin(on_trees({"a": x, "b": (x, 2)}, 3)["out"]) * x),
    "trees, None below": lambda x: jnp.sum(on_trees({"a": X, "b": (x, 2)}, 3)["b"] ** 2),
    "custom_vjp symbolic": lambda x: jnp.sum(jnp.sin(perturbed(x, X)[0])),
    "custom_vjp symbolic, both": lambda x: jnp.sum(sum(perturbed(x, x)) ** 2),
    "stop_gradient": lambda x: jnp.sum(lax.stop_gradient(jnp.sin(x)) * x + lax.stop_gradient(x)),
    "stop_gradient of a tree": lambda x: jnp.sum(lax.stop_gradient({"a": x, "n": 2})["a"] * x),
    "library": lambda x: jnp.sum(
        jax.nn.softmax(x) * jax.nn.logsumexp(x) + jnp.linalg.norm(x) + jax.nn.gelu(x)
        + jax.scipy.special.xlogy(x**2, 2.0) + jnp.sinc(x) + jax.scipy.special.logsumexp(x)
    ),
}  # fmt: skip


def hessian_trace(grad: Any, f: Any) -> Any:
    return grad(lambda x: jnp.sum(jnp.sin(grad(f)(x))))


CONTEXTS = {
    "grad": lambda grad, f, x: grad(f)(x),
    "jit(grad)": lambda grad, f, x: jax.jit(grad(f))(x),
    "grad(jit)": lambda grad, f, x: grad(jax.jit(f))(x),
    "vmap(grad)": lambda grad, f, x: jax.vmap(grad(f))(jnp.stack([x, -x])),
    "vmap(grad(jit))": lambda grad, f, x: jax.vmap(grad(jax.jit(f)))(jnp.stack([x, -x])),
    "grad(vmap)": lambda grad, f, x: grad(lambda x: jnp.sum(jax.vmap(f)(x)))(jnp.stack([x, -x])),
    "grad(jit(vmap))": lambda grad, f, x: grad(jax.jit(lambda x: jnp.sum(jax.vmap(f)(x))))(
        jnp.stack([x, -x])
    ),
    "second order": lambda grad, f, x: hessian_trace(grad, f)(x),
    "jit(second order)": lambda grad, f, x: jax.jit(hessian_trace(grad, jax.jit(f)))(x),
    "jax.grad over it": lambda grad, f, x: jax.grad(lambda x: jnp.sum(jnp.sin(grad(f)(x))))(x),
    "over jax.grad": lambda grad, f, x: grad(lambda x: jnp.sum(jnp.sin(jax.grad(f)(x))))(x),
}


@pytest.fixture(autouse=True)
def x64() -> Any:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
@pytest.mark.parametrize("fun", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_equals_jax(fun, context):
    x = jnp.asarray(X)
    ours, theirs = context(funcgrad.grad, fun, x), context(jax.grad, fun, x)
    assert_same(ours, theirs, rtol=1e-11, weak=False)


def test_unused_and_integer_outputs_of_custom_functions():
    tree = {"a": jnp.asarray(X), "b": (jnp.asarray(X), 2.0)}
    fun = lambda tree, n: on_trees(tree, n)
    (ours, pullback), (theirs, reference) = (m.vjp(fun, tree, 3) for m in (funcgrad, jax))
    ct = {"out": jnp.cos(X), "b": jnp.sin(X), "n": np.zeros((), jax.dtypes.float0)}
    assert_same((ours, pullback(ct)), (theirs, reference(ct)))


@jax.custom_vjp
def with_constant(a, b):
    return a * b, jnp.ones(3)


with_constant.defvjp(
    lambda a, b: (with_constant(a, b), (a, b)), lambda r, ct: (ct[0] * r[1], ct[0] * r[0])
)


def test_output_without_cotangent_and_without_batch():
    """No cotangent arrives for an output that vmap does not batch."""
    run = lambda grad: grad(lambda b: jnp.sum(jax.vmap(lambda b: with_constant(X, b)[0])(b)))(
        jnp.stack([X, 2 * X])
    )
    assert_same(run(funcgrad.grad), run(jax.grad), rtol=1e-11)


def test_jitted_custom_vjp_of_which_one_output_is_used():
    """Its backward is run for each pattern of cotangents, with all residuals that it reads."""
    fun = jax.jit(lambda x, y: (with_constant(jnp.sin(x), y)[0], 3 * x))
    for index in (0, 1):
        loss = lambda x: jnp.sum(fun(x, X)[index])  # noqa: B023
        assert_same(funcgrad.grad(loss)(jnp.asarray(X)), jax.grad(loss)(jnp.asarray(X)), rtol=1e-11)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_mutable_reference(jit):
    """A value that goes through a reference keeps its gradient; it is never silently dropped."""

    def fun(x: Any) -> Any:
        ref = jax.new_ref(jnp.zeros(3))
        ref[...] = jnp.sin(x)
        return jnp.sum(ref[...])

    fun = jax.jit(fun) if jit else fun
    try:
        ours = funcgrad.grad(fun)(jnp.asarray(X))
    except funcgrad.FuncgradError:
        return
    assert_same(ours, jnp.cos(X), rtol=1e-11)


# --- overridden rules


def times(factor: float) -> Any:
    """A rule that nothing else could be: cotangents are the factor alone."""
    return lambda ct, *operands, **_: tuple(factor * jnp.ones_like(x) for x in operands)


@funcgrad.op
def cube(x):
    return x**3


@cube.defvjp
def cube_vjp(ct, x, *, out):
    return ct * 3 * x**2


@jax.jit
def jitted_tanh(x):
    return jnp.tanh(x) * 1.0


OPS = {
    "primitive": (lax.sin_p, jnp.sin),
    "op": (cube, cube),
    "relu": (jax.nn.relu, jax.nn.relu),
    "jitted": (jitted_tanh, jitted_tanh),
    "custom_jvp": (odd_sin, odd_sin),
    "custom_vjp": (clipped, clipped),
}
PLACES = {
    "top": lambda grad, f: grad(f),
    "jit(grad)": lambda grad, f: jax.jit(grad(f)),
    "in jit": lambda grad, f: grad(jax.jit(f)),
    "in jit in jit": lambda grad, f: grad(jax.jit(lambda x: jax.jit(f)(x) * 1)),
    "in vmap": lambda grad, f: lambda x: grad(lambda x: jnp.sum(jax.vmap(f)(x)))(x[None])[0],
    "vmap(grad)": lambda grad, f: lambda x: jax.vmap(grad(f))(x[None])[0],
    "in jit in vmap": lambda grad, f: lambda x: grad(
        lambda x: jnp.sum(jax.vmap(jax.jit(f))(x))
    )(x[None])[0],
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize(("op", "fun"), OPS.values(), ids=OPS.keys())
def test_override(op, fun, place):
    x = jnp.asarray(X)
    model = lambda x: jnp.sum(fun(x))
    rules = funcgrad.DEFAULT.override({op: times(100.0)})
    overridden = place(functools.partial(funcgrad.grad, rules=rules), model)(x)
    assert_same(overridden, jnp.full(3, 100.0), weak=False)
    default = place(funcgrad.grad, model)(x)
    assert_same(default, place(jax.grad, model)(x), rtol=1e-11, weak=False)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_overrides_do_not_mix(jit):
    """The same jitted function under different rules in one program."""
    fun = jax.jit(lambda x: jnp.sum(jnp.sin(x)))
    a, b = (funcgrad.DEFAULT.override({lax.sin_p: times(f)}) for f in (2.0, 5.0))

    def all_three(x: Any) -> Any:
        return tuple(funcgrad.grad(fun, rules=r)(x) for r in (a, b, funcgrad.DEFAULT, a))

    x = jnp.asarray(X)
    ours = (jax.jit(all_three) if jit else all_three)(x)
    assert_same(ours, (2 + 0 * x, 5 + 0 * x, jnp.cos(x), 2 + 0 * x), rtol=1e-12, weak=False)


def test_override_of_a_function_spares_its_namesake():
    def make(factor: float) -> Any:
        @jax.jit
        def layer(x: Any) -> Any:
            return factor * x

        return layer

    @jax.jit
    def layer(x: Any) -> Any:
        return 3 * x

    rules = funcgrad.DEFAULT.override({layer: times(100.0)})
    grad = funcgrad.grad(lambda x: layer(x) + make(7.0)(x), rules=rules)
    assert float(grad(2.0)) == 107.0


def test_override_in_second_order():
    """The rule is itself differentiated, with the rules of the outer gradient."""
    rules = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: ct * x**4})
    first = funcgrad.grad(jnp.sin, rules=rules)
    for outer in (funcgrad.grad, jax.grad, functools.partial(funcgrad.grad, rules=rules)):
        np.testing.assert_allclose(outer(first)(1.5), 4 * 1.5**3, rtol=1e-12)
        np.testing.assert_allclose(jax.jit(outer(first))(1.5), 4 * 1.5**3, rtol=1e-12)


def test_rule_closing_over_a_differentiated_value():
    """A rule made inside another differentiation may use its values."""

    def outer(scale: Any) -> Any:
        rules = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: ct * scale})
        return funcgrad.grad(lambda x: jnp.sum(jax.jit(jnp.sin)(x) ** 2), rules=rules)(0.7)

    for grad in (funcgrad.grad, jax.grad):
        for run in (grad(outer), jax.jit(grad(outer))):
            np.testing.assert_allclose(run(3.0), 2 * np.sin(0.7), rtol=1e-12)


def test_rule_may_skip_operands_and_return_bare_or_tuple():
    rules = funcgrad.DEFAULT.override({lax.mul_p: lambda ct, x, y, **_: (None, ct * x)})
    gradient = funcgrad.grad(lambda x, y: x * y, (0, 1), rules=rules)
    assert [float(g) for g in gradient(2.0, 3.0)] == [0.0, 2.0]
    rules = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: [ct * 9]})
    assert float(funcgrad.grad(jnp.sin, rules=rules)(1.0)) == 9.0


# --- under checkify, which puts operands of its own before a function's -----------------------------


def checked(fun: Any) -> Any:
    """The value of `fun` as checkify computes it, with all checks."""
    run = checkify.checkify(fun, errors=checkify.all_checks)
    return lambda *args: run(*args)[1]


@pytest.mark.parametrize(
    "wrap",
    [
        checked,
        lambda fun: checked(jax.jit(fun)),
        lambda fun: jax.jit(checked(fun)),
        lambda fun: checked(lambda x: lax.scan(lambda c, _: (c + fun(x), None), 0.0, None, 2)[0]),
    ],
    ids=["plain", "of jit", "jit of", "of scan"],
)
def test_a_custom_jvp_function_with_a_rule_under_checkify(wrap: Any) -> None:
    x = jnp.array([-1.0, 0.0, 2.0])
    loss = wrap(lambda x: jnp.sum(jax.nn.relu(x) * jnp.sin(x)))
    np.testing.assert_allclose(funcgrad.grad(loss)(x), jax.grad(loss)(x), rtol=1e-6)


def test_a_custom_vjp_function_under_checkify() -> None:
    """Its residuals are its own operands; JAX takes checkify's for them, and gives other numbers."""
    product = jax.custom_vjp(lambda x, y: x * y)
    product.defvjp(lambda x, y: (x * y, (x, y)), lambda r, ct: (ct * r[1], ct * r[0]))
    x = jnp.array([-1.0, 0.5, 2.0])
    loss = checked(lambda x: jnp.sum(product(jnp.sin(x), x)))
    expected = jnp.cos(x) * x + jnp.sin(x)
    np.testing.assert_allclose(funcgrad.grad(loss)(x), expected, rtol=1e-6)


def test_an_override_that_cannot_apply_under_checkify_is_an_error() -> None:
    def leaky_vjp(ct: Any, x: Any, **_: Any) -> Any:
        return jnp.where(x > 0, ct, 0.1 * ct)

    rules = funcgrad.DEFAULT.override({jax.nn.relu: leaky_vjp})
    loss = checked(lambda x: jnp.sum(jax.nn.relu(jnp.sin(x))))
    # JAX 0.12 gives an error of its own to custom_vjp functions there, as which overrides are caught
    with pytest.raises((funcgrad.errors.UncaughtCallError, ValueError), match=r"relu|foreach"):
        funcgrad.grad(loss, rules=rules)(jnp.array([-1.0, 2.0]))


# --- solvers on tangents

MATRIX = jnp.array([[4.0, 1.0], [1.0, 3.0]])
RHS = jnp.array([1.0, 2.0])


def by_custom_linear_solve(solver):
    return lambda matrix, b: lax.custom_linear_solve(
        lambda x: matrix @ x,
        b,
        lambda matvec, b: solver(matvec, b),
        lambda matvec, b: solver(matvec, b),
    )


SOLVERS = {
    "cg": lambda matrix, b: cg(matrix, b)[0],
    "cg of a function": lambda matrix, b: cg(lambda x: matrix @ x, b)[0],
    "bicgstab": lambda matrix, b: bicgstab(matrix, b)[0],
    "gmres": by_custom_linear_solve(lambda matvec, b: gmres(matvec, b)[0]),
    "after a barrier": lambda matrix, b: jnp.linalg.solve(*lax.optimization_barrier((matrix, b))),
}


def implicit(solver):
    """The solution of a linear system, with its implicit derivative by `solver`."""

    @jax.custom_jvp
    def solved(matrix, b):
        return jnp.linalg.solve(matrix, b)

    @solved.defjvp
    def solved_jvp(primals, tangents):
        (matrix, b), (dmatrix, db) = primals, tangents
        x = solved(matrix, b)
        return x, solver(matrix, db - dmatrix @ x)

    return solved


@pytest.mark.parametrize("context", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_a_solve_of_tangents(solver, context):
    """It is linear in them, which jax.grad does not see in cg; so the truth is the direct solver's."""
    solved = implicit(solver)
    loss = lambda solve: lambda matrix, b: jnp.sum(jnp.sin(solve(matrix, b)))
    found = context(funcgrad.grad(loss(solved), (0, 1)))(MATRIX, RHS)
    expected = jax.grad(loss(jnp.linalg.solve), (0, 1))(MATRIX, RHS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), found, expected)


@pytest.mark.parametrize("context", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_solver_that_looks_at_its_tangents_is_told_what_to_do(context):
    solved = implicit(lambda matrix, b: gmres(matrix, b)[0])
    with pytest.raises(
        funcgrad.errors.NonLinearJvpError, match=r"inside jax\.lax\.custom_linear_solve"
    ):
        context(funcgrad.grad(lambda b: solved(MATRIX, b).sum()))(RHS)


def root_by_newton(a):
    return lax.while_loop(
        lambda x: jnp.any(abs(x * x - a) > 1e-6), lambda x: (x + a / x) / 2, jnp.ones_like(a)
    )


def root_by_counting(a):
    return lax.fori_loop(0, 6, lambda i, x: (x + a / x) / 2, jnp.ones_like(a))


@pytest.mark.parametrize("context", [lambda f: f, jax.jit, jax.vmap], ids=["eager", "jit", "vmap"])
@pytest.mark.parametrize("root", [root_by_newton, root_by_counting])
def test_a_rule_that_runs_a_loop_by_jvp(root, context):
    """The loop of run-time length carries values and tangents, and the values depend on no tangent."""
    root_of = jax.custom_jvp(root)
    root_of.defjvp(lambda primals, tangents: jax.jvp(root, primals, tangents))
    a = jnp.array([[2.0, 3.0], [4.0, 0.5]])
    found = context(funcgrad.grad(lambda a: jnp.sum(jnp.sin(root_of(a)))))(a)
    np.testing.assert_allclose(found, jnp.cos(a**0.5) * 0.5 * a**-0.5, rtol=1e-5)


# --- rules that compute more from tangents than what is linear in them

POINTS = jnp.array([0.5, 1.5, 2.5])


def with_tangent(tangent: Any) -> Any:
    """The sum of a function whose rule computes its tangent so."""
    fun = jax.custom_jvp(jnp.sin)
    fun.defjvp(lambda primals, tangents: (jnp.sin(*primals), tangent(*primals, *tangents)))
    return lambda x: jnp.sum(fun(x) * POINTS)


UNUSED = {
    "norm": lambda t: jnp.linalg.norm(t),
    "where": lambda t: jnp.where(t > 0, t, 0.0),
    "index": lambda t: t[jnp.argmax(t)],
    "sign": jnp.sign,
    "cond": lambda t: lax.cond(jnp.sum(t) > 0, jnp.sin, jnp.cos, t),
    "relu": lambda t: jax.nn.relu(t) + jax.nn.relu(t > 0),
    "is finite": lambda t: jnp.all(jnp.isfinite(t)),
    "jitted": lambda t: jax.jit(lambda t: (t * t, t > 0))(t),
    "scan": lambda t: lax.scan(lambda c, _: (c * c, c > 0), t, None, length=2),
}


@pytest.mark.parametrize("unused", UNUSED.values(), ids=UNUSED)
def test_what_a_rule_computes_from_tangents_and_does_not_use_is_no_error(unused):
    loss = with_tangent(lambda x, t: (unused(t), 5 * jnp.cos(x) * t)[1])
    for context in (lambda f: f, jax.jit):
        found = context(funcgrad.grad(loss))(POINTS)
        np.testing.assert_allclose(found, 5 * jnp.cos(POINTS) * POINTS, rtol=1e-6)


def test_a_least_squares_solve_of_tangents():
    """It computes the residual's norm, too."""
    loss = with_tangent(lambda x, t: jnp.linalg.lstsq(jnp.diag(1 + x), t)[0])
    np.testing.assert_allclose(funcgrad.grad(loss)(POINTS), jax.grad(loss)(POINTS), rtol=1e-5)


USED = {
    "where": (lambda x, t: jnp.where(t > 0, t, 0.0), "select_n"),
    "sign": (lambda x, t: jnp.sign(t), "sign"),
    "remainder": (lambda x, t: lax.rem(t, x), "rem"),
    "floor": (lambda x, t: jnp.floor(t), "floor"),
    "cast": (lambda x, t: (t > 0).astype(t.dtype), "convert_element_type"),
    "index": (lambda x, t: t[jnp.argmax(t)] * x, "dynamic_slice|gather"),
    "cond": (lambda x, t: lax.cond(jnp.sum(t) > 0, jnp.sin, jnp.cos, t), "cond"),
    "count": (lambda x, t: jnp.sum(t > 0) * x, "convert_element_type"),
    "while": (lambda x, t: lax.while_loop(lambda t: t[0] > 1, lambda t: t / 2, t), "while"),
    "relu": (lambda x, t: jax.nn.relu(t > 0) * t, "mul"),
}


@pytest.mark.parametrize("context", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("tangent", "op"), USED.values(), ids=USED)
def test_what_a_rule_uses_must_be_linear_in_the_tangents(tangent, op, context):
    with pytest.raises(funcgrad.errors.NonLinearJvpError, match=f"`({op})` at .*test_custom.py"):
        context(funcgrad.grad(with_tangent(tangent)))(POINTS)


def test_a_rule_may_not_ask_its_tangents_in_python():
    for ask in (lambda t: t[0] > 0, lambda t: t[0]):
        loss = with_tangent(lambda x, t: t if ask(t) else 2 * t)  # noqa: B023
        with pytest.raises(funcgrad.errors.InputError, match="computed from its tangents is true"):
            funcgrad.grad(loss)(POINTS)


def test_a_rule_may_not_compute_an_output_from_its_tangents():
    fun = jax.custom_jvp(jnp.sin)
    fun.defjvp(lambda primals, tangents: (jnp.sin(*primals) + 0 * tangents[0], tangents[0]))
    with pytest.raises(funcgrad.errors.InputError, match="primal output from its tangents"):
        funcgrad.grad(lambda x: fun(x).sum())(POINTS)
