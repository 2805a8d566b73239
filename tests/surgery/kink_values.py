"""What each policy of ``funcgrad.kinks`` gives at kinks, ties and poles: one row an op and point.

The column of JAX is computed with ``jax.grad``. That of PyTorch was measured with PyTorch 2.13.0 and is
measured again wherever PyTorch can be imported. ``python -m tests.surgery.kink_values`` writes the table
into docs/kinks.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

PAGE = Path(__file__).parents[2] / "docs" / "kinks.md"
TABLE = re.compile(r"(?<=<!-- table -->\n\n).*?(?=\n\n<!-- end of table -->)", re.S)

inf, nan = np.inf, np.nan
SLOPE, SCALE = 1.6732632423543772, 1.0507009873554805
"""The constants of `selu` (Klambauer et al. 2017)."""


def pool(x: Any) -> Any:
    """Maxima of two neighbours."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID")


def segment_max(x: Any) -> Any:
    """Maxima of the first two elements, and of the third."""
    return jax.ops.segment_max(x, jnp.array([0, 0, 1]), 2)


@dataclass(frozen=True)
class Row:
    """One op at one point.

    Attributes:
      jax: the function of `x`, or of `x` and `y`, as JAX's users write it.
      args: the point.
      zero: the derivatives by the operands with ``kinks("zero")``.
      torch: PyTorch's.
      torch_code: the function as PyTorch's users write it; empty where PyTorch has none, so that
        ``kinks("torch")`` gives what JAX gives.
      jax_versions: what the page says of JAX's values where its versions differ.
      kink: whether ``kinks("raise")`` raises; if not, it gives what ``"zero"`` gives.
    """

    jax: str
    args: tuple[Any, ...]
    zero: tuple[Any, ...]
    torch: tuple[Any, ...]
    torch_code: str = ""
    jax_versions: str = ""
    kink: bool = True

    @property
    def id(self) -> str:
        return f"{self.jax} at {self.point}"

    @property
    def point(self) -> str:
        return ", ".join(map(shown, self.args))

    def function(self, code: str, module: Any) -> Callable[..., Any]:
        """The function in this code, with a scalar result: elements are weighted by 1, 2, 4."""
        names = ", ".join("xy"[: len(self.args)])
        known = {"jnp": jnp, "jax": jax, "lax": lax, "torch": module, "inf": inf}
        f = eval(f"lambda {names}: {code}", {**known, "pool": pool, "segment_max": segment_max})

        def scalar(*args: Any) -> Any:
            y = f(*args)
            return y if y.ndim == 0 else sum(2**i * y[i] for i in range(y.shape[0]))

        return scalar

    @property
    def in_jax(self) -> Callable[..., Any]:
        return self.function(self.jax, None)

    @property
    def arrays(self) -> tuple[Any, ...]:
        return tuple(jnp.asarray(a, jnp.float64) for a in self.args)

    def by_jax(self) -> tuple[Any, ...]:
        """The derivatives that ``jax.grad`` gives."""
        return jax.grad(self.in_jax, tuple(range(len(self.args))))(*self.arrays)

    def by_torch(self, torch: Any) -> tuple[Any, ...]:
        """The derivatives that PyTorch gives."""
        xs = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in self.args]
        y = self.function(self.torch_code, torch)(*xs)
        return tuple(ct.numpy() for ct in torch.autograd.grad(y, xs, materialize_grads=True))

    def expected(self, policy: str) -> tuple[Any, ...]:
        """The derivatives that a policy gives where it raises no error."""
        if policy == "jax":
            return self.by_jax()
        return self.torch if policy == "torch" else self.zero


def shown(value: Any) -> str:
    """A number, or a list of numbers, in few digits."""
    a = np.asarray(value)
    if a.ndim:
        return f"[{', '.join(map(shown, a))}]"
    return f"{float(a) + 0.0:.4g}"  # no minus before a zero


