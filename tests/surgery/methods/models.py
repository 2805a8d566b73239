"""Models that are not edited: a plain function, one of flax linen and one of equinox."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

KEYS = jax.random.split(jax.random.key(1), 8)
X = jax.random.normal(KEYS[0], (5, 4))
"""Five examples."""


def plain():
    """``tanh(x @ hidden) @ out`` as a function of its two matrices."""
    params = {
        "hidden": jax.random.normal(KEYS[1], (4, 3)),
        "out": jax.random.normal(KEYS[2], (3, 2)),
    }
    return params, lambda params, x: jnp.tanh(x @ params["hidden"]) @ params["out"]


def flax():
    """The same in flax linen."""
    nn = pytest.importorskip("flax.linen", reason="flax is not installed: pip install flax")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = jnp.tanh(nn.Dense(3, use_bias=False, name="hidden")(x))
            return nn.Dense(2, use_bias=False, name="out")(h)

    model, (params, _) = Net(), plain()
    variables = {"params": {name: {"kernel": w} for name, w in params.items()}}
    return variables, model.apply


def equinox():
    """The same in equinox, whose weights stand on the left."""
    eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install equinox")

    class Net(eqx.Module):
        hidden: eqx.nn.Linear
        out: eqx.nn.Linear

        def __call__(self, x):
            return self.out(jnp.tanh(self.hidden(x)))

    params, _ = plain()
    layers = [eqx.nn.Linear(*w.shape, use_bias=False, key=KEYS[3]) for w in params.values()]
    layers = [
        eqx.tree_at(lambda layer: layer.weight, layer, w.T)
        for layer, w in zip(layers, params.values(), strict=True)
    ]
    arrays, static = eqx.partition(Net(*layers), eqx.is_array)
    return arrays, lambda arrays, x: jax.vmap(eqx.combine(arrays, static))(x)


MODELS = {"plain": plain, "flax": flax, "equinox": equinox}


def matrices(tree):
    """The two matrices of a gradient of one of these models, as the plain function has them."""
    leaves = jax.tree.leaves(tree)
    return [leaf if leaf.shape in ((4, 3), (3, 2)) else leaf.T for leaf in leaves]
