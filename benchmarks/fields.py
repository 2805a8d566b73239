"""Losses from many fields, as they are written there: the search for losers takes them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.workloads import (
    Params,
    Workload,
    cross_entropy,
    dense,
    dense_params,
    mlp,
    mlp_params,
    normal,
)

Args = tuple[Any, ...]


def scales(width: int) -> Params:
    return {"scale": jnp.ones(width), "shift": jnp.zeros(width)}


def normed(params: Params, x: Array, axis: int) -> Array:
    """Batch norm (axis 0) or layer norm (axis -1)."""
    mean, variance = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5) * params["scale"] + params["shift"]


def labels(rng: np.random.Generator, count: int, *shape: int) -> Array:
    return jnp.asarray(rng.integers(0, count, shape))


# --- networks


def batch_norm_loss(layers: Any, x: Array, y: Array) -> Array:
    for params in layers[:-1]:
        x = jax.nn.relu(normed(params, x @ params["w"], 0))
    return cross_entropy(dense(layers[-1], x), y)


def batch_norm_args(small: bool) -> Args:
    rng, batch, width = np.random.default_rng(0), *((8, 8) if small else (256, 256))
    pairs = (width // 2, width), (width, width), (width, 10)
    layers = [{"w": normal(rng, *pair), **scales(pair[1])} for pair in pairs[:-1]]
    layers.append(dense_params(rng, *pairs[-1]))
    return layers, normal(rng, batch, width // 2, scale=1.0), labels(rng, 10, batch)


def mixer_loss(layers: Any, x: Array) -> Array:
    for params in layers:
        mixed = mlp(params["tokens"], normed(params["norms"][0], x, -1).swapaxes(1, 2), jax.nn.gelu)
        x = x + mixed.swapaxes(1, 2)
        x = x + mlp(params["channels"], normed(params["norms"][1], x, -1), jax.nn.gelu)
    return jnp.mean(x**2)


def mixer_args(small: bool) -> Args:
    rng, batch, tokens, width = np.random.default_rng(0), *((8, 4, 8) if small else (16, 49, 64))
    layers = [
        {
            "norms": [scales(width), scales(width)],
            "tokens": mlp_params(rng, tokens, 64, tokens),
            "channels": mlp_params(rng, width, 2 * width, width),
        }
        for _ in range(4)
    ]
    return layers, normal(rng, batch, tokens, width, scale=1.0)


def rotated(x: Array) -> Array:
    """Rotary positions (Su et al. 2021) of (batch, position, head, channel)."""
    channels = jnp.arange(x.shape[-1] // 2)
    angles = jnp.arange(x.shape[1])[:, None] * 10_000.0 ** (-channels / len(channels))
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    u, v = jnp.split(x, 2, -1)
    return jnp.concatenate([u * cos - v * sin, u * sin + v * cos], -1)


def decoder_loss(params: Params, tokens: Array) -> Array:
    """A decoder-only transformer with rotary positions, RMS norm and gated layers."""

    def rms(x: Array) -> Array:
        return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

    x = params["embedding"][tokens[:, :-1]]
    length = x.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    for layer in params["layers"]:
        heads = (rms(x) @ layer["qkv"]).reshape(*x.shape[:2], 4, -1)
        q, k, v = jnp.split(heads, 3, -1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k)) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e9))
        x = x + jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape) @ layer["out"]
        hidden = jax.nn.silu(rms(x) @ layer["gate"]) * (rms(x) @ layer["up"])
        x = x + hidden @ layer["down"]
    return cross_entropy(x @ params["embedding"].T, tokens[:, 1:])


def decoder_args(small: bool) -> Args:
    rng, batch, length, width = np.random.default_rng(0), *((8, 4, 16) if small else (4, 128, 64))
    words = 32 if small else 1000
    shapes = {"qkv": 3, "out": 1, "gate": 4, "up": 4}
    layers = [
        {
            **{name: normal(rng, width, n * width) for name, n in shapes.items()},
            "down": normal(rng, 4 * width, width),
        }
        for _ in range(2)
    ]
    embedding = normal(rng, words, width, scale=0.02)
    return {"embedding": embedding, "layers": layers}, labels(rng, words, batch, length + 1)


def experts_loss(params: Params, x: Array) -> Array:
    """A mixture of experts, two of which each row is given to."""
    weights, chosen = lax.top_k(jax.nn.softmax(x @ params["router"]), 2)
    rows = jnp.arange(len(x))[:, None]
    gates = jnp.zeros((len(x), len(params["up"])))
    gates = gates.at[rows, chosen].set(weights / weights.sum(-1, keepdims=True))
    hidden = jax.nn.gelu(jnp.einsum("nd,edh->neh", x, params["up"]))
    return jnp.mean((jnp.einsum("neh,ehd,ne->nd", hidden, params["down"], gates) - x) ** 2)


def experts_args(small: bool) -> Args:
    rng, rows, width = np.random.default_rng(0), *((8, 4) if small else (256, 32))
    up, down = normal(rng, 8, width, 2 * width) / 4, normal(rng, 8, 2 * width, width) / 4
    params = {"router": normal(rng, width, 8), "up": up, "down": down}
    return params, normal(rng, rows, width, scale=1.0)


def graph_attention_loss(params: Params, x: Array, source: Array, target: Array) -> Array:
    h, count = x @ params["w"], len(x)
    score = jax.nn.leaky_relu((h @ params["a"])[source] + (h @ params["b"])[target], 0.2)
    weight = jnp.exp(score - jax.ops.segment_max(score, target, count)[target])
    weight = weight / (jax.ops.segment_sum(weight, target, count)[target] + 1e-9)
    return jnp.mean(jax.ops.segment_sum(weight[:, None] * h[source], target, count) ** 2)


def graph_attention_args(small: bool) -> Args:
    rng, nodes, edges = np.random.default_rng(0), *((8, 32) if small else (500, 4000))
    params = {"w": normal(rng, 32, 32), "a": normal(rng, 32), "b": normal(rng, 32)}
    x = normal(rng, nodes, 32, scale=1.0)
    return params, x, labels(rng, nodes, edges), labels(rng, nodes, edges)


def state_space_loss(params: Params, x: Array) -> Array:
    """A linear recurrence of each channel, by an associative scan."""
    u = x @ params["b"]
    decay = jnp.broadcast_to(jax.nn.sigmoid(params["a"]), u.shape)

    def after(left: Any, right: Any) -> Any:
        return left[0] * right[0], left[1] * right[0] + right[1]

    _, h = lax.associative_scan(after, (decay, u), axis=1)
    return jnp.mean((h @ params["c"] - x) ** 2)


def state_space_args(small: bool) -> Args:
    rng, batch, length = np.random.default_rng(0), *((8, 8) if small else (8, 256))
    params = {"a": normal(rng, 32, scale=1.0), "b": normal(rng, 16, 32), "c": normal(rng, 32, 16)}
    return params, normal(rng, batch, length, 16, scale=1.0)


def linear_attention_loss(params: Params, x: Array) -> Array:
    q, k, v = (x @ params[name] for name in "qkv")
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    seen = jnp.cumsum(jnp.einsum("btd,bte->btde", k, v), 1)
    weight = jnp.einsum("btd,btd->bt", q, jnp.cumsum(k, 1))
    return jnp.mean((jnp.einsum("btd,btde->bte", q, seen) / weight[..., None] - x) ** 2)


def linear_attention_args(small: bool) -> Args:
    rng, batch, length = np.random.default_rng(0), *((8, 4) if small else (8, 64))
    params = {name: normal(rng, 32, 32) for name in "qkv"}
    return params, normal(rng, batch, length, 32, scale=1.0)


def radiance_loss(layers: Any, origin: Array, direction: Array, colour: Array) -> Array:
    """A radiance field, rendered along rays (Mildenhall et al. 2020)."""
    x = origin[:, None] + jnp.linspace(1.0, 4.0, 32)[:, None] * direction[:, None]
    waves = [wave(x * 2.0**k) for k in range(6) for wave in (jnp.sin, jnp.cos)]
    field = mlp(layers, jnp.concatenate([x, *waves], -1), jax.nn.relu)
    opacity = 1 - jnp.exp(-0.1 * jax.nn.relu(field[..., 3]))
    clear = jnp.concatenate([jnp.ones_like(opacity[:, :1]), 1 - opacity[:, :-1]], -1)
    weight = opacity * jnp.cumprod(clear + 1e-10, -1)
    rendered = jnp.sum(weight[..., None] * jax.nn.sigmoid(field[..., :3]), 1)
    return jnp.mean((rendered - colour) ** 2)


def radiance_args(small: bool) -> Args:
    rng, rays = np.random.default_rng(0), 8 if small else 64
    vectors = (normal(rng, rays, 3, scale=1.0) for _ in range(3))
    return mlp_params(rng, 39, 64, 64, 4), *vectors


# --- derivatives within the loss


def physics_loss(layers: Any, points: Array) -> Array:
    """The residual of a heat equation with a source, by derivatives of the network."""

    def residual(point: Array) -> Array:
        def u(x: Array) -> Array:
            return mlp(layers, x)[0]

        return jax.grad(u)(point)[0] - jax.hessian(u)(point)[1, 1] + jnp.sin(u(point))

    return jnp.mean(jax.vmap(residual)(points) ** 2)


def physics_args(small: bool) -> Args:
    rng = np.random.default_rng(0)
    return mlp_params(rng, 2, 32, 32, 1), normal(rng, 8 if small else 256, 2, scale=1.0)


def meta_loss(layers: Any, tasks: Array) -> Array:
    """The loss after two steps of gradient descent on each task (Finn et al. 2017)."""

    def error(layers: Any, x: Array) -> Array:
        return jnp.mean((mlp(layers, x) - jnp.sin(2 * x)) ** 2)

    def adapted(task: Array) -> Array:
        tuned = layers
        for _ in range(2):
            step = jax.grad(error)(tuned, task[0])
            tuned = jax.tree.map(lambda p, ct: p - 0.1 * ct, tuned, step)
        return error(tuned, task[1])

    return jnp.mean(jax.vmap(adapted)(tasks))


def meta_args(small: bool) -> Args:
    rng = np.random.default_rng(0)
    return mlp_params(rng, 1, 40, 40, 1), normal(rng, 8, 2, 2 if small else 10, 1, scale=1.0)


# --- statistics


def gaussian_process_loss(params: Params, x: Array, y: Array) -> Array:
    z = x / jnp.exp(params["lengths"])
    distance = jnp.sum((z[:, None] - z) ** 2, -1)
    kernel = jnp.exp(params["signal"] - distance / 2) + jnp.exp(params["noise"]) * jnp.eye(len(x))
    factor = jnp.linalg.cholesky(kernel)
    solved = jax.scipy.linalg.cho_solve((factor, True), y)
    return y @ solved / 2 + jnp.sum(jnp.log(jnp.diag(factor)))


def gaussian_process_args(small: bool) -> Args:
    rng, count = np.random.default_rng(0), 8 if small else 200
    params = {"lengths": jnp.zeros(4), "signal": jnp.zeros(()), "noise": jnp.zeros(())}
    return params, normal(rng, count, 4, scale=1.0), normal(rng, count, scale=1.0)


def kalman_loss(params: Params, observed: Array) -> Array:
    """The negative log likelihood of a linear Gaussian model, by a scan over its steps."""
    a, c = params["a"], params["c"]
    process, noise = jnp.diag(jnp.exp(params["q"])), jnp.diag(jnp.exp(params["r"]))

    def step(state: Any, y: Array) -> Any:
        mean, cov = a @ state[0], a @ state[1] @ a.T + process
        error, spread = y - c @ mean, c @ cov @ c.T + noise
        gain = jnp.linalg.solve(spread, c @ cov).T
        fit = error @ jnp.linalg.solve(spread, error) + jnp.linalg.slogdet(spread)[1]
        return (mean + gain @ error, cov - gain @ c @ cov), fit / 2

    return jnp.sum(lax.scan(step, (jnp.zeros(4), jnp.eye(4)), observed)[1])


def kalman_args(small: bool) -> Args:
    rng = np.random.default_rng(0)
    params = {"a": 0.9 * jnp.eye(4), "c": normal(rng, 2, 4), "q": jnp.zeros(4), "r": jnp.zeros(2)}
    return params, normal(rng, 4 if small else 100, 2, scale=1.0)


def survival_loss(w: Array, x: Array, observed: Array) -> Array:
    """Cox's partial likelihood of rows in the order of their times."""
    risk = x @ w
    return -jnp.mean(observed * (risk - lax.cumlogsumexp(risk, reverse=True)))


