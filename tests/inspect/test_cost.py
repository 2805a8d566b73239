"""What a function and its gradient cost: counted by hand, and beside XLA's figures."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from funcgrad.inspect import cost
from funcgrad.partition.work import Work

W, X = jnp.ones((4, 8)), jnp.ones((8, 16))


def rows(found: Any, of: str = "by_op") -> dict[str, tuple[float, float, float]]:
    """Of each op or scope, runs, operations of the function and of the way back."""
    return {
        row.name: (row.count, row.function.operations, row.backward.operations)
        for row in getattr(found, of)
    }


def layer(w: Any, x: Any) -> Any:
    return jnp.tanh(w @ x)


def test_a_matrix_product_is_pulled_back_by_two():
    """Its operands' cotangents are products of the same size each."""
    found = cost(lambda w, x: jnp.sum(w @ x), W, X, xla=False)
    product = 2 * 4 * 8 * 16
    assert rows(found)["dot_general"] == (1, product, 2 * product)
    assert rows(found)["reduce_sum"] == (1, 4 * 16 - 1, 0)
    assert found.function == Work(product + 63, 0, 4 * (32 + 128 + 64) + 4 * (64 + 1))
    assert found.ratio == pytest.approx((3 * product + 63) / (product + 63))


def test_transcendental_functions_are_counted_apart():
    found = cost(lambda x: jnp.sum(jnp.sin(x)), jnp.ones(10), xla=False)
    (row,) = [row for row in found.by_op if row.name == "sin"]
    assert (row.function.flops, row.function.transcendentals) == (0, 10)
    assert (row.backward.flops, row.backward.transcendentals) == (10, 10)  # ct * cos(x)


@pytest.mark.parametrize("length", [1, 7])
def test_a_scan_counts_as_often_as_it_has_steps(length):
    def looped(w: Any, h: Any) -> Any:
        return jnp.sum(lax.scan(lambda h, _: (layer(w, h), None), h, None, length=length)[0])

    found = cost(looped, jnp.eye(8), X, xla=False)
    product = 2 * 8 * 8 * 16
    assert rows(found)["dot_general"] == (length, length * product, 2 * length * product)
    assert rows(found)["tanh"][:2] == (length, length * 8 * 16)


def test_loops_in_loops():
    def inner(h: Any) -> Any:
        return lax.scan(lambda h, _: (h * 2.0, None), h, None, length=3)[0]

    def looped(h: Any) -> Any:
        return jnp.sum(lax.scan(lambda h, _: (inner(h), None), h, None, length=5)[0])

    assert rows(cost(looped, jnp.ones(10), xla=False))["mul"][:2] == (15, 150)


def test_of_branches_the_one_with_the_most_is_counted_and_named():
    def branched(x: Any) -> Any:
        return jnp.sum(lax.cond(x[0] > 0, jnp.negative, lambda x: x * x * x, x))

    found = cost(branched, jnp.ones(10), xla=False)
    assert rows(found)["mul"][:2] == (2, 20)
    assert "neg" not in rows(found)
    words, *_ = found.branches
    assert "branch 0 of 2 of cond at" in words
    assert "test_cost.py" in words
    assert words in str(found)


def newton(a: Any) -> Any:
    return lax.while_loop(lambda x: jnp.abs(x * x - a) > 1e-6, lambda x: (x + a / x) / 2, a)


def test_a_loop_of_unknown_length_is_said_and_not_guessed():
    found = cost(newton, 9.0, xla=False)
    (loop,) = [loop for loop in found.loops if loop.program == "function"]
    assert "while at" in loop.name
    assert "test_cost.py" in loop.name
    assert loop.step.operations == 3 + 4  # add, two divisions; mul, sub, abs, greater
    assert found.function.operations == 0
    assert found.ratio is None
    assert "whose number of steps is not known" in str(found)


def test_a_given_number_of_steps():
    found = cost(newton, 9.0, steps=6, xla=False)
    assert found.function.operations == 6 * 3 + 7 * 4  # the test runs once more
    assert not [loop for loop in found.loops if loop.program == "function"]


