"""Primitives of third-party packages, whose derivative only JAX was told."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.interpreters.ad import fallback_linearize_rule, primitive_linearizations
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import funcgrad
from funcgrad import _jax
from tests.programs import check_program, normal
from tests.rules.primitives import own_primitives


def primitive(name, fn, multiple=False):
    new = Primitive(name)
    new.multiple_results = multiple
    new.def_impl(fn)
    new.def_abstract_eval(lambda *avals, **params: list(avals) if multiple else avals[-1])
    mlir.register_lowering(new, mlir.lower_fun(fn, multiple_results=multiple))

    def batch(args, dims, **params):
        size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
        args = [batching.bdim_at_front(x, d, size) for x, d in zip(args, dims, strict=True)]
        return new.bind(*args, **params), [0] * len(args) if multiple else 0

    batching.primitive_batchers[new] = batch
    return new


cube_p = primitive("third_party_cube", lambda x, *, k: k * x**3)
ad.primitive_jvps[cube_p] = lambda primals, tangents, *, k: (
    cube_p.bind(*primals, k=k),
    3 * k * primals[0] ** 2 * tangents[0],
)

scale_p = primitive("third_party_scale", lambda a, x: a * x)
"""Linear in its second operand, and told so by a transpose rule; its JVP applies it to tangents."""


def scale_jvp(primals, tangents):
    a, x = primals
    ct_a, ct_x = map(ad.instantiate_zeros, tangents)
    return scale_p.bind(a, x), scale_p.bind(a, ct_x) + scale_p.bind(x, ct_a)


ad.primitive_jvps[scale_p] = scale_jvp
ad.primitive_transposes[scale_p] = lambda ct, a, x: (None, scale_p.bind(a, ct))

counted_p = primitive("third_party_counted", lambda a, x: [jnp.int32(a > 0), a * x], multiple=True)
counted_p.def_abstract_eval(lambda a, x: [a.update(dtype=jnp.dtype("int32"), weak_type=False), x])


def counted_jvp(primals, tangents):
    a, x = primals
    ct_a, ct_x = map(ad.instantiate_zeros, tangents)
    count, y = counted_p.bind(a, x)
    return [count, y], [
        ad.Zero(jax.typeof(count).to_tangent_aval()),
        counted_p.bind(a, ct_x)[1] + x * ct_a,
    ]


ad.primitive_jvps[counted_p] = counted_jvp
ad.primitive_transposes[counted_p] = lambda cts, a, x: (None, counted_p.bind(a, cts[1])[1])

swap_p = primitive("third_party_swap_square", lambda x, y: [y * y, x * x], multiple=True)
ad.primitive_jvps[swap_p] = lambda primals, tangents: (
    swap_p.bind(*primals),
    [
        2 * x * t
        for x, t in zip(primals[::-1], map(ad.instantiate_zeros, tangents[::-1]), strict=True)
    ],
)
linearized_p = primitive("third_party_linearized_sine", jnp.sin)
primitive_linearizations[linearized_p] = functools.partial(
    fallback_linearize_rule, jax.lax.sin_p, accuracy=None
)
"""JAX was told how to linearize it, and no JVP."""
unknown_p = primitive("third_party_without_derivative", lambda x: x)


@jax.custom_jvp
def counted(a, x):
    return counted_p.bind(a, x)[1]


@counted.defjvp
def counted_custom_jvp(primals, tangents):
    a, x = primals
    t_a, t_x = tangents
    return counted(a, x), counted_p.bind(a, t_x)[1] + x * t_a


@jax.custom_jvp
def scaled(a, x):
    return scale_p.bind(a, x)


@scaled.defjvp
def scaled_jvp(primals, tangents):
    a, x = primals
    t_a, t_x = tangents
    return scaled(a, x), scale_p.bind(a, t_x) + scale_p.bind(x, t_a)


PROGRAMS = {
    "nonlinear": lambda x: jnp.sum(jnp.sin(cube_p.bind(x, k=2.0))),
    "linear": lambda x: jnp.sum(scale_p.bind(jnp.sin(x), x)),
    "several outputs": lambda x: jnp.sum(swap_p.bind(x, jnp.sin(x))[0]),
    "in jit": lambda x: jax.jit(lambda x: jnp.sum(cube_p.bind(x, k=1.0) * x))(x),
    "in scan": lambda x: jnp.sum(
        jax.lax.scan(lambda c, y: (scale_p.bind(c, x) + y, None), x, jnp.ones((3, 4)))[0]
    ),
    "integer output": lambda x: jnp.sum(counted_p.bind(jnp.sin(x), x)[1]),
    "integer output of tangents": lambda x: jnp.sum(counted(jnp.sin(x), x)),
    "applied to tangents": lambda x: jnp.sum(scaled(jnp.sin(x), x**2)),
}


@pytest.mark.parametrize("fun", PROGRAMS.values(), ids=PROGRAMS)
def test_works_out_of_the_box(fun):
    check_program(fun, normal(4))


def test_a_derivative_told_as_a_linearization_is_used():
    x = normal(4)
    for wrap in (lambda fun: fun, jax.jit, jax.checkpoint):
        ours = funcgrad.grad(wrap(lambda x: jnp.sum(linearized_p.bind(x * x))))(x)
        np.testing.assert_allclose(ours, 2 * x * np.cos(x * x), rtol=1e-5)


@pytest.mark.parametrize(
    "transform",
    [funcgrad.grad, funcgrad.value_and_grad, funcgrad.jacrev, funcgrad.hessian],
)
def test_strict_refuses_it_by_name(transform):
    with pytest.raises(funcgrad.errors.MissingRuleError, match="third_party_cube"):
        transform(lambda x: jnp.sin(cube_p.bind(x, k=1.0)), strict=True)(1.0)


def test_strict_refuses_it_under_jit_and_in_vjp():
    fun = jax.jit(lambda x: cube_p.bind(x, k=1.0))
    assert float(funcgrad.grad(fun)(2.0)) == 12.0
    with pytest.raises(funcgrad.errors.MissingRuleError, match="third_party_cube"):
        funcgrad.grad(fun, strict=True)(2.0)
    with pytest.raises(funcgrad.errors.MissingRuleError, match="third_party_cube"):
        funcgrad.vjp(fun, 2.0, strict=True)[1](1.0)


def test_a_rule_of_ones_own_goes_before():
    rules = funcgrad.DEFAULT.override({cube_p: lambda ct, x, *, out, k: 100 * ct * k})
    assert (
        float(funcgrad.grad(lambda x: cube_p.bind(x, k=2.0), rules=rules, strict=True)(1.0)) == 200
    )


def test_no_derivative_at_all_is_a_missing_rule():
    with pytest.raises(funcgrad.errors.MissingRuleError, match="third_party_without_derivative"):
        funcgrad.grad(unknown_p.bind)(1.0)


def test_jax_primitives_never_fall_back():
    assert [p for p in own_primitives().values() if _jax.is_foreign(p)] == []
    assert all(map(_jax.is_foreign, (cube_p, counted_p, scale_p, swap_p)))
    assert not _jax.is_foreign(unknown_p)
