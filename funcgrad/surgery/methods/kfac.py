"""The factors of K-FAC, from the operations that read the parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from funcgrad import errors
from funcgrad.surface import public
from funcgrad.surgery.methods.per_example import Must, factored


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KroneckerFactors:
    """The two factors of one parameter's block of the Fisher matrix, ``A ⊗ G``.

    Attributes:
      a: ``E[a a^T]`` of what a layer reads, of shape (parts, m, m).
      g: ``E[d d^T]`` of the cotangents of what the layer returns, of shape (parts, n, n).

    Example:
      >>> import jax.numpy as jnp
      >>> from funcgrad.surgery.methods import KroneckerFactors
      >>> factors = KroneckerFactors(a=jnp.eye(3)[None], g=jnp.eye(2)[None])
      >>> print(factors.a.shape, factors.g.shape)
      (1, 3, 3) (1, 2, 2)
    """

    a: Any
    g: Any


@public
def kronecker_factors(
    fun: Callable[..., Any],
    argnums: int = 0,
    *,
    in_axes: int | Sequence[Any] | None,
    leave_out: Collection[str] = (),
) -> Callable[..., Any]:
    """Return a function that computes K-FAC's factors of each dense layer and convolution.

    Martens and Grosse (2015), "Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature": ``A = E[a a^T]`` and ``G = E[d d^T]``, over the examples. A layer with several
    positions (a sequence, a convolution's patches) has the mean over positions in A and their sum
    in G, as in Grosse and Martens (2016), "A Kronecker-factored approximate Fisher matrix for
    convolution layers".

    Args:
      fun: the loss of one example: maps pytrees of arrays to a scalar of real dtype. For the Fisher
        matrix its labels are drawn from the model; with those of the data it is the empirical one.
      argnums: the argument with the parameters.
      in_axes: which axes of the arguments are those of the examples, as in ``jax.vmap``.
      leave_out: the paths of parameters that get no factors, as the error names them:
        ``"['embedding']"``. Biases that a scan reads layer by layer have two axes and are named here.

    Returns:
      A function with `fun`'s arguments, of a batch, that returns a mapping from a parameter's path
      to its :class:`KroneckerFactors`. Parts are the layers of a scan, and the groups of a
      convolution. A parameter that nothing reads has none, and neither has one with less than two
      axes, such as a bias: append a 1 to `a`.

    Raises:
      errors.FactorError: the factors of a parameter with two axes or more are not known, and the
        parameter is not in `leave_out`; or `leave_out` names none of the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from funcgrad.surgery.methods import kronecker_factors
      >>> loss = lambda w, x: jnp.sum((x @ w) ** 2) / 2
      >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> factors = kronecker_factors(loss, in_axes=(None, 0))(jnp.eye(2), x)
      >>> print(factors[""].a[0])
      [[0.5 0. ]
       [0.  2. ]]
    """

    left_out = frozenset(leave_out)
    must = Must(
        lambda path, is_small: path not in left_out,
        lambda path: f"Pass leave_out=({path!r},) for the factors of the other parameters.",
    )

    def of_batch(*args: Any) -> dict[str, KroneckerFactors]:
        paths = [keystr(path) for path, _ in tree_leaves_with_path(args[argnums])]
        if not left_out.issubset(paths):
            raise errors.FactorError(
                f"leave_out names {', '.join(sorted(left_out.difference(paths)))}, and the parameters "
                f"are {', '.join(paths)}. Name parameters."
            )
        names: list[str] = []

        def of_example(*args: Any) -> list[tuple[Any, Any]]:
            found = factored(fun, argnums, args, must)
            known = {found.paths[i]: f for i, f in found.factors.items()}
            names[:] = [path for path in known if path not in left_out]
            written = [known[path].written_out for path in names]
            return [(f.a, f.d) for f in written]

        pairs = jax.vmap(of_example, in_axes)(*args)
        return {name: _of_layer(a, d) for name, (a, d) in zip(names, pairs, strict=True)}

    return of_batch


def _of_layer(a: Any, d: Any) -> KroneckerFactors:
    """A = E_n[mean_t a a^T] and G = E_n[sum_t d d^T], from arrays of shape (examples, parts, t, ...)."""
    examples, _, positions, _ = a.shape
    a_by_a = jnp.einsum("nptm,nptk->pmk", a, a.conj(), precision="highest")
    d_by_d = jnp.einsum("nptm,nptk->pmk", d, d.conj(), precision="highest")
    return KroneckerFactors(a_by_a / (examples * positions), d_by_d / examples)
