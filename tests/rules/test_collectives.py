"""Rules of the collectives, inside jax.shard_map and jax.vmap with a named axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import funcgrad
from funcgrad import _jax
from funcgrad.rules import collectives
from tests.meshes import mesh_of, sharded
from tests.rules.cases import Case, assert_close, normal

PVARY, REDUCED_TO_VARYING = _jax.pvary_p, _jax.reduced_vary_cast_p
SWAPPED = [[0, 2], [3, 1]]
DIAGONAL = {"in_specs": P("i"), "out_specs": P("i")}


def over(body: Callable[..., Any], check_vma: bool = True, **specs: Any) -> Callable[..., Any]:
    """`body` of the sine of shards, as a function of whole arrays; jitted, since casts must be."""
    specs = {**DIAGONAL, **specs}
    return jax.jit(sharded(lambda x: body(jnp.sin(x)), check_vma=check_vma, **specs))


def weighted(x: Any) -> Any:
    """Different on each device, so that what differs between devices is seen."""
    return x * (1 + lax.axis_index("i")).astype(x.real.dtype)


X = normal(8, 4)

CASES = [
    Case(
        lax.psum_p,
        over(lambda x: lax.psum(x, "i"), check_vma=False, out_specs=P()),
        (X,),
        "replicated",
    ),
    Case(
        lax.psum_p,
        over(lambda x: weighted(lax.psum(x, "i", axis_index_groups=SWAPPED)), check_vma=False),
        (X,),
        "groups",
    ),
    Case(
        lax.psum_p,
        over(lambda x: lax.psum(x, (0, "i")), check_vma=False, out_specs=P()),
        (X,),
        "positional axis",
        vmap=False,
    ),
    Case(
        _jax.psum_invariant_p,
        over(lambda x: lax.psum(x, "i"), out_specs=P()),
        (X,),
        "replicated",
    ),
    Case(
        _jax.psum_invariant_p,
        over(
            lambda x: weighted(lax.psum(x, ("j", "i"))),
            mesh=mesh_of(i=2, j=2),
            in_specs=P("j", "i"),
        ),
        (X,),
        "two axes",
    ),
    Case(
        _jax.psum_invariant_p,
        over(lambda x: lax.pmean(x, "i"), out_specs=P()),
        (X + 1j * X[::-1],),
        "complex mean",
    ),
    Case(PVARY, over(weighted, in_specs=P()), (X,), "implicit"),
    Case(
        lax.ppermute_p,
        over(lambda x: lax.ppermute(x, "i", [(0, 1), (1, 2), (2, 3), (3, 0)])),
        (X,),
        "ring",
    ),
    Case(
        lax.ppermute_p,
        over(lambda x: lax.ppermute(x, "i", [(0, 1), (3, 0)])),
        (X,),
        "some devices",
    ),
    Case(
        lax.all_gather_p,
        over(lambda x: weighted(lax.all_gather(x, "i", axis=1))),
        (X,),
        "new axis",
    ),
    Case(
        lax.all_gather_p,
        over(lambda x: weighted(lax.all_gather(x, "i", axis=1, tiled=True))),
        (X,),
        "tiled",
    ),
    Case(
        lax.all_gather_p,
        over(
            lambda x: weighted(lax.all_gather(x, "i", axis=2, axis_index_groups=SWAPPED)),
            check_vma=False,
        ),
        (X,),
        "groups",
    ),
    Case(
        lax.all_gather_p,
        over(
            lambda x: weighted(lax.all_gather(x, ("i", "j"), tiled=True)),
            mesh=mesh_of(i=2, j=2),
            in_specs=P(("i", "j")),
            out_specs=P(("i", "j")),
        ),
        (X,),
        "two axes",
    ),
    Case(
        _jax.all_gather_invariant_p,
        over(lambda x: lax.all_gather(x, "i", axis=1, to="invarying"), out_specs=P()),
        (X,),
        "new axis",
    ),
    Case(
        _jax.all_gather_invariant_p,
        over(lambda x: lax.all_gather(x, "i", tiled=True, to="invarying"), out_specs=P()),
        (X,),
        "tiled",
    ),
    Case(
        _jax.reduce_scatter_p,
        over(lambda x: lax.psum_scatter(x, "i", scatter_dimension=1)),
        (X,),
        "axis goes",
    ),
    Case(
        _jax.reduce_scatter_p,
        over(lambda x: lax.psum_scatter(x, "i", tiled=True), in_specs=P(None, "i")),
        (X,),
        "tiled",
    ),
    Case(
        _jax.reduce_scatter_p,
        over(
            lambda x: lax.psum_scatter(x, "i", tiled=True, axis_index_groups=SWAPPED),
            check_vma=False,
        ),
        (X,),
        "groups",
    ),
    Case(
        lax.all_to_all_p,
        over(lambda x: lax.all_to_all(x, "i", 1, 0, tiled=True)),
        (X,),
        "tiled",
    ),
    Case(
        lax.all_to_all_p,
        over(lambda x: lax.all_to_all(x, "i", 1, 1)),
        (X,),
        "axis kept",
    ),
    Case(
        lax.all_to_all_p,
        over(
            lambda x: lax.all_to_all(x, "i", 0, 1, axis_index_groups=SWAPPED, tiled=True),
            check_vma=False,
        ),
        (X,),
        "groups",
        vmap=False,
    ),
    Case(
        _jax.all_gather_reduced_p,
        over(
            lambda x: weighted(
                lax.pcast(lax.all_gather(x, "i", tiled=True, to="reduced"), "i", to="varying")
            )
        ),
        (X,),
        "tiled",
        vmap=False,
    ),
    Case(
        REDUCED_TO_VARYING,
        over(
            lambda x: weighted(
                lax.pcast(lax.all_gather(x, "i", axis=1, to="reduced"), "i", to="varying")
            )
        ),
        (X,),
        "gathered",
        vmap=False,
    ),
    Case(
        _jax.preduced_p,
        over(
            lambda x: weighted(lax.pcast(lax.pcast(x, "i", to="reduced"), "i", to="varying")),
            in_specs=P(),
        ),
        (X,),
        "to varying",
        vmap=False,
    ),
    Case(
        _jax.vary_unreduced_cast_p,
        over(lambda x: lax.psum(lax.pcast(x, "i", to="unreduced"), "i"), out_specs=P()),
        (X,),
        "summed",
        vmap=False,
    ),
    Case(
        _jax.unreduced_psum_p,
        over(lambda x: lax.psum(lax.pcast(weighted(x), "i", to="unreduced"), "i"), out_specs=P()),
        (X,),
        "weighted",
        vmap=False,
    ),
    Case(
        _jax.unreduced_reduce_scatter_p,
        over(
            lambda x: lax.psum_scatter(lax.pcast(x, "i", to="unreduced"), "i", tiled=True),
            in_specs=P(None, "i"),
        ),
        (X,),
        "tiled",
        vmap=False,
    ),
]

TESTED_APART = {_jax.pbroadcast_p, _jax.pbroadcast_dynamic_p, _jax.ragged_all_to_all_p}


UNDER_VMAP = {
    "psum": lambda x: lax.psum(x, "i"),
    "pmean": lambda x: lax.pmean(x, "i"),
    "ppermute": lambda x: lax.ppermute(x, "i", [(0, 1), (1, 2), (2, 3), (3, 0)]),
    "pshuffle": lambda x: lax.pshuffle(x, "i", [2, 0, 3, 1]),
    "all_gather": lambda x: lax.all_gather(x, "i", axis=1),
    "all_gather tiled": lambda x: lax.all_gather(x, "i", tiled=True),
    "psum_scatter": lambda x: lax.psum_scatter(x, "i"),
    "psum_scatter tiled": lambda x: lax.psum_scatter(x, "i", tiled=True),
    "all_to_all": lambda x: lax.all_to_all(x, "i", 0, 0, tiled=True),
    "all_to_all across": lambda x: lax.all_to_all(x, "i", 0, 1, tiled=True),
    "axis_index": lambda x: x * lax.axis_index("i"),
}


@pytest.mark.parametrize("name", UNDER_VMAP)
def test_inside_vmap_with_a_named_axis(name: str) -> None:
    collective = UNDER_VMAP[name]

    def loss(x: Any) -> Any:
        y = collective(jnp.sin(x))
        return jnp.sum(y * y * (1.0 + lax.axis_index("i")))

    def both(x: Any) -> Any:
        return [
            (jax.vmap(grad(loss), axis_name="i")(x), grad(lambda x: mapped_loss(x).sum())(x))
            for grad in (funcgrad.grad, jax.grad)
        ]

    mapped_loss = jax.vmap(loss, axis_name="i")
    with jax.enable_x64(True):
        ours, theirs = jax.jit(both)(jnp.asarray(normal(4, 4, 4)))
        assert_close(ours, theirs, 1e-12, name)


def test_a_rule_is_not_kept_for_an_axis_of_another_size() -> None:
    def loss(x: Any) -> Any:
        return jnp.sum(lax.psum(jnp.sin(x), "i") ** 2)

    for size in (2, 4):
        x = jnp.asarray(normal(size, 3))
        ours = jax.vmap(funcgrad.grad(loss), axis_name="i")(x)
        assert_close(ours, jax.vmap(jax.grad(loss), axis_name="i")(x), 1e-5, str(size))


@pytest.mark.parametrize("dynamic", [False, True])
def test_pbroadcast(dynamic: bool) -> None:
    """No CPU runs it, nor does vmap in JAX 0.10: its rule against the gradient of a copy by hand."""

    def device(x: Any, ct: Any) -> Any:
        ours = (
            collectives.pbroadcast_dynamic_vjp(ct, x, jnp.int32(2), axis_name="i")[0]
            if dynamic
            else collectives.pbroadcast_vjp(ct, x, axis_name="i", source=2)
        )
        return ours, jax.vjp(lambda x: lax.all_gather(x, "i")[2], x)[1](ct)[0]

    ours, theirs = jax.vmap(device, axis_name="i")(jnp.ones((4, 3)), jnp.asarray(normal(4, 3)))
    assert_close(ours, theirs, 1e-6, "rule")


@pytest.mark.parametrize("dynamic", [False, True])
def test_pbroadcast_is_traced_to_its_rule(dynamic: bool) -> None:
    if dynamic and _jax.pbroadcast_dynamic_p is None:
        pytest.skip(f"JAX {jax.__version__} has no pbroadcast from a device that is computed")

    def loss(x: Any, source: Any) -> Any:
        def body(x: Any, source: Any) -> Any:
            return lax.pbroadcast(jnp.sin(x), "i", source if dynamic else 2)

        return jnp.sum(sharded(body, (P("i"), P()), P("i"))(x, source))

    gradient = jax.eval_shape(funcgrad.grad(loss), jnp.ones(4), jnp.int32(2))
    assert gradient.shape == (4,)


@pytest.mark.parametrize(("split", "concat"), [(0, 1), (1, 0), (0, 2), (2, 1)])
def test_all_to_all_that_moves_an_axis(split: int, concat: int) -> None:
    """JAX's own transpose rule fails here, so the expected values are an unsharded program's."""

    def loss(x: Any) -> Any:
        def body(x: Any) -> Any:
            return weighted(jnp.sin(lax.all_to_all(x, "i", split, concat)))

        y = sharded(body, in_specs=P(), out_specs=P("i"))(x)
        return jnp.sum(y**2)

    def unsharded(x: Any) -> Any:
        # Device i gets slice i of everyone's, and they all have the same.
        parts = jnp.moveaxis(x, split, 0)
        return sum(4 * jnp.sum((jnp.sin(parts[i]) * (1.0 + i)) ** 2) for i in range(4))

    shape = [3, 3, 3]
    shape[split] = 4
    with jax.enable_x64(True):
        x = jnp.asarray(normal(*shape))
        assert_close(jax.jit(funcgrad.grad(loss))(x), jax.grad(unsharded)(x), 1e-12, "gradient")


def ragged_by_hand(
    x: Any, filled: Any, starts: Any, sizes: Any, targets: Any, received: Any, **params: Any
) -> Any:
    """What jax.lax.ragged_all_to_all is documented to do, row by row, from everyone's operands."""
    name = params["axis_name"]
    mine = lax.axis_index(name)
    everyone = [lax.all_gather(value, name) for value in (x, starts, sizes, targets)]
    all_x, all_starts, all_sizes, all_targets = everyone
    rows = jnp.arange(filled.shape[0])
    for sender in range(all_x.shape[0]):
        row = rows - all_targets[sender, mine]
        inside = (row >= 0) & (row < all_sizes[sender, mine])
        source = jnp.clip(all_starts[sender, mine] + row, 0, x.shape[0] - 1)
        shape = (-1, *(1,) * (filled.ndim - 1))
        filled = jnp.where(inside.reshape(shape), all_x[sender][source], filled)
    return filled


