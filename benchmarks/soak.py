"""Many gradient steps, many functions, many threads: does memory stay flat?

    python benchmarks/soak.py

prints resident memory along the way.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad


def resident_megabytes() -> float:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def layer(h, w):
    """A layer with everything that has a cache of its own."""
    h = jax.checkpoint(lambda h: jnp.tanh(h @ w))(h)
    return jax.nn.relu(h) + jax.lax.cond(h[0, 0] > 0, jnp.sin, jnp.cos, h), None


def loss(params, x):
    h, _ = jax.lax.scan(layer, x, params)
    return jnp.mean(jax.nn.softmax(h) ** 2)


PARAMS = jnp.ones((2, 4, 4)) / 4
X = jnp.ones((3, 4))


def steps(count: int, parts: int = 10) -> Iterator[float]:
    """Gradient steps outside jit; memory after each part of them."""
    gradient, params = funcgrad.grad(loss), PARAMS
    for _ in range(parts):
        for _ in range(count // parts):
            params = params - 1e-3 * gradient(params, X)
        assert np.all(np.isfinite(params))
        gc.collect()
        yield resident_megabytes()


def functions(count: int, parts: int = 10) -> Iterator[float]:
    """Gradients of functions each of which is new, jitted; memory after each part of them."""
    for part in range(parts):
        for i in range(count // parts):
            scale = 1.0 + part + i / count
            inner = jax.jit(lambda p, x, scale=scale: jnp.sum(jnp.tanh(x @ p)) * scale)
            new = jax.jit(funcgrad.grad(lambda p, x, inner=inner: inner(p[0], x) ** 2))
            assert np.all(np.isfinite(new(PARAMS, X)))
            del inner, new
        gc.collect()
        yield resident_megabytes()


def threads(count: int, repeats: int = 20) -> int:
    """Gradients by different rules in many threads at once; how many were wrong."""
    expected = np.asarray(jax.grad(loss)(PARAMS, X))
    wrong: list[int] = []

    def work(number: int) -> None:
        factor = float(number + 1)
        rule = funcgrad.defvjp(jax.lax.tanh_p)(
            lambda ct, x, *, out, **_: factor * ct * (1 - out * out)
        )
        gradient = funcgrad.grad(
            lambda x: jnp.sum(jnp.tanh(x)), rules=funcgrad.DEFAULT.override({jax.lax.tanh_p: rule})
        )
        plain = funcgrad.grad(loss)
        for _ in range(repeats):
            scaled = np.asarray(gradient(X)) / factor
            right = np.allclose(scaled, 1 - np.tanh(X) ** 2, rtol=1e-4)
            if not right or not np.allclose(plain(PARAMS, X), expected, rtol=1e-4, atol=1e-7):
                wrong.append(number)

    started = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return len(wrong)


def training(count: int, parts: int = 10) -> Iterator[float]:
    """Steps of `examples/training/train_image.py` with a checkpoint every 20; memory after each part.

    The number of live arrays may not grow after the first half.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "training"))
    import loop
    import train_image

    sizes: list[float] = []
    arrays: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        places = ["--out", folder, "--checkpoint", f"{folder}/saved", "--every", "20"]
        options = train_image.options_of(["--small", "--steps", str(count), *places])
        program = train_image.Program(options)
        batches = train_image.batches(program.size, options.batch, options.seed)

        def batch_of(number: int) -> Any:
            if number and number % (count // parts) == 0:
                gc.collect()
                sizes.append(resident_megabytes())
                arrays.append(len(jax.live_arrays()))
            return batches[number]

        loop.run(program.step, program.start(), batch_of, options)
    half = len(arrays) // 2
    assert max(arrays[half:]) <= max(arrays[:half]), f"live arrays: {arrays}"
    yield from sizes


def report(name: str, sizes: list[float]) -> None:
    """First and later resident memory, in megabytes."""
    growth = sizes[-1] - sizes[len(sizes) // 2]
    line = ", ".join(f"{size:.0f}" for size in sizes)
    print(f"{name}: {line} MB; second half {growth:+.1f} MB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--functions", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--training", type=int, default=0, help="steps of train_image.py")
    options = parser.parse_args()
    if options.training:
        report(f"{options.training:,} steps of training", list(training(options.training)))
    if options.steps:
        report(f"{options.steps:,} steps outside jit", list(steps(options.steps)))
    if options.functions:
        report(f"{options.functions:,} jitted functions", list(functions(options.functions)))
    print(f"{options.threads} threads: {threads(options.threads)} wrong gradients")
    with jax.checking_leaks():
        jax.jit(funcgrad.grad(loss))(PARAMS, X)
    print("no leaked tracer")