ROWS = (
    # absolute value, extrema
    Row("jnp.abs(x)", (0.0,), (0.0,), (0.0,), "torch.abs(x)"),
    Row("jnp.maximum(x, 0.0)", (0.0,), (0.0,), (0.5,), "torch.maximum(x, torch.zeros_like(x))"),
    Row("jnp.minimum(x, 0.0)", (0.0,), (0.0,), (0.5,), "torch.minimum(x, torch.zeros_like(x))"),
    Row("jnp.maximum(x, y)", (1.0, 1.0), (0.5, 0.5), (0.5, 0.5), "torch.maximum(x, y)"),
    Row("jnp.minimum(x, y)", (1.0, 1.0), (0.5, 0.5), (0.5, 0.5), "torch.minimum(x, y)"),
    Row("jnp.clip(x, 0.0, 1.0)", (0.0,), (0.0,), (1.0,), "torch.clamp(x, 0, 1)"),
    Row("jnp.clip(x, 0.0, 1.0)", (1.0,), (0.0,), (1.0,), "torch.clamp(x, 0, 1)"),
    Row("jnp.clip(x, min=y)", (1.0, 1.0), (0.5, 0.5), (1.0, 0.0), "torch.clamp(x, min=y)"),
    Row("lax.clamp(0.0, x, 1.0)", (0.0,), (0.0,), (1.0,), "torch.clamp(x, 0, 1)"),
    Row("jnp.max(x)", ([1.0, 1.0, 0.0],), ([0.5, 0.5, 0.0],), ([0.5, 0.5, 0.0],), "torch.amax(x)"),
    Row("jnp.min(x)", ([1.0, 1.0, 2.0],), ([0.5, 0.5, 0.0],), ([0.5, 0.5, 0.0],), "torch.amin(x)"),
    Row("jnp.sort(x)", ([1.0, 1.0, 0.0],), ([2.0, 4.0, 1.0],), ([2.0, 4.0, 1.0],),
        "torch.sort(x, stable=True)[0]"),
    Row("lax.top_k(x, 1)[0]", ([1.0, 1.0, 0.0],), ([1.0, 0.0, 0.0],), ([1.0, 0.0, 0.0],),
        "torch.topk(x, 1)[0]"),
    Row("lax.cummax(x)", ([1.0, 1.0, 0.0],), ([4.0, 3.0, 0.0],), ([1.0, 6.0, 0.0],),
        "torch.cummax(x, 0)[0]"),
    Row("lax.cummin(x)", ([1.0, 1.0, 2.0],), ([4.0, 3.0, 0.0],), ([1.0, 6.0, 0.0],),
        "torch.cummin(x, 0)[0]"),
    Row("pool(x)", ([1.0, 1.0, 1.0],), ([1.0, 2.0, 0.0],), ([1.0, 2.0, 0.0],),
        "torch.nn.functional.max_pool1d(x[None, None], 2, 1)[0, 0]"),
    Row("segment_max(x)", ([1.0, 1.0, 0.0],), ([0.5, 0.5, 2.0],), ([0.5, 0.5, 2.0],)),
    # activations
    Row("jax.nn.relu(x)", (0.0,), (0.0,), (0.0,), "torch.relu(x)"),
    Row("jax.nn.relu6(x)", (0.0,), (0.0,), (0.0,), "torch.nn.functional.relu6(x)"),
    Row("jax.nn.relu6(x)", (6.0,), (0.0,), (0.0,), "torch.nn.functional.relu6(x)"),
    Row("jax.nn.leaky_relu(x)", (0.0,), (1.0,), (0.01,), "torch.nn.functional.leaky_relu(x)"),
    Row("jax.nn.leaky_relu(x, 0.2)", (0.0,), (1.0,), (0.2,),
        "torch.nn.functional.leaky_relu(x, 0.2)"),
    Row("jax.nn.elu(x)", (0.0,), (1.0,), (1.0,), "torch.nn.functional.elu(x)", kink=False),
    Row("jax.nn.elu(x, 2.0)", (0.0,), (2.0,), (2.0,), "torch.nn.functional.elu(x, 2.0)"),
    Row("jax.nn.selu(x)", (0.0,), (SCALE * SLOPE,), (SCALE * SLOPE,),
        "torch.nn.functional.selu(x)"),
    Row("jax.nn.celu(x)", (0.0,), (1.0,), (1.0,), "torch.nn.functional.celu(x)", kink=False),
    Row("jax.nn.hard_tanh(x)", (-1.0,), (0.0,), (0.0,), "torch.nn.functional.hardtanh(x)"),
    Row("jax.nn.hard_tanh(x)", (1.0,), (0.0,), (0.0,), "torch.nn.functional.hardtanh(x)"),
    Row("jax.nn.hard_sigmoid(x)", (-3.0,), (0.0,), (0.0,), "torch.nn.functional.hardsigmoid(x)"),
    Row("jax.nn.hard_sigmoid(x)", (3.0,), (0.0,), (0.0,), "torch.nn.functional.hardsigmoid(x)"),
    Row("jax.nn.hard_swish(x)", (-3.0,), (0.0,), (0.0,), "torch.nn.functional.hardswish(x)"),
    Row("jax.nn.hard_swish(x)", (3.0,), (1.0,), (1.0,), "torch.nn.functional.hardswish(x)"),
    Row("jax.nn.softplus(x)", (0.0,), (0.5,), (0.5,), "torch.nn.functional.softplus(x)",
        kink=False),
    # roots and norms
    Row("jnp.sqrt(x)", (0.0,), (0.0,), (inf,), "torch.sqrt(x)"),
    Row("lax.rsqrt(x)", (0.0,), (0.0,), (-inf,), "torch.rsqrt(x)"),
    Row("jnp.cbrt(x)", (0.0,), (0.0,), (inf,)),
    Row("jnp.linalg.norm(x)", ([0.0, 0.0],), ([0.0, 0.0],), ([0.0, 0.0],), "torch.linalg.norm(x)"),
    Row("jnp.linalg.norm(x, 1)", ([0.0, 0.0],), ([0.0, 0.0],), ([0.0, 0.0],),
        "torch.linalg.norm(x, 1)"),
    Row("jnp.linalg.norm(x, 3)", ([0.0, 0.0],), ([0.0, 0.0],), ([0.0, 0.0],),
        "torch.linalg.norm(x, 3)"),
    Row("jnp.linalg.norm(x, inf)", ([0.0, 0.0],), ([0.0, 0.0],), ([0.0, 0.0],),
        "torch.linalg.norm(x, inf)"),
    Row("jnp.linalg.norm(x, inf)", ([1.0, 1.0],), ([0.5, 0.5],), ([0.5, 0.5],),
        "torch.linalg.norm(x, inf)"),
    Row("jnp.hypot(x, y)", (0.0, 0.0), (0.0, 0.0), (nan, nan), "torch.hypot(x, y)",
        jax_versions="0.5, 0.5; nan, nan from 0.12"),
    Row("jnp.hypot(x, y)", (3.0, 3.0), (0.5**0.5, 0.5**0.5), (0.5**0.5, 0.5**0.5),
        "torch.hypot(x, y)", kink=False),
    Row("jnp.std(x)", ([1.0, 1.0],), ([0.0, 0.0],), ([0.0, 0.0],), "torch.std(x, correction=0)"),
    Row("jnp.arctan2(x, y)", (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), "torch.atan2(x, y)"),
    # quotients and powers
    Row("1 / x", (0.0,), (0.0,), (-inf,), "1 / x"),
    Row("x / y", (1.0, 0.0), (0.0, 0.0), (inf, -inf), "x / y"),
    Row("x / y", (0.0, 0.0), (0.0, 0.0), (inf, nan), "x / y"),
    Row("x / jnp.abs(x)", (0.0,), (0.0,), (nan,), "x / torch.abs(x)"),
    Row("x**0", (0.0,), (0.0,), (0.0,), "x**0", kink=False),
    Row("x**-1", (0.0,), (0.0,), (-inf,), "x**-1"),
    Row("x**0.5", (0.0,), (0.0,), (inf,), "x**0.5"),
    Row("x**1.0", (0.0,), (1.0,), (1.0,), "x**1.0", kink=False),
    Row("x**y", (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), "x**y"),
    Row("x**y", (0.0, 0.5), (0.0, 0.0), (inf, 0.0), "x**y"),
    Row("x**y", (0.0, 1.0), (1.0, 0.0), (1.0, 0.0), "x**y", kink=False),
    Row("x**y", (0.0, 2.0), (0.0, 0.0), (0.0, 0.0), "x**y", kink=False),
    Row("x**y", (0.0, -1.0), (0.0, 0.0), (-inf, -inf), "x**y"),
    # logarithms and inverse functions
    Row("jnp.log(x)", (0.0,), (0.0,), (inf,), "torch.log(x)"),
    Row("jnp.log2(x)", (0.0,), (0.0,), (inf,), "torch.log2(x)"),
    Row("jnp.log1p(x)", (-1.0,), (0.0,), (inf,), "torch.log1p(x)"),
    Row("jax.nn.logsumexp(x)", ([-inf, -inf],), ([0.0, 0.0],), ([nan, nan],),
        "torch.logsumexp(x, 0)"),
    Row("jnp.logaddexp(x, y)", (-inf, -inf), (0.0, 0.0), (nan, nan), "torch.logaddexp(x, y)"),
    Row("jnp.arcsin(x)", (1.0,), (0.0,), (inf,), "torch.asin(x)"),
    Row("jnp.arcsin(x)", (-1.0,), (0.0,), (inf,), "torch.asin(x)"),
    Row("jnp.arccos(x)", (1.0,), (0.0,), (-inf,), "torch.acos(x)"),
    Row("jnp.arccosh(x)", (1.0,), (0.0,), (inf,), "torch.acosh(x)"),
    Row("jnp.arctanh(x)", (1.0,), (0.0,), (inf,), "torch.atanh(x)"),
    Row("lax.erf_inv(x)", (1.0,), (0.0,), (inf,), "torch.erfinv(x)"),
    Row("lax.lgamma(x)", (0.0,), (0.0,), (-inf,), "torch.lgamma(x)",
        jax_versions="nan; -inf from 0.12"),
    Row("lax.digamma(x)", (0.0,), (0.0,), (inf,), "torch.digamma(x)"),
    # steps, whose derivative is 0 on both sides
    Row("jnp.sign(x)", (0.0,), (0.0,), (0.0,), "torch.sign(x)", kink=False),
    Row("jnp.floor(x)", (1.0,), (0.0,), (0.0,), "torch.floor(x)", kink=False),
    Row("jnp.round(x)", (0.5,), (0.0,), (0.0,), "torch.round(x)", kink=False),
    # branches that were not selected
    Row("jnp.where(x > 0, jnp.sqrt(x), 0.0)", (0.0,), (0.0,), (nan,),
        "torch.where(x > 0, torch.sqrt(x), 0.0)", kink=False),
    Row("jnp.where(x > 9, x, jnp.exp(x))", (1000.0,), (1.0,), (nan,),
        "torch.where(x > 9, x, torch.exp(x))", kink=False),
    Row("jnp.where(x > 0, 2 * x * (1 / x), 0.0)", (0.0,), (0.0,), (nan,),
        "torch.where(x > 0, 2 * x * (1 / x), 0.0)", kink=False),
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The table in docs/kinks.md."""
    lines = [
        "| function | at | jax | zero | torch | raise |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        values = [
            ", ".join(map(shown, row.expected(policy))) for policy in ("jax", "zero", "torch")
        ]
        values[0] = row.jax_versions or values[0]
        raises = "error" if row.kink else values[1]
        lines.append(f"| `{row.jax}` | {row.point} | {' | '.join(values)} | {raises} |")
    return "\n".join(lines)


def main() -> None:
    """Write the table into the page."""
    jax.config.update("jax_enable_x64", True)
    PAGE.write_text(TABLE.sub(lambda _: table(ROWS), PAGE.read_text()))


if __name__ == "__main__":
    main()