def survival_args(small: bool) -> Args:
    rng, rows = np.random.default_rng(0), 8 if small else 2000
    return (
        normal(rng, 20),
        normal(rng, rows, 20, scale=1.0),
        labels(rng, 2, rows).astype(jnp.float32),
    )


def policy_loss(params: Params, seen: Array, done: Array, reward: Array, old: Array) -> Array:
    """Clipped policy gradient with generalised advantages (Schulman et al. 2017)."""
    log_p, value = (
        jax.nn.log_softmax(mlp(params["policy"], seen)),
        mlp(params["value"], seen)[..., 0],
    )
    now = lax.stop_gradient(value)
    surprise = reward + 0.99 * jnp.concatenate([now[1:], now[-1:]]) - now

    def discounted(total: Array, x: Array) -> Any:
        return (x + 0.95 * 0.99 * total,) * 2

    _, advantage = lax.scan(discounted, jnp.zeros(surprise.shape[1:]), surprise, reverse=True)
    ratio = jnp.exp(jnp.take_along_axis(log_p, done[..., None], -1)[..., 0] - old)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    return jnp.mean((value - advantage - now) ** 2) / 2 - jnp.mean(gain) - 0.01 * jnp.mean(entropy)


def policy_args(small: bool) -> Args:
    rng, steps, batch = np.random.default_rng(0), *((4, 8) if small else (64, 16))
    params = {"policy": mlp_params(rng, 32, 64, 64, 6), "value": mlp_params(rng, 32, 64, 64, 1)}
    seen, reward = normal(rng, steps, batch, 32, scale=1.0), normal(rng, steps, batch, scale=1.0)
    return params, seen, labels(rng, 6, steps, batch), reward, 0.1 * reward - 1.8