def test_name_scopes_on_both_ways_and_inside_calls():
    def network(w: Any, x: Any) -> Any:
        with jax.named_scope("first"):
            x = jax.jit(layer)(w, x)
        with jax.named_scope("second"), jax.named_scope("deep"):
            x = w @ x
        return jnp.sum(x)

    found = cost(network, jnp.eye(8), X, xla=False)
    product = 2 * 8 * 8 * 16
    by_scope = rows(found, "by_scope")
    assert by_scope["second/deep"] == (1, product, 2 * product)
    assert by_scope["first"][:2] == (2, product + 8 * 16)
    assert by_scope["first"][2] >= 2 * product
    assert by_scope[""] == (1, 8 * 16 - 1, 0)
    assert sum(row[1] for row in by_scope.values()) == found.function.operations
    assert sum(row[2] for row in by_scope.values()) == found.backward.operations


def test_scopes_are_added_up_where_they_are_many():
    def network(x: Any) -> Any:
        for i in range(12):
            for name in ("a", "b"):
                with jax.named_scope(f"layer_{i}"), jax.named_scope(name):
                    x = jnp.sin(x)
        return jnp.sum(x)

    found = cost(network, jnp.ones(10), xla=False)
    layers = {f"layer_{i}": (2, 20, 40) for i in range(12)}
    assert len(found.by_scope) == 25
    assert rows(found, "by_scope")["layer_3/b"] == (1, 10, 20)
    added = {
        row.name: (row.count, row.function.operations, row.backward.operations)
        for row in found.scopes()
    }
    assert added == layers | {"": (1, 9, 0)}
    assert "layer_3/b" not in str(found)


def test_what_a_checkpoint_computes_again_is_in_its_row():
    def network(w: Any, x: Any) -> Any:
        return jnp.sum(jax.checkpoint(lambda w, x: jnp.sin(w @ x) ** 2)(w, x))

    kept = cost(lambda w, x: jnp.sum(jnp.sin(w @ x) ** 2), W, X, xla=False)
    found = cost(network, W, X, xla=False)
    product, elements = 2 * 4 * 8 * 16, 4 * 16
    assert rows(found)["<lambda>"][0] == 0
    assert rows(found)["<lambda>"][2] >= product + elements  # the product and the sine
    assert found.backward.operations >= kept.backward.operations + product + elements
    assert found.function == kept.function


def test_an_overridden_function_is_an_op():
    def softmax_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
        return out * (ct - jnp.sum(ct * out, -1, keepdims=True))

    rules = funcgrad.DEFAULT.override({jax.nn.softmax: softmax_vjp})
    found = cost(lambda x: jnp.sum(jax.nn.softmax(x) * x), X, rules=rules, xla=False)
    n, lines = 8 * 16, 8
    rule, sum_at_x = 3 * n + (n - lines), n  # x is read twice; its cotangents meet here
    assert rows(found)["softmax"][2] == rule + sum_at_x
    assert "exp" not in rows(found)


def test_functions_with_rules_of_their_own_are_ops():
    @jax.custom_vjp
    def halved(x: Any) -> Any:
        return jnp.sin(x) * x

    halved.defvjp(lambda x: (halved(x), x), lambda x, ct: (ct * 0.5,))
    found = cost(lambda x: jnp.sum(jax.nn.relu(halved(x))), X, xla=False)
    n = X.size
    assert rows(found)["halved"] == (2, 2 * n, n)
    assert rows(found)["relu"][:2] == (1, n)
    assert rows(found)["relu"][2] > 0
    assert not {"sin", "mul", "max"} & set(rows(found))


def test_structure_without_values():
    shapes = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 16), jnp.float32)
    network = lambda w, x: jnp.sum(layer(w, x))
    assert cost(network, *shapes, xla=False) == cost(network, W, X, xla=False)


def test_integers_keys_and_leaves_that_are_no_arrays():
    def network(params: Any, x: Any, key: Any) -> Any:
        noise = jax.random.uniform(key, (4, 16))
        return jnp.sum(params["activation"](params["w"] @ x[params["at"]]) * noise)

    params = {"w": W, "activation": jnp.tanh, "at": jnp.arange(8)}
    found = cost(network, params, X, jax.random.key(0), xla=False)
    assert rows(found)["dot_general"] == (1, 1024, 2048)
    assert [(own.name, own.function, own.gradient) for own in found.not_counted] == [
        ("random_bits", 1, 1)
    ]
    assert f"at most {found.ratio:.2f} times" in str(found)
    assert "random_bits" in str(found)


