"""The norm of a gradient without the gradient, for the gradient of each example of a batch.

Goodfellow (2015), "Efficient Per-Example Gradient Computations", for dense layers; Rochette, Manoel
and Tramel (2019) and Bu, Mao and Xu (2022) for convolutions; Li, Tramèr, Liang and Hashimoto (2022)
for sequences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten, tree_leaves_with_path, tree_unflatten

from funcgrad import _jax, errors
from funcgrad.arguments import check_callable, check_inputs, check_scalar, name_of, resolve_argnums
from funcgrad.default import DEFAULT
from funcgrad.places.asked import Asked, edited
from funcgrad.places.program import Block, Place, program_of
from funcgrad.places.selectors import Selector, Site
from funcgrad.surface import public
from funcgrad.surgery.methods.factors import Factors, Reading, add_up, added, factors_of, reading_of
from funcgrad.surgery.methods.parameter_uses import Use, Uses
from funcgrad.transforms import vjp


@public
def squared_norms(
    fun: Callable[..., Any], argnums: int = 0, *, materialise: bool = False
) -> Callable[..., Any]:
    """Return a function that computes the squared norm of each leaf of the gradient of `fun`.

    It takes the place of ``grad(fun)`` in ``vmap(grad(fun))``, where it gives the norm of each
    example's gradient in one pass: a matrix's gradient is a sum of outer products, whose norm
    follows from the factors. The factors of dense layers, convolutions and embeddings are known,
    through reshapes, scans over layers and several reads of one parameter. The gradients of all
    other parameters are computed; a bias's or a scale's is no larger than an activation.

    Args:
      fun: the loss of one example: maps pytrees of arrays to a scalar of real dtype.
      argnums: the argument to differentiate.
      materialise: compute the gradients of large parameters, too, of which the factors are not known.

    Returns:
      A function with `fun`'s arguments that returns a pytree like the argument, with a scalar for each
      leaf: the sum of the squares of the gradient.

    Raises:
      errors.FactorError: the factors of a large parameter are not known, without `materialise`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from funcgrad.surgery.methods import squared_norms
      >>> loss = lambda w, x: jnp.sum(w @ x)
      >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> print(jax.vmap(squared_norms(loss), in_axes=(None, 0))(jnp.ones((5, 2)), x))
      [ 25. 125.]
    """

    must = Must(
        lambda path, is_small: not (materialise or is_small),
        lambda path: "Pass materialise=True to compute this gradient for each example.",
    )

    def norms(*args: Any) -> Any:
        found = factored(fun, argnums, args, must)
        leaves = [
            found.factors[i].squared_norm() if i in found.factors else _squared_norm(found.cts[i])
            for i in range(found.tree.num_leaves)
        ]
        return tree_unflatten(found.tree, leaves)

    return norms


def _squared_norm(ct: Any) -> Any:
    return jnp.sum((ct * ct.conj()).real.astype(jnp.promote_types(ct.real.dtype, jnp.float32)))


@dataclass(frozen=True)
class Must:
    """Which parameters with two axes or more must be in factors, and what helps where one is not.

    Attributes:
      be_in_factors: says so of a parameter's path, and of whether the parameter is small.
      advice: what a message tells the user to do, of a parameter's path.
    """

    be_in_factors: Callable[[str, bool], bool]
    advice: Callable[[str], str]


@dataclass(frozen=True)
class Factored:
    """A gradient, of which some leaves are in factors.

    Attributes:
      tree: the structure of the gradient.
      paths: where each leaf is in it.
      factors: of leaves in factors, by number.
      cts: the other leaves.
    """

    tree: Any
    paths: tuple[str, ...]
    factors: dict[int, Factors]
    cts: dict[int, Any]


def factored(fun: Callable[..., Any], argnums: int, args: tuple[Any, ...], must: Must) -> Factored:
    """The gradient of `fun` by one argument, in factors where they are known.

    Raises:
      errors.FactorError: the factors of a parameter that `must` be in factors are not known.
    """
    check_callable(fun)
    (position,) = resolve_argnums((argnums,), args, fun)
    parameters = check_inputs((args[position],), [position], fun, False, False)
    paths = tuple(keystr(path) for path, _ in tree_leaves_with_path(args[position]))
    others = [*args[:position], *args[position + 1 :]]
    given, in_tree = tree_flatten((args[position], others))
    arrays = [i for i, x in enumerate(given) if _jax.is_array_leaf(x) or _jax.is_number(x)]

    def on_arrays(*values: Any) -> list[Any]:
        leaves = [*given]
        for i, x in zip(arrays, values, strict=True):
            leaves[i] = x
        own, others = tree_unflatten(in_tree, leaves)
        out = fun(*others[:position], own, *others[position:])
        check_scalar(jax.tree.leaves(out), fun, False)
        return jax.tree.leaves(out)

    values = [given[i] for i in arrays]
    closed = _jax.stage_closed(on_arrays, [_jax.typeof(x) for x in values], name_of(fun))
    program = program_of(closed)
    uses = Uses.of(program, {i: _jax.typeof(x) for i, x in enumerate(parameters)})
    plan = _plan(uses, len(parameters))
    _check(plan, uses, parameters, paths, name_of(fun), must)
    factors, cts = _differentiated(closed, values, len(parameters), plan, name_of(fun))
    return Factored(jax.tree.structure(args[position]), paths, factors, cts)


Plan = dict[int, list[tuple[Use, Reading]]]
"""By leaf, the uses of those that are to be in factors."""


def _plan(uses: Uses, count: int) -> Plan:
    """A leaf is in factors if each of its uses has some that add up."""
    found: Plan = defaultdict(list)
    unknown = {*uses.lost}
    for use in uses.known:
        reading = reading_of(use)
        if reading is None:
            unknown.add(use.view.leaf)
        else:
            found[use.view.leaf].append((use, reading))
    return {
        leaf: of_leaf
        for leaf, of_leaf in found.items()
        if leaf not in unknown and add_up([reading.layout for _, reading in of_leaf])
    }


def _check(
    plan: Plan, uses: Uses, parameters: Any, paths: tuple[str, ...], name: str, must: Must
) -> None:
    """Parameters that must be in factors and are not are read by nothing."""
    for leaf, (path, x) in enumerate(zip(paths, parameters, strict=True)):
        of_leaf = [use for use in uses.known if use.view.leaf == leaf]
        is_small = any(use.is_small for use in of_leaf)
        if leaf in plan or x.ndim <= 1 or not must.be_in_factors(path, is_small):
            continue
        unknown = [use for use in of_leaf if reading_of(use) is None]
        followed = unknown or (of_leaf if leaf not in uses.lost else [])
        reads = [*map(str, (use.place for use in followed)), *filter(None, [uses.lost.get(leaf)])]
        if reads:
            listed = "".join(f"\n- {read}" for read in reads)
            shown = _jax.typeof(x).str_short()
            raise errors.FactorError(
                f"The gradient of `{name}` by {path or 'its argument'}, {shown}, was "
                "asked for as a sum of outer products. It is none that funcgrad knows, since the "
                f"parameter is read by{listed}\n{must.advice(path)}"
            )


def _differentiated(
    closed: Any, values: list[Any], count: int, plan: Plan, name: str
) -> tuple[dict[int, Factors], dict[int, Any]]:
    """The factors of the leaves of a plan, and the cotangents of all others."""
    every = [pair for of_leaf in plan.values() for pair in of_leaf]
    read = {f"a{i}": _At(use.place.position, r.operand) for i, (use, r) in enumerate(every)}
    made = {f"d{i}": _At(use.place.position) for i, (use, _) in enumerate(every)}
    program = edited(closed, Asked({**read, **made}, ()), DEFAULT, name)
    others = {i: x for i, x in enumerate(values[:count]) if i not in plan}

    def run(sinks: list[Any], others: dict[int, Any]) -> Any:
        (out, *_), found = program.run([others.get(i, x) for i, x in enumerate(values)], sinks)
        return out, found

    sinks = [program.inputs[key] for key in program.sinks]
    out, pullback, found = vjp(run, sinks, others, has_aux=True)
    ct_sinks, ct_others = pullback(_jax.one_like(out))
    tapped = program.collector(found, ct_sinks)
    of_use = [
        factors_of(use, reading, tapped[f"a{i}"].value, tapped[f"d{i}"].cotangent)
        for i, (use, reading) in enumerate(every)
    ]
    numbers = iter(of_use)
    of_leaf = {leaf: [next(numbers) for _ in uses] for leaf, uses in plan.items()}
    return {leaf: added(factors) for leaf, factors in of_leaf.items()}, ct_others


@dataclass(frozen=True)
class _At(Selector):
    """An operand of the operation with this number, or its result."""

    position: int
    operand: int | None = None

    def places(self, program: Block) -> list[Place]:
        return [place for place in program.walk() if place.position == self.position]

    def sites(self, program: Block) -> list[Site]:
        (place,) = self.places(program)
        eqn = place.equation
        atom = eqn.outvars[0] if self.operand is None else eqn.invars[self.operand]
        return [Site((place,), place.block, (*_jax.variables([atom]),), str(place))]

    def __str__(self) -> str:
        return f"operation {self.position}"