# --- simulations and geometry


def heston_loss(params: Params, noise: Array) -> Array:
    """A call's price on paths of Heston's model."""
    dt = 1 / len(noise)

    def step(i: Array, state: Any) -> Any:
        price, variance = state
        first, spread = noise[i, 0], jnp.sqrt(jnp.maximum(variance, 1e-6) * dt)
        second = params["rho"] * first + jnp.sqrt(1 - params["rho"] ** 2) * noise[i, 1]
        drift = params["kappa"] * (params["theta"] - variance) * dt
        price = price * jnp.exp(-(spread**2) / 2 + spread * first)
        return price, variance + drift + params["xi"] * spread * second

    paths = noise.shape[-1]
    start = jnp.ones(paths), jnp.full(paths, 0.04)
    return jnp.mean(jax.nn.relu(lax.fori_loop(0, len(noise), step, start)[0] - 1))


def heston_args(small: bool) -> Args:
    values = {"kappa": 2.0, "theta": 0.04, "xi": 0.3, "rho": -0.7}
    shape = (4, 2, 8) if small else (64, 2, 4096)
    noise = normal(np.random.default_rng(0), *shape, scale=1.0)
    return {name: jnp.float32(value) for name, value in values.items()}, noise


def bundle_loss(params: Params, camera: Array, point: Array, seen: Array) -> Array:
    """Bundle adjustment: where cameras see points, with a robust error."""
    pose, x = params["cameras"][camera], params["points"][point]
    turn = pose[:, :3]
    angle = jnp.sqrt(jnp.sum(turn**2, -1, keepdims=True) + 1e-12)
    axis = turn / angle
    along = axis * jnp.sum(axis * x, -1, keepdims=True) * (1 - jnp.cos(angle))
    turned = x * jnp.cos(angle) + jnp.cross(axis, x) * jnp.sin(angle) + along + pose[:, 3:]
    return jnp.mean(jnp.log1p(jnp.sum((turned[:, :2] / turned[:, 2:] - seen) ** 2, -1)))


