"""A traced program that is run again: copied into a trace, it is the program that running it gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad import _jax

X = np.linspace(0.1, 0.9, 6, dtype=np.float32).reshape(2, 3)


def ordinary(x, y):
    return jnp.tanh(x) * y - lax.select(x > y, x, y)


def with_scopes(x, y):
    with jax.named_scope("inner"):
        return lax.sin(x) + y


def with_a_print(x, y):
    jax.debug.print("{}", x.sum())
    return x * y


def with_a_call(x, y):
    return jax.jit(lambda x: x * y)(x)


def staged(function, *avals):
    jaxpr, consts = _jax.stage(lambda *args: [function(*args)], avals, "function")
    assert not consts
    return jaxpr


@pytest.mark.parametrize("function", [ordinary, with_scopes, with_a_print, with_a_call])
def test_the_program_is_that_of_running_each_operation(function):
    aval = _jax.typeof(jnp.asarray(X))
    jaxpr = staged(function, aval, aval)

    def under_a_scope(run):
        def outer(x, y):
            with jax.named_scope("outer"):
                return run(jaxpr, [x, y])

        return jax.make_jaxpr(outer)(X, X + 0.1)

    found, expected = map(under_a_scope, (_jax.run_here, _jax.eval_jaxpr))
    assert str(found) == str(expected)
    scopes = [[str(e.source_info.name_stack) for e in p.eqns] for p in (found, expected)]
    assert scopes[0] == scopes[1]
    np.testing.assert_array_equal(
        jax.jit(lambda x, y: _jax.run_here(jaxpr, [x, y])[0])(X, X + 0.1), function(X, X + 0.1)
    )


def test_a_value_of_another_type_is_run_for_its_own_types():
    jaxpr = staged(lambda x: x * 2.0, _jax.typeof(jnp.float32(1)))
    weak = jax.make_jaxpr(lambda: _jax.run_here(jaxpr, [1.5]))()
    assert [v.aval.shape for v in weak.jaxpr.outvars] == [()]
    wide = jax.make_jaxpr(lambda x: _jax.run_here(jaxpr, [x]))(X)  # lax.mul broadcasts scalars
    assert [v.aval.shape for v in wide.jaxpr.outvars] == [X.shape]


def test_settings_of_the_equations_stay():
    with jax.threefry_partitionable(False):
        jaxpr = staged(lambda x: lax.sin(x), _jax.typeof(jnp.asarray(X)))
    with jax.threefry_partitionable(True):
        program = jax.make_jaxpr(lambda x: _jax.run_here(jaxpr, [x]))(X)
    assert [eqn.ctx.threefry_partitionable for eqn in program.eqns] == [False]


def test_outside_jit_the_operations_run():
    aval = _jax.typeof(jnp.asarray(X))
    (out,) = _jax.run_here(staged(ordinary, aval, aval), [jnp.asarray(X), jnp.asarray(X + 0.1)])
    np.testing.assert_allclose(out, ordinary(X, X + 0.1), rtol=1e-6)
