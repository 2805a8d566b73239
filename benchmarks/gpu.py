"""The benchmarks sized for one large GPU (80 GB), with absolute times, from the source tree alone.

    python benchmarks/gpu.py [names...] [--pairs N] [--out FILE] [--small]

wants JAX 0.11 or later with CUDA. It first measures what the device does at most: bytes a second of a
copy, operations a second of a product of matrices. Then it compares funcgrad with `jax.grad` as
`benchmarks/run.py` does, and says for each which part of those rates it reaches. With --small it runs
small sizes on any device, for the tests.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import funcgrad
from benchmarks.loops import lstm_cell, nbody_loss, recurrent_loss, rk4_loss, sinkhorn_loss
from benchmarks.loops import stacked_loss as layers_loss
from benchmarks.measure import Comparison, build, time_calls
from benchmarks.workloads import (
    Params,
    cnn_loss,
    dense_params,
    max_pool,
    mlp_loss,
    normal,
    transformer_loss,
)

OLDEST = (0, 11)
BOUNDS = {"float32": 5e-3, "bfloat16": 6e-2}
"""By how much a leaf may differ, in parts of its largest element: a GPU rounds factors of float32."""
Args = tuple[Any, ...]


@dataclass(frozen=True)
class Sized:
    """A loss with its arguments at two sizes.

    Attributes:
      loss: ``loss(params, *batch)``, a scalar.
      make_args: from sizes, by name, to the arguments.
      large: the sizes for a GPU of 80 GB.
      small: the sizes for the tests.
      dtype: of the parameters and of floating-point data.
    """

    loss: Callable[..., Array]
    make_args: Callable[..., Args]
    large: Mapping[str, int]
    small: Mapping[str, int]
    dtype: str = "float32"

    def args(self, small: bool) -> Args:
        def cast(x: Array) -> Array:
            return x.astype(self.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

        made = self.make_args(**(self.small if small else self.large))
        return jax.tree.map(lambda x: cast(jnp.asarray(x)), made)


# --- arguments by size


def labels(rng: np.random.Generator, classes: int, *shape: int) -> Array:
    return jnp.asarray(rng.integers(classes, size=shape))


def mlp_args(width: int, batch: int) -> Args:
    rng = np.random.default_rng(0)
    layers = [dense_params(rng, width, width) for _ in range(4)]
    return {"layers": layers}, normal(rng, batch, width, scale=1.0), labels(rng, width, batch)


def cnn_args(size: int, channels: int, batch: int) -> Args:
    rng = np.random.default_rng(0)
    widths = (3, channels, 2 * channels, 4 * channels)
    convs = [
        {"w": normal(rng, 3, 3, n, m), "b": jnp.zeros(m)} for n, m in itertools.pairwise(widths)
    ]
    params = {"convs": convs, "dense": dense_params(rng, (size // 8) ** 2 * widths[-1], 10)}
    return params, normal(rng, batch, size, size, 3, scale=1.0), labels(rng, 10, batch)


def transformer_args(
    layers: int, width: int, length: int, batch: int, vocabulary: int, stacked: bool = False
) -> Args:
    rng = np.random.default_rng(0)

    def norm() -> Params:
        return {"scale": jnp.ones(width), "shift": jnp.zeros(width)}

    def block() -> Params:
        attention = {
            "qkv": dense_params(rng, width, 3 * width),
            "out": dense_params(rng, width, width),
        }
        up, down = dense_params(rng, width, 4 * width), dense_params(rng, 4 * width, width)
        return {"norm1": norm(), "attention": attention, "norm2": norm(), "up": up, "down": down}

    blocks: Any = [block() for _ in range(layers)]
    params = {
        "tokens": normal(rng, vocabulary, width, scale=0.1),
        "positions": normal(rng, length, width, scale=0.1),
        "blocks": jax.tree.map(lambda *ws: jnp.stack(ws), *blocks) if stacked else blocks,
        "norm": norm(),
        "head": dense_params(rng, width, vocabulary),
    }
    text = rng.integers(vocabulary, size=(batch, length + 1))
    return params, jnp.asarray(text[:, :-1]), jnp.asarray(text[:, 1:])


def lstm_args(steps: int, width: int, batch: int) -> Args:
    rng = np.random.default_rng(0)
    params = {
        "input": dense_params(rng, width, 4 * width),
        "recurrent": normal(rng, width, 4 * width),
    }
    return params, *(normal(rng, steps, batch, width, scale=1.0) for _ in range(2))


def rk4_args(width: int, batch: int) -> Args:
    rng = np.random.default_rng(0)
    up, down = dense_params(rng, width, 4 * width), dense_params(rng, 4 * width, width)
    return {"up": up, "down": down}, *(normal(rng, batch, width, scale=1.0) for _ in range(2))


def sinkhorn_args(points: int) -> Args:
    rng = np.random.default_rng(0)
    clouds = {name: normal(rng, points, 2, scale=0.5) for name in ("from", "to")}
    return clouds, normal(rng, points, scale=1.0)


def nbody_args(bodies: int) -> Args:
    rng = np.random.default_rng(0)
    params = {
        "log_masses": normal(rng, bodies, scale=0.1) - np.log(bodies),
        "at": normal(rng, bodies, 3, scale=1.0),
        "velocity": normal(rng, bodies, 3, scale=0.3),
    }
    return params, normal(rng, bodies, 3, scale=1.0)


def pool_loss(x: Array) -> Array:
    return jnp.sum(max_pool(jnp.sin(x)) ** 2)


def pool_args(size: int, channels: int, batch: int) -> Args:
    return (normal(np.random.default_rng(0), batch, size, size, channels, scale=1.0),)


def softmax_loss(x: Array) -> Array:
    return jnp.mean(jax.nn.logsumexp(x, axis=-1) - x[:, 0])


def softmax_args(rows: int) -> Args:
    return (normal(np.random.default_rng(0), rows, rows, scale=1.0),)


def embedding_loss(table: Array, tokens: Array) -> Array:
    return jnp.mean(jnp.sin(table[tokens]))


def embedding_args(rows: int, width: int, tokens: int) -> Args:
    rng = np.random.default_rng(0)
    return normal(rng, rows, width, scale=1.0), labels(rng, rows, tokens)


LAYERS = {"layers": 12, "width": 1024, "length": 1024, "batch": 16, "vocabulary": 32_768}
FEW_LAYERS = {"layers": 2, "width": 8, "length": 5, "batch": 2, "vocabulary": 11}
WORKLOADS: Mapping[str, Sized] = {
    "mlp": Sized(
        mlp_loss, mlp_args, {"width": 8192, "batch": 16_384}, {"width": 8, "batch": 3}, "bfloat16"
    ),
    "cnn": Sized(
        cnn_loss,
        cnn_args,
        {"size": 224, "channels": 64, "batch": 128},
        {"size": 8, "channels": 2, "batch": 2},
    ),
    "transformer": Sized(transformer_loss, transformer_args, LAYERS, FEW_LAYERS, "bfloat16"),
    "layers": Sized(
        partial(layers_loss, False),
        partial(transformer_args, stacked=True),
        LAYERS,
        FEW_LAYERS,
        "bfloat16",
    ),
    "lstm": Sized(
        partial(recurrent_loss, lstm_cell),
        lstm_args,
        {"steps": 256, "width": 1024, "batch": 256},
        {"steps": 5, "width": 4, "batch": 2},
    ),
    "rk4": Sized(rk4_loss, rk4_args, {"width": 1024, "batch": 2048}, {"width": 3, "batch": 2}),
    "sinkhorn": Sized(sinkhorn_loss, sinkhorn_args, {"points": 2048}, {"points": 5}),
    "nbody": Sized(nbody_loss, nbody_args, {"bodies": 768}, {"bodies": 4}),
    "pool": Sized(
        pool_loss,
        pool_args,
        {"size": 112, "channels": 64, "batch": 256},
        {"size": 8, "channels": 2, "batch": 2},
    ),
    "softmax": Sized(softmax_loss, softmax_args, {"rows": 16_384}, {"rows": 7}),
    "embedding": Sized(
        embedding_loss,
        embedding_args,
        {"rows": 262_144, "width": 512, "tokens": 1_048_576},
        {"rows": 11, "width": 4, "tokens": 9},
    ),
}


# --- what the device does at most


@dataclass(frozen=True)
class Rates:
    """What was measured of the device: bytes a second of a copy, flops a second of a product."""

    bytes: float
    flops: Mapping[str, float]


def measure_rates(small: bool) -> Rates:
    """The best of ten."""
    elements, side = (2**12, 64) if small else (2**29, 8192)
    x = jnp.ones(elements, jnp.float32)
    copied = 2 * x.nbytes / quickest(jax.jit(lambda x: x + 1), x)
    flops = {}
    for dtype in BOUNDS:
        matrix = jnp.ones((side, side), dtype)
        flops[dtype] = 2 * side**3 / quickest(jax.jit(jnp.matmul), matrix, matrix)
    return Rates(copied, flops)


def quickest(function: Callable[..., Any], *args: Any) -> float:
    """Seconds of the quickest of ten calls, once warm."""

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        return time.perf_counter() - start

    seconds()
    return min(seconds() for _ in range(10))


# --- one workload


@dataclass(frozen=True)
class Row:
    """What was measured of a workload; bytes are known of programs without loops only.

    Attributes:
      run: seconds a call.
      memory: temporary bytes, ours and the reference's.
      compile: seconds, ours and the reference's.
      flops: three times the operations of the loss, what a gradient takes by convention.
      moved: bytes that each program moves, by XLA's count.
    """

    run: Comparison
    memory: tuple[int, int]
    compile: tuple[float, float]
    flops: float
    moved: tuple[float, float] | None


def measure_workload(name: str, small: bool, pairs: int) -> Row:
    """Both sides, once their gradients are found equal."""
    sized = WORKLOADS[name]
    args = sized.args(small)
    fns = funcgrad.value_and_grad(sized.loss), jax.value_and_grad(sized.loss)
    ours, reference = (build(fn, args) for fn in fns)
    check_equal(name, sized.dtype, ours.compiled(*args), reference.compiled(*args))
    function = funcgrad.inspect.cost(sized.loss, *args, xla=False).function
    costs = [side.compiled.cost_analysis() for side in (ours, reference)]
    loops = any("while" in side.lowered.as_text() for side in (ours, reference))
    return Row(
        time_calls(ours.compiled, reference.compiled, args, pairs),
        tuple(side.compiled.memory_analysis().temp_size_in_bytes for side in (ours, reference)),
        (ours.seconds["compile"], reference.seconds["compile"]),
        3 * function.flops,
        None if loops else tuple(cost["bytes accessed"] for cost in costs),
    )


def check_equal(name: str, dtype: str, ours: Any, reference: Any) -> None:
    """Stop if a leaf differs by more than its dtype explains."""
    leaves = zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True)
    pairs = [(np.asarray(x, np.float32), np.asarray(y, np.float32)) for x, y in leaves]
    found = max(np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 1e-30) for x, y in pairs)
    if not found <= BOUNDS[dtype]:  # also catches nan
        sys.exit(f"{name}: the gradients differ by {found:.1e}, over {BOUNDS[dtype]}")


# --- the report


def report(rates: Rates, rows: Mapping[str, Row], small: bool) -> str:
    device = jax.devices()[0]
    measured = ", ".join(
        f"{rate / 1e12:.3g} Tflop/s in {dtype}" for dtype, rate in rates.flops.items()
    )
    return "\n".join(
        [
            "# funcgrad against jax.grad on one GPU",
            "",
            f"Made by `python benchmarks/gpu.py` with JAX {jax.__version__} on {device.device_kind}. "
            f"Measured first: a copy moves {rates.bytes / 1e9:.4g} GB/s, a product of matrices takes "
            f"{measured}. `rate` is three times the operations of the loss over each side's time, "
            "and their part of the product's rate. `bandwidth` is the bytes of each side's own program "
            "by XLA's count, of programs without loops, and their part of the copy's.",
            "",
            "| | run | ratio | memory | compile | rate | bandwidth |",
            "|" + " --- |" * 7,
            *(line(name, row, rates) for name, row in rows.items()),
            "",
            *(f"- {name}: {sizes(name, small)}" for name in rows),
        ]
    )


def line(name: str, row: Row, rates: Rates) -> str:
    run, (memory, reference_memory) = row.run, row.memory
    bandwidth = "-"
    seconds = run.ours, run.reference
    most = rates.flops[WORKLOADS[name].dtype]
    found = [row.flops / s for s in seconds]
    rate = " / ".join(f"{r / 1e12:.3g} Tflop/s ({r / most:.0%})" for r in found)
    if row.moved is not None:
        found = [moved / s for moved, s in zip(row.moved, seconds, strict=True)]
        bandwidth = " / ".join(f"{r / 1e9:.4g} GB/s ({r / rates.bytes:.0%})" for r in found)
    cells = [
        name,
        f"{run.ours * 1e3:.4g} / {run.reference * 1e3:.4g} ms",
        f"{run.ratio:.2f} ({run.low:.2f} to {run.high:.2f})",
        f"{memory / 2**30:.3g} / {reference_memory / 2**30:.3g} GiB",
        f"{row.compile[0]:.3g} / {row.compile[1]:.3g} s",
        rate,
        bandwidth,
    ]
    return f"| {' | '.join(cells)} |"


def sizes(name: str, small: bool) -> str:
    sized = WORKLOADS[name]
    found = sized.small if small else sized.large
    return ", ".join(f"{key} {value:,}" for key, value in found.items()) + f", {sized.dtype}"


# --- the command line


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(WORKLOADS)}; all")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of timed calls (7)")
    parser.add_argument("--out", type=Path, help="write the report there as well")
    parser.add_argument("--small", action="store_true", help="small sizes, on any device")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(WORKLOADS):
        parser.error(f"no workload is called {', '.join(sorted(unknown))}")
    if not options.small and (reason := refused()):
        parser.error(reason)
    jax.config.update("jax_enable_compilation_cache", False)
    rates, rows = measure_rates(options.small), {}
    for name in options.names or WORKLOADS:
        rows[name] = measure_workload(name, options.small, options.pairs)
        print(line(name, rows[name], rates), file=sys.stderr, flush=True)
    text = report(rates, rows, options.small)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


def refused() -> str | None:
    """Why the large sizes cannot be measured here."""
    if jax.__version_info__ < OLDEST:
        return f"JAX {jax.__version__} is installed; 0.11 or later is needed, for its GPU compiler."
    if jax.default_backend() != "gpu":
        return f"JAX runs on {jax.default_backend()}; install jax[cuda12], or pass --small."
    return None


if __name__ == "__main__":
    main()
