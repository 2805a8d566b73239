"""Whole training steps of small models, for what is asked of a step and not of a gradient.

    python -m tests.steps FOLDER [--reversed]

compiles every step, in this order or the other, with JAX's persistent cache in FOLDER. It prints as JSON
the digest of each program, and whether the cache had it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import funcgrad

OPTIMIZER = optax.adam(1e-2)
Params = dict[str, Array]
X = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)


def make_params() -> Params:
    rng = np.random.default_rng(1)
    return {
        "w": jnp.asarray(rng.standard_normal((6, 6)) / 3, jnp.float32),
        "b": jnp.zeros(6),
        "v": jnp.asarray(rng.standard_normal((6, 6)) / 3, jnp.float32),
    }


def mlp(params: Params, x: Array) -> Array:
    with jax.named_scope("hidden"):
        h = jax.nn.gelu(x @ params["w"] + params["b"])
    with jax.named_scope("head"):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(h @ params["v"], LABELS))


def scan(params: Params, x: Array) -> Array:
    def recurrent(h: Array, _: None) -> tuple[Array, Array]:
        h = jnp.tanh(h @ params["w"] + params["b"])
        return h, jnp.sum(h @ params["v"])

    h, sums = lax.scan(recurrent, x, length=4)
    return jnp.mean(h**2) + jnp.mean(jnp.sin(sums))


def python_loop(more: Callable[..., Any], body: Callable[..., Any], state: Any) -> Any:
    """As ``lax.while_loop`` outside jit, where `jax.grad` differentiates it."""
    while more(state):
        state = body(state)
    return state


def while_loop(params: Params, x: Array, loop: Callable[..., Any] = lax.while_loop) -> Array:
    """A loop whose trips depend on the parameters."""

    def more(state: tuple[Array, Array]) -> Array:
        return (state[1] < 7) & (jnp.sum(jnp.abs(state[0])) > 1e-3)

    def halve(state: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.tanh(state[0] @ params["w"]) / 2, state[1] + 1

    h, _ = loop(more, halve, (x, jnp.zeros((), jnp.int32)))
    return jnp.sum(h @ params["v"] + params["b"])


def checkpoint(params: Params, x: Array) -> Array:
    @jax.checkpoint
    def block(h: Array, _: None) -> tuple[Array, None]:
        h = h + jnp.sin(h @ params["w"]) @ params["v"]
        return h / jnp.sqrt(jnp.mean(h**2) + 1.0), None

    return jnp.sum(lax.scan(block, x, length=3)[0] * params["b"] + 1.0)


def budget(params: Params, x: Array) -> Array:
    def deep(params: Params, x: Array) -> Array:
        for _ in range(4):
            x = jnp.sin(jnp.tanh(x @ params["w"]) @ params["v"]) + params["b"]
        return jnp.sum(x**2)

    return funcgrad.checkpoint(deep, budget=2200)(params, x)


def branches(params: Params, x: Array) -> Array:
    first = lambda x: jnp.sum(jnp.sort(x @ params["w"], 0) * x)
    second = lambda x: jnp.sum(jax.nn.softmax(x @ params["v"] + params["b"]) ** 2)
    return jnp.mean(jax.vmap(lambda row: lax.cond(row[0] > 0, first, second, row[None]))(x))


def scaled_tanh_vjp(ct: Array, x: Array, *, out: Array, **_: Any) -> Array:
    return ct * (1 - out**2) / 2


def normalised(x: Array, scale: float = 2.0) -> Array:
    return scale * x / jnp.sqrt(jnp.mean(x**2) + 1.0)


def straight_vjp(ct: Array, x: Array, *, out: Array, scale: float) -> Array:
    return scale * ct


def overridden(params: Params, x: Array) -> Array:
    def layer(h: Array, _: None) -> tuple[Array, None]:
        return jnp.tanh(normalised(h @ params["w"]) + params["b"]), None

    return jnp.mean((lax.scan(layer, x, length=3)[0] @ params["v"]) ** 2)


LABELS = jnp.arange(8) % 6
OVERRIDES = funcgrad.DEFAULT.override({lax.tanh_p: scaled_tanh_vjp, normalised: straight_vjp})
PLACED = funcgrad.DEFAULT.override(
    {
        lax.dot_general_p: lambda ct, x, y, *, original, **kwargs: [
            2 * ct_x for ct_x in original(ct, x, y, **kwargs)
        ]
    },
    at=funcgrad.at("head"),
)
EDITS = [funcgrad.at("hidden").cotangent(lambda ct: jnp.clip(ct, -1, 1))]


@dataclass(frozen=True)
class Step:
    """A loss, and how its gradient is taken."""

    loss: Callable[..., Array]
    options: dict[str, Any] = field(default_factory=dict)

    def of(self, value_and_grad: Callable[..., Any] = funcgrad.value_and_grad) -> Any:
        """A training step: from parameters, optimiser state and a batch to these and the loss."""
        ours = value_and_grad is funcgrad.value_and_grad
        gradient = value_and_grad(self.loss, **(self.options if ours else {}))

        def step(params: Params, state: Any, x: Array) -> tuple[Params, Any, Any]:
            value, ct_params, *tapped = gradient(params, x)
            updates, state = OPTIMIZER.update(ct_params, state, params)
            return optax.apply_updates(params, updates), state, (value, *tapped)

        return step

    @staticmethod
    def make_args() -> tuple[Params, Any, Array]:
        params = make_params()
        return params, OPTIMIZER.init(params), jnp.asarray(X)


STEPS = {
    "mlp": Step(mlp),
    "scan": Step(scan),
    "while": Step(while_loop),
    "checkpoint": Step(checkpoint),
    "budget": Step(budget),
    "branches": Step(branches),
    "overrides": Step(overridden, {"rules": OVERRIDES}),
    "overrides by place": Step(mlp, {"rules": PLACED}),
    "taps": Step(scan, {"taps": {"h": funcgrad.at(op="tanh")}}),
    "edits": Step(mlp, {"edit": EDITS}),
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main(folder: str, *options: str) -> None:
    events: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    report = {}
    for name in reversed(STEPS) if "--reversed" in options else STEPS:
        step = STEPS[name]
        lowered = jax.jit(step.of(), donate_argnums=(0, 1)).lower(*step.make_args())
        events.clear()
        lowered.compile()
        cached = "/jax/compilation_cache/cache_hits" in events
        report[name] = {"digest": digest(lowered.as_text()), "cached": cached}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