def bundle_args(small: bool) -> Args:
    rng, cameras, points, rays = (
        np.random.default_rng(0),
        *((4, 8, 16) if small else (20, 500, 4000)),
    )
    ahead = normal(rng, points, 3, scale=1.0) + jnp.asarray([0.0, 0.0, 5.0])
    params = {"cameras": normal(rng, cameras, 6, scale=0.1), "points": ahead}
    seen = normal(rng, rays, 2, scale=1.0)
    return params, labels(rng, cameras, rays), labels(rng, points, rays), seen


def circuit_loss(angles: Array) -> Array:
    """The magnetisation of the first qubit after layers of rotations and controlled phases."""
    qubits = angles.shape[1]
    state = jnp.zeros(2**qubits, jnp.complex64).at[0].set(1).reshape((2,) * qubits)
    for layer in angles:
        for qubit, (turn, phase) in enumerate(layer):
            cos, sin, factor = jnp.cos(turn / 2), jnp.sin(turn / 2), jnp.exp(0.5j * phase)
            gate = jnp.array([[cos / factor, -sin / factor], [sin * factor, cos * factor]])
            state = jnp.moveaxis(jnp.tensordot(gate, state, ((1,), (qubit,))), 0, qubit)
        for qubit in range(qubits - 1):
            both = (*(slice(None),) * qubit, 1, 1)
            state = state.at[both].multiply(-1)
    chance = jnp.abs(state) ** 2
    return jnp.sum(chance[0]) - jnp.sum(chance[1])