def test_no_ratio_where_the_gradient_does_more_that_has_no_count():
    unknown = lambda x: jax.pure_callback(np.sin, x, x)
    own = jax.custom_vjp(unknown)
    own.defvjp(lambda x: (unknown(x), x), lambda x, ct: (ct * unknown(x),))
    found = cost(lambda x: jnp.sum(own(x)), X, xla=False)
    assert [(row.function, row.gradient) for row in found.not_counted] == [(1, 2)]
    assert found.ratio is None


def test_beside_xla():
    """Of a chain of products XLA can leave nothing out: the flops agree."""
    network = lambda a, b, c: jnp.sum((a @ b @ c) ** 2)
    args = [jax.random.normal(jax.random.key(i), (32, 32)) for i in range(3)]
    found = cost(network, *args)
    assert found.xla_function is not None
    assert found.xla_gradient is not None
    assert found.function.flops == pytest.approx(found.xla_function.flops, rel=0.01)
    assert found.gradient.flops == pytest.approx(found.xla_gradient.flops, rel=0.01)
    assert found.function.bytes >= found.xla_function.bytes


def test_xla_counts_the_body_of_a_loop_once():
    """Why a scan's figures differ, as the printed note says."""

    def looped(h: Any) -> Any:
        return jnp.sum(lax.scan(lambda h, _: (jnp.sin(h), None), h, None, length=9)[0])

    found = cost(looped, jnp.ones(10))
    assert found.function.transcendentals == 90
    assert found.xla_function is not None
    assert found.xla_function.transcendentals == 10
    assert "the body of a loop once" in str(found)


def polynomial(x: Any, y: Any) -> Any:
    """Sums, products and quotients alone."""
    for i in range(5):
        x, y = x * y + x, y - x / (y * y + 2.0) * i
    return jnp.sum(x * y)


def test_the_bound_of_a_cheap_gradient():
    found = cost(polynomial, jnp.ones(100), jnp.ones(100), xla=False)
    assert found.ratio is not None
    assert 1 < found.ratio <= 5
    assert "within the 5" in str(found)


def test_a_gradient_above_the_bound_is_said_to_be():
    @jax.custom_vjp
    def dear(x: Any) -> Any:
        return x + 1.0

    def dear_backward(x: Any, ct: Any) -> Any:
        for _ in range(20):
            ct = ct * x
        return (ct,)

    dear.defvjp(lambda x: (dear(x), x), dear_backward)
    found = cost(lambda x: jnp.sum(dear(x)), jnp.ones(10), xla=False)
    assert found.ratio is not None
    assert found.ratio > 5
    assert "above the 5" in str(found)


def test_figures_as_json():
    found = cost(lambda x: jnp.sum(jnp.sin(x)), jnp.ones(10))
    again = json.loads(json.dumps(found.as_dict()))
    assert again["function"]["transcendentals"] == 10
    assert again["ratio"] == found.ratio


def test_auxiliary_data():
    both = lambda x: (jnp.sum(x * x), {"max": jnp.max(x)})
    found = cost(both, jnp.ones(10), has_aux=True, xla=False)
    assert rows(found)["mul"][:2] == (1, 10)
    assert rows(found)["reduce_max"] == (1, 9, 0)


def test_sharded_arrays():
    mesh = jax.make_mesh((8,), ("data",))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.device_put(np.ones((8, 16), np.float32), spec)
    network = lambda w, x: jnp.sum(layer(w, x))
    found, plain = (cost(network, W, given, xla=False) for given in (x, X))
    assert (found.function, found.backward) == (plain.function, plain.backward)


