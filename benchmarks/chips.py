"""What a training step is on many devices, counted in the compiled program: no device is needed for it.

    python benchmarks/chips.py [--devices 8 64 1024] [--write]

compiles one step of a transformer (scan over checkpointed layers, parameters sharded over both axes)
for meshes of virtual CPU devices, by funcgrad and by `jax.grad`. It prints what each device computes,
keeps and receives in a step. With --write the table goes into docs/guides/many_chips.md.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "many_chips.md"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@dataclass(frozen=True)
class Sizes:
    """Of the model, and of the batch of one row of devices.

    Attributes:
      rows: pieces of text for each row of devices.
      model_axis: devices of a row: they share each matrix product. The rows share the batch, and each
        keeps a part of the parameters.
      checkpointed: layers are computed again on the way back.
    """

    layers: int = 24
    width: int = 2048
    heads: int = 16
    length: int = 2048
    vocabulary: int = 32768
    rows: int = 4
    model_axis: int = 4
    checkpointed: bool = True


SMALL = Sizes(layers=3, width=64, heads=4, length=32, vocabulary=128, rows=2)

# --- the step


def loss(params: Any, tokens: Any, sizes: Sizes, by_rows: Any) -> Any:
    """The mean negative log likelihood of each next token, of a decoder-only transformer.

    Args:
      params: as `make_args` makes their types.
      tokens: int32 (batch, length + 1).
      sizes: of the model.
      by_rows: the sharding of values between layers: each row of devices has its part of the batch.
    """
    import jax
    import jax.numpy as jnp

    def norm(x: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

    def layer(x: Any, weights: Any) -> tuple[Any, None]:
        batch, length, width = x.shape
        qkv = (norm(x) @ weights["qkv"]).reshape(batch, length, 3, sizes.heads, -1)
        mixed = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0), is_causal=True)
        x = x + mixed.reshape(batch, length, width) @ weights["out"]
        x = x + jax.nn.gelu(norm(x) @ weights["up"]) @ weights["down"]
        return jax.lax.with_sharding_constraint(x, by_rows), None

    layer = jax.checkpoint(layer) if sizes.checkpointed else layer
    x = jax.lax.with_sharding_constraint(params["embedding"][tokens[:, :-1]], by_rows)
    x, _ = jax.lax.scan(layer, x, params["layers"])
    log_p = jax.nn.log_softmax(norm(x) @ params["embedding"].T)
    return -jnp.mean(jnp.take_along_axis(log_p, tokens[:, 1:, None], 2))


def make_args(sizes: Sizes, devices: int) -> Any:
    """Types with shardings, of parameters and tokens."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh(
        (devices // sizes.model_axis, sizes.model_axis),
        ("data", "model"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[:devices],
    )

    def array(spec: Any, *shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    n, width = sizes.layers, sizes.width
    by_column, by_row = P(None, "data", "model"), P(None, "model", "data")
    params = {
        "embedding": array(P("model", "data"), sizes.vocabulary, width),
        "layers": {
            "qkv": array(by_column, n, width, 3 * width),
            "out": array(by_row, n, width, width),
            "up": array(by_column, n, width, 4 * width),
            "down": array(by_row, n, 4 * width, width),
        },
    }
    rows = sizes.rows * devices // sizes.model_axis
    return params, array(P("data", None), rows, sizes.length + 1, dtype=jnp.int32)


def step_of(value_and_grad: Any, sizes: Sizes, by_rows: Any) -> Any:
    import jax

    def step(params: Any, momentum: Any, tokens: Any) -> Any:
        value, ct_params = value_and_grad(partial(loss, sizes=sizes, by_rows=by_rows))(
            params, tokens
        )
        momentum = jax.tree.map(lambda m, ct: 0.9 * m + ct, momentum, ct_params)
        return jax.tree.map(lambda p, m: p - 1e-3 * m, params, momentum), momentum, value

    return step


# --- counting in the compiled program

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
OPERATION = re.compile(rf"^ *(?:ROOT )?%\S+ = (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%([\w.-]+)"
)
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Collectives:
    """How often each kind runs in a step, and how many bytes all of them give to a device."""

    runs: dict[str, int]
    bytes: int


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation of a compiled program, by name, and which is the entry."""
    found: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        header = re.match(r"^(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if header:
            name = header[2]
            entry = name if header[1] else entry
            found[name] = []
        elif name:
            found[name].append(line)
    return found, entry


def collectives(text: str) -> Collectives:
    """Count collectives as they run: those in a loop as often as its trips, which must be known.

    Raises:
      ValueError: a loop with collectives has no known number of trips.
    """
    lines, entry = computations(text)
    runs: Counter[str] = Counter()
    total = 0

    def visit(name: str, times: int, known: bool) -> None:
        nonlocal total
        for line in lines[name]:
            found = OPERATION.match(line)
            if found:
                if not known:
                    raise ValueError(f"a loop of unknown length has collectives: {line}")
                runs[found[2]] += times
                total += times * sum(map(bytes_of, ARRAY.findall(found[1])))
            inside = CALLED.findall(line)
            trips = TRIPS.search(line)
            is_loop = " while(" in line
            for inner in inside:
                visit(
                    inner,
                    times * (int(trips[1]) if trips else 1),
                    known and bool(trips or not is_loop),
                )

    visit(entry, 1, True)
    return Collectives(dict(runs), total)


def bytes_of(array: tuple[str, str]) -> int:
    kind, shape = array
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    return math.prod(map(int, filter(None, shape.split(",")))) * bits // 8


@dataclass(frozen=True)
class Row:
    """What one device does in a step."""

    devices: int
    flops: float
    temporary: int
    arguments: int
    collectives: Collectives
    seconds: float


def measure(value_and_grad: Any, sizes: Sizes, devices: int) -> Row:
    import jax

    params, tokens = make_args(sizes, devices)
    start = time.perf_counter()
    by_rows = tokens.sharding.update(spec=jax.P("data", None, None))
    jitted = jax.jit(step_of(value_and_grad, sizes, by_rows), donate_argnums=(0, 1))
    compiled = jitted.lower(params, params, tokens).compile()
    memory = compiled.memory_analysis()
    return Row(
        devices,
        compiled.cost_analysis()["flops"],
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
        collectives(compiled.as_text()),
        time.perf_counter() - start,
    )


# --- the report


def table(rows: list[tuple[Row, Row]]) -> str:
    """Both sides, funcgrad / jax.grad, a row for each number of devices."""
    header = ["devices", "temporary", "parameters, state, batch", "received", *KINDS[:4]]
    lines = [header, ["---"] * len(header)]
    for ours, reference in rows:
        pair = (ours, reference)
        lines.append(
            [
                str(ours.devices),
                " / ".join(f"{row.temporary / 2**30:.3g}" for row in pair) + " GiB",
                f"{ours.arguments / 2**30:.3g} GiB",
                " / ".join(f"{row.collectives.bytes / 2**30:.3g}" for row in pair) + " GiB",
                *(
                    " / ".join(str(row.collectives.runs.get(kind, 0)) for row in pair)
                    for kind in KINDS[:4]
                ),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--small", action="store_true", help="a small model")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={max(options.devices)}"
    )
    import jax

    import funcgrad

    rows = []
    for devices in options.devices:
        pair = []
        for by in (funcgrad, jax):
            row = measure(by.value_and_grad, SMALL if options.small else Sizes(), devices)
            print(f"{devices} devices, {by.__name__}: {row}", file=sys.stderr, flush=True)
            pair.append(row)
        rows.append(tuple(pair))
    text = table(rows)
    print(text)
    if options.write:
        before, _, rest = PAGE.read_text().partition("<!-- table -->\n")
        _, _, after = rest.partition("<!-- end -->")
        PAGE.write_text(f"{before}<!-- table -->\n{text}\n<!-- end -->{after}")


if __name__ == "__main__":
    main()
