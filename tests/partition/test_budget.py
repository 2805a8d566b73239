"""funcgrad.checkpoint: minimum cuts and budgets of memory."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import pytest

import funcgrad
from funcgrad.partition.budget import Search, parse_budget
from funcgrad.partition.costs import operations, size_in_bytes
from funcgrad.partition.plan import joint_of
from funcgrad.partition.reach import MinCut
from funcgrad.partition.split import split_of
from tests.programs import check_program, normal


def layers(count, **options):
    """A chain of layers whose intermediate values are worth keeping, as one checkpoint."""

    def net(w, x):
        for _ in range(count):
            x = x + jnp.tanh(jnp.sin(x @ w) * jnp.exp(-(x**2))) @ jnp.where(w > 0, w, -w)
        return x

    net = funcgrad.checkpoint(net, **options) if options else net
    return lambda w, x: jnp.sum(net(w, x) ** 2)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "min-cut"},
        {"budget": 1.0},
        {"budget": 0.8},
        {"budget": 0.7},
        {"budget": "1MB", "prevent_cse": False},
        {"policy": jax.checkpoint_policies.dots_saveable},
        {"policy": None, "budget": None, "prevent_cse": True},
    ],
    ids=["min-cut", "all", "0.8", "0.7", "1MB", "dots", "inputs"],
)
def test_gradient(options):
    check_program(layers(3, **options), 0.3 * normal(3, 3), 0.3 * normal(2, 3, seed=1))


W, X = jnp.ones((64, 64)) / 64, jnp.ones((512, 64))


def region(fun):
    found = funcgrad.inspect.residuals(fun, W, X, compiled=False, suggest=False)
    (region,) = found.regions
    return region


def test_estimates_stay_within_budgets_and_repeat_more_the_less_there_is():
    everything = region(layers(8, budget=1.0)).everything
    repeated, peaks = [], []
    for fraction in (1.0, 0.8, 0.6, 0.45):
        estimate = region(layers(8, budget=fraction)).estimate
        assert estimate.peak <= fraction * everything.peak
        repeated.append(estimate.repeated)
        peaks.append(estimate.peak)
    assert repeated[0] == 0
    assert repeated == sorted(repeated)
    assert repeated[-1] > 0


def test_xla_allocates_less_with_less_budget():
    def temp_bytes(**options):
        fun = layers(12, **options)
        return funcgrad.inspect.residuals(fun, W, X, suggest=False).temp_size_in_bytes

    plain, half, third = temp_bytes(), temp_bytes(budget=0.45), temp_bytes(budget=0.3)
    assert third < half < plain
    assert third < 0.6 * plain


def test_computing_again_is_not_undone_by_the_compiler():
    def count(**options):  # of the layers' exp
        compiled = jax.jit(funcgrad.grad(layers(4, **options))).lower(W, X).compile()
        return compiled.as_text().count(" exponential(")

    assert count(budget=0.65) > count()


def test_min_cut_repeats_nothing_that_is_dear():
    fun = lambda w, x: jnp.sum(funcgrad.checkpoint(block, policy="min-cut")(w, x))
    block = lambda w, x: jnp.tanh(jnp.maximum(x @ w, 0.1) * 2.0 + x)
    again = str(jax.make_jaxpr(lambda w, x: funcgrad.vjp(fun, w, x)[1](1.0))(W, X))
    plain = str(jax.make_jaxpr(lambda w, x: jnp.sum(block(w, x)))(W, X))
    assert again.count("tanh") == plain.count("tanh")
    # two for the gradient, one for the value
    assert again.count("dot_general[") == 3


def joint_of_chain():
    """exp(sin(x @ w)) @ w: four variables that may be kept."""
    closed = jax.make_jaxpr(lambda w, x: jnp.exp(jnp.sin(x @ w)) @ w)(W, X)
    split = split_of(closed, (True, True), funcgrad.DEFAULT)
    return joint_of(split), split.forward.closed.jaxpr.invars


@pytest.mark.parametrize("price", [3.0, 1.0, 0.3, 0.1, 0.01, 0.0])
def test_a_cut_at_a_price_is_cheaper_than_any_choice_of_residuals(price):
    joint, inputs = joint_of_chain()
    search = Search(joint, inputs)
    produced = [v for eqn in joint.equations for v in eqn.outvars]

    def cost(plan):
        return sum(size_in_bytes(v.aval) for v in plan.kept if v not in inputs) + price * sum(
            operations([eqn]) for eqn in plan.replayed
        )

    choices = [
        cost(joint.keeping([*inputs, *subset]))
        for count in range(len(produced) + 1)
        for subset in itertools.combinations(produced, count)
    ]
    assert cost(search.at(price)) <= min(choices) * (1 + 1e-9)


def test_an_impossible_budget_names_the_smallest_possible_one():
    with pytest.raises(funcgrad.errors.BudgetError, match="smallest possible budget") as caught:
        funcgrad.grad(layers(4, budget=100))(W, X)
    words = str(caught.value).replace(",", "").split()
    smallest = int(words[words.index("is") + 1])
    gradient = funcgrad.grad(layers(4, budget=smallest))(W, X)
    assert jnp.allclose(gradient, funcgrad.grad(layers(4))(W, X), rtol=1e-4)
    with pytest.raises(funcgrad.errors.BudgetError):
        funcgrad.grad(layers(4, budget=smallest - 1))(W, X)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(5, 5), (0.5, 0.5), ("200MB", 200 * 10**6), ("1.5 GiB", 3 * 2**29), ("64 b", 64)],
)
def test_ways_to_say_a_budget(budget, expected):
    assert parse_budget(budget) == expected


@pytest.mark.parametrize("budget", [-1, 1.5, "many", "3 apples", True, [1], float("nan")])
def test_bad_budgets(budget):
    with pytest.raises(funcgrad.errors.InputError, match="budget="):
        funcgrad.checkpoint(jnp.sin, budget=budget)


def test_bad_policies():
    with pytest.raises(funcgrad.errors.InputError, match="min-cut"):
        funcgrad.checkpoint(jnp.sin, policy="mincut")
    with pytest.raises(funcgrad.errors.InputError, match="both"):
        funcgrad.checkpoint(jnp.sin, policy="min-cut", budget=0.5)


def test_as_a_decorator_with_static_arguments():
    @funcgrad.checkpoint(policy="min-cut", static_argnums=(1,))
    def power(x, n):
        return x**n

    assert funcgrad.grad(power)(3.0, 4) == 108.0


def test_jax_grad_takes_it_too():
    ours = jax.grad(layers(3, budget=0.5))(W, X)
    assert jnp.allclose(ours, jax.grad(layers(3))(W, X), rtol=1e-5)
    assert MinCut()(jax.lax.dot_general_p)
    assert not MinCut()(jax.lax.add_p)