def test_ragged_all_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CPU runs it: its rule, applied to the operation by hand, against that one's gradient."""
    monkeypatch.setattr(lax, "ragged_all_to_all", ragged_by_hand)
    sizes = np.array([[1, 2], [0, 3]], np.int32)  # from, to
    starts = np.array([[0, 2], [1, 1]], np.int32)
    targets = np.array([[1, 0], [2, 3]], np.int32)

    def device(x: Any, filled: Any, ct: Any) -> Any:
        mine = lax.axis_index("i")
        own = [jnp.asarray(table)[mine] for table in (starts, sizes, targets)]
        operands = (*own, jnp.asarray(sizes)[:, mine])

        def run(x: Any, filled: Any) -> Any:
            return ragged_by_hand(x, filled, *operands, axis_name="i")

        ours = collectives.ragged_all_to_all_vjp(
            ct, x, filled, *operands, axis_name="i", axis_index_groups=None
        )
        return ours[:2], jax.vjp(run, x, filled)[1](ct)

    with jax.enable_x64(True):
        args = [jnp.asarray(normal(2, rows, 2, seed=rows)) for rows in (5, 7, 7)]
        ours, theirs = jax.jit(jax.vmap(device, axis_name="i"))(*args)
        assert_close(ours, theirs, 1e-12, "rule")


@pytest.mark.parametrize("name", ["pmax", "pmin"])
def test_a_collective_without_a_derivative_says_so(name: str) -> None:
    def loss(x: Any) -> Any:
        return jnp.sum(sharded(lambda x: getattr(lax, name)(x, "i"), P("i"), P())(x))

    with pytest.raises(NotImplementedError):
        jax.grad(loss)(jnp.ones(4))
    with pytest.raises(
        funcgrad.errors.MissingRuleError, match=rf"`{name}`, used at .*test_collectives"
    ):
        funcgrad.grad(loss)(jnp.ones(4))