def circuit_args(small: bool) -> Args:
    return (normal(np.random.default_rng(0), 1 if small else 3, 3 if small else 6, 2, scale=1.0),)


FIELDS = (
    Workload("batch_norm", "3 layers 128-256-256-10, batch 256", batch_norm_loss, batch_norm_args),
    Workload("mixer", "4 layers, 49 tokens of width 64, batch 16", mixer_loss, mixer_args),
    Workload("decoder", "2 layers of width 64, 1,000 words", decoder_loss, decoder_args),
    Workload("experts", "8 experts 32-64-32, 256 rows", experts_loss, experts_args),
    Workload(
        "graph_attention", "500 nodes, 4,000 edges", graph_attention_loss, graph_attention_args
    ),
    Workload("state_space", "32 channels, length 256, batch 8", state_space_loss, state_space_args),
    Workload(
        "linear_attention", "width 32, length 64", linear_attention_loss, linear_attention_args
    ),
    Workload("radiance", "64 rays of 32 points", radiance_loss, radiance_args),
    Workload("physics", "MLP 2-32-32-1, 256 points", physics_loss, physics_args),
    Workload("meta", "MLP 1-40-40-1, 8 tasks, 2 steps", meta_loss, meta_args),
    Workload("gaussian_process", "200 points", gaussian_process_loss, gaussian_process_args),
    Workload("kalman", "100 steps of 4 states", kalman_loss, kalman_args),
    Workload("survival", "2,000 rows", survival_loss, survival_args),
    Workload("policy", "64 steps of 16 games", policy_loss, policy_args),
    Workload("heston", "4,096 paths of 64 steps", heston_loss, heston_args),
    Workload("bundle", "20 cameras, 500 points, 4,000 rays", bundle_loss, bundle_args),
    Workload("circuit", "3 layers of 6 qubits", circuit_loss, circuit_args),
)
