"""A small transformer, a plain function, that is asked for the n-th of seven letters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import funcgrad

LETTERS, LENGTH, LAYERS, HEADS, WIDTH = 10, 7, 2, 4, 32
COST = 0.02  # of a head's output weights, so that no more heads are used than are needed


def init(key: jax.Array) -> Any:
    shapes = {
        f"{name}{i}": (WIDTH, HEADS, WIDTH // HEADS) for i in range(LAYERS) for name in "qkvo"
    }
    shapes |= {
        "token": (LETTERS + LENGTH, WIDTH),
        "place": (LENGTH + 1, WIDTH),
        "out": (WIDTH, LETTERS),
    }
    keys = zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True)
    return {name: jax.random.normal(k, shape) / WIDTH**0.5 for k, (name, shape) in keys}


def model(params: Any, x: jax.Array) -> jax.Array:
    """The logits of the answer, from embedded tokens (LENGTH + 1, WIDTH)."""
    for i in range(LAYERS):
        q, k, v = (jnp.einsum("td,dhk->htk", x, params[f"{name}{i}"]) for name in "qkv")
        with jax.named_scope(f"heads{i}"):
            heads = jax.nn.softmax(q @ k.mT / k.shape[-1] ** 0.5) @ v
        x = x + jnp.einsum("htk,dhk->td", heads, params[f"o{i}"])
    return x[-1] @ params["out"]


def draw(params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two questions about the same letters, embedded, and both answers."""
    letters = jax.random.permutation(key, LETTERS)[:LENGTH]
    numbers = jax.random.choice(key, LENGTH, (2,), replace=False)
    x = [params["token"][jnp.append(letters, LETTERS + n)] + params["place"] for n in numbers]
    return *x, letters[numbers]


def trained(steps: int) -> Any:
    """The parameters after some steps."""
    optimizer = optax.adam(1e-2)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        x, _, answers = jax.vmap(lambda key: draw(params, key))(jax.random.split(key, 128))
        logits = jax.vmap(lambda x: model(params, x))(x)
        wrong = optax.softmax_cross_entropy_with_integer_labels(logits, answers[:, 0]).mean()
        outputs = jnp.stack([params[f"o{i}"] for i in range(LAYERS)])
        return wrong + COST * jnp.sum(jnp.sqrt(jnp.sum(outputs**2, (1, 3))))

    def step(carry: Any, key: jax.Array) -> Any:
        updates, state = optimizer.update(funcgrad.grad(loss)(carry[0], key), carry[1])
        return (optax.apply_updates(carry[0], updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0])
    return run(init(jax.random.key(0)))
