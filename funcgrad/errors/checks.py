"""Errors of the tools that check and measure gradients."""

from __future__ import annotations

from typing import Any

from funcgrad.errors.base import FuncgradError


class NotFiniteError(FuncgradError, FloatingPointError):
    """A value or a gradient is not finite, and somebody looks for that.

    Attributes:
      report: a :class:`funcgrad.inspect.NonFinite`, which says where it begins; None under
        ``jax_debug_nans``.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> funcgrad.grad(jnp.sqrt, debug_nans=True)(0.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.NotFiniteError: ...An infinity begins at `div`...
    """

    def __init__(self, message: str, report: Any = None):
        super().__init__(message)
        self.report = report

    @classmethod
    def of(cls, report: Any) -> NotFiniteError:
        """The error with what is known of the place in its message."""
        return cls(
            f"Under debug_nans=True the value and the gradient must be finite.\n{report}", report
        )


class GradientError(FuncgradError, AssertionError):
    """A check of a gradient failed.

    Attributes:
      report: the report of all checks that ran.
      check: the first that failed.
      cotangent: a cotangent that shows the failure, a pytree like the function's output, or None.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> @jax.custom_vjp
      ... def square(x):
      ...     return x * x
      >>> square.defvjp(lambda x: (x * x, x), lambda x, ct: (ct * x,))  # the factor 2 is forgotten
      >>> funcgrad.testing.check_grads(square, (3.0,), modes=["jax"])  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.GradientError: A gradient of `square...` was checked and is wrong.
      jax: the cotangent of argument [0] is wrong: ...
    """

    def __init__(self, report: Any, check: Any, cotangent: Any, shown: str):
        self.report, self.check, self.cotangent = report, check, cotangent
        with_cotangent = f"\nCotangent: {shown}" if cotangent is not None else ""
        super().__init__(
            f"A gradient of `{report.name}` was checked and is wrong.\n"
            f"{check.name}: {check.detail}{with_cotangent}\n\n{report}"
        )


class FactorError(FuncgradError, ValueError):
    """A large parameter's gradient is not known as a sum of outer products.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import squared_norms
      >>> loss = lambda w, x: jnp.sum(x @ (w @ w))
      >>> squared_norms(loss)(jnp.ones((4, 4)), jnp.ones((2, 4)))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.FactorError: ...by its argument, float32[4,4], was asked for as a sum...
    """
