"""Where the memory of a gradient goes: a ledger of a transformer, and what to checkpoint.

    python examples/memory_ledger.py

Writes memory_ledger.png, bars by layer and what is left on the way back, and memory_ledger.csv, a row
for each array: who made it, which rule reads it, when it is freed, and what the other choice would
cost. Then it does what the ledger suggests.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

import funcgrad
from funcgrad.inspect import Ledger, residuals


class Block(nn.Module):
    """Attention and a small network, each added to its input."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(h, h)
        h = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        return x + nn.Dense(self.width)(h)


class Transformer(nn.Module):
    """Blocks one after another; `block` may be ``nn.remat(Block)``."""

    layers: int
    width: int
    block: Any = Block

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.layers):
            x = self.block(self.width, name=f"layers_{i}")(x)
        return jnp.mean(nn.Dense(self.width)(x) ** 2)


def kept(model: nn.Module, params: Any, x: Array) -> int:
    """The bytes that the pullback really holds, arguments left out."""
    pullback = jax.jit(lambda *args: funcgrad.vjp(model.apply, *args)[1])(params, x)
    return sum(array.nbytes for array in jax.tree.leaves(pullback.opaque_residuals))


def main(layers: int = 6, width: int = 64, folder: Path = Path()) -> tuple[Ledger, Ledger]:
    x = jax.random.normal(jax.random.key(0), (8, 64, width))
    model = Transformer(layers, width)
    params = model.init(jax.random.key(1), x)

    ledger = residuals(model.apply, params, x)
    print(ledger)
    ledger.to_figure().savefig(folder / "memory_ledger.png", dpi=110)
    ledger.to_pandas().to_csv(folder / "memory_ledger.csv", index=False)

    leaner = Transformer(layers, width, nn.remat(Block))
    after = residuals(leaner.apply, params, x, suggest=False)
    print("\n                    a Block as it is    nn.remat(Block)")
    print(f"kept, by the ledger   {ledger.kept:>14,} {after.kept:>18,}")
    print(f"kept, really          {kept(model, params, x):>14,} {kept(leaner, params, x):>18,}")
    print(f"XLA's temporary memory{ledger.temp_size_in_bytes:>14,} {after.temp_size_in_bytes:>18,}")
    return ledger, after


if __name__ == "__main__":
    main()
