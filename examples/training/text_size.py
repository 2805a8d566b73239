"""What the text models share: their size, and their interface."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Size:
    """How large a transformer is, and the dtype it computes in; its parameters are float32."""

    vocabulary: int
    length: int = 64
    layers: int = 4
    width: int = 64
    heads: int = 4
    dtype: Any = jnp.float32


@dataclass(frozen=True, eq=False)
class Model:
    """A transformer as two functions.

    Attributes:
      length: how many tokens it reads at most.
      init: from a key to the parameters, a pytree of float32 arrays; those of the layers are stacked,
        the layer first.
      logits: from (params, tokens (batch, length)) to float32 (batch, length, vocabulary).
    """

    length: int
    init: Callable[[jax.Array], Any]
    logits: Callable[[Any, jax.Array], jax.Array]