def test_a_function_mapped_over_shards_runs_on_each_device():
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    spec = jax.sharding.PartitionSpec("data", "model")
    mapped = jax.shard_map(jnp.sin, mesh=mesh, in_specs=spec, out_specs=spec)
    x = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec))
    found = cost(lambda x: jnp.sum(mapped(x)), x, xla=False)
    assert rows(found)["sin"][:2] == (8, X.size)
    assert rows(found)["sin"][2] == 2 * X.size  # cos(x), and the product


@pytest.mark.parametrize("steps", [-1, 2.5, "many"])
def test_steps_that_are_no_number(steps):
    with pytest.raises(errors.InputError, match=r"steps=.* an integer"):
        cost(newton, 9.0, steps=steps)


def test_a_symbolic_length_is_refused():
    from jax import export

    (n,) = export.symbolic_shape("n")
    with pytest.raises(errors.InputError, match="a length is not known"):
        cost(jnp.sum, jax.ShapeDtypeStruct((n,), jnp.float32))


def seen(x: Any, n: Any) -> Any:
    """A loop of 3 n steps in a branch in a scan of 4 steps, taken in the last two of them."""

    def doubled(x: Any) -> Any:
        return lax.while_loop(lambda c: c[1] < 3 * n, lambda c: (c[0] * 2.0, c[1] + 1), (x, 0))[0]

    def step(x: Any, i: Any) -> Any:
        return lax.cond(i >= 2, doubled, jnp.negative, x), None

    return jnp.sum(jax.jit(lambda x: lax.scan(step, x, jnp.arange(4))[0])(x))


def test_steps_and_branches_that_a_run_took():
    found = cost(seen, jnp.ones(10), 5, steps="run", xla=False)
    assert rows(found)["mul"][:2] == (
        2 * 15 + 2 * 16,
        2 * 15 * 10 + 2 * 16,
    )  # 3 n, in each test too
    assert rows(found)["neg"][:2] == (2, 20)
    assert (found.loops, found.branches) == ((), ())
    assert found.ratio is not None


@pytest.mark.parametrize(("steps", "most_again"), [(3, 0), (32, 0), (40, 40), (700, 700)])
def test_steps_of_the_gradients_own_loops(steps, most_again):
    """As funcgrad.loops promises: nothing is repeated up to 32 steps, each step once up to 1,024."""

    def looped(x: Any, n: Any) -> Any:
        step = lambda c: (jnp.sin(c[0]), c[1] + 1)
        return jnp.sum(lax.while_loop(lambda c: c[1] < n, step, (x, 0))[0])

    found = cost(looped, jnp.ones(10), steps, steps="run", xla=False)
    (row,) = [row for row in found.by_op if row.name == "sin"]
    assert (row.count, row.function.transcendentals) == (steps, 10 * steps)
    assert row.backward.flops == 10 * steps  # ct cos(x): the product once a step
    assert 10 * steps <= row.backward.transcendentals <= 10 * (steps + most_again)  # cos(x)
    (loop,) = [row for row in found.by_op if row.name == "while"]
    assert loop.backward.transcendentals <= 10 * most_again  # sin(x), run again


def test_a_vmapped_loop_goes_on_until_the_last_example_ends():
    steps = jnp.array([2, 7, 4])
    halve = lambda x, n: lax.while_loop(lambda c: c[1] < n, lambda c: (c[0] / 2, c[1] + 1), (x, 0))[
        0
    ]
    found = cost(lambda x: jnp.sum(jax.vmap(halve)(x, steps)), jnp.ones(3), steps="run", xla=False)
    assert rows(found)["div"][0] == 7


def test_a_run_needs_values():
    with pytest.raises(errors.InputError, match=r"steps='run'.* has no values"):
        cost(newton, jax.ShapeDtypeStruct((), jnp.float32), steps="run")


def test_a_function_that_is_one_loop_of_unknown_length():
    """Nothing can be counted in full, and each loop of the gradient has the line of the user's."""
    printed = str(cost(newton, 9.0, xla=False))
    assert "since the function or its gradient is not counted in full" in printed
    lines = [line for line in printed.splitlines() if line.startswith("Not in the figures")]
    assert {line.split(":")[1].strip().split()[0] for line in lines} == {"while"}
    assert all(" at <unknown line>" not in line and "test_cost.py:" in line for line in lines)
