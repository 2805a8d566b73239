"""Errors about overrides, edits and taps: which do not apply, or cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from funcgrad.errors.base import FuncgradError, unfit_signature


class UnusedOverrideWarning(UserWarning):
    """An override never applied while a function was differentiated.

    Example:
      >>> import jax, funcgrad, warnings
      >>> rules = funcgrad.DEFAULT.override({jax.lax.tanh: lambda ct, x, *, out, **_: ct})
      >>> with warnings.catch_warnings(record=True, action="always") as caught:
      ...     slope = funcgrad.grad(jax.lax.sin, rules=rules)(0.0)
      >>> slope, caught[0].category.__name__
      (Array(1., dtype=float32, weak_type=True), 'UnusedOverrideWarning')
    """


class UnusedOverrideError(FuncgradError, ValueError):
    """The same where ``strict=True`` was asked for.

    Example:
      >>> import jax, funcgrad
      >>> rules = funcgrad.DEFAULT.override({jax.lax.tanh: lambda ct, x, *, out, **_: ct})
      >>> funcgrad.grad(jax.lax.sin, rules=rules, strict=True)(0.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.UnusedOverrideError: ...1 override(s) in its rules never applied...
    """


class UncaughtCallError(FuncgradError, RuntimeError):
    """A call of an overridden function was met that cannot be given to its rule.

    Example:
      >>> import jax, funcgrad
      >>> square = jax.jit(lambda x: x * x)
      >>> before = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(square)(1.0))
      >>> rules = funcgrad.DEFAULT.override({square: lambda ct, x, *, out: ct})
      >>> funcgrad.grad(lambda x: before(x)[0], rules=rules)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.UncaughtCallError: ...it was traced before the differentiation began...
    """

    def __init__(self, op: Any, rule: Any, where: str):
        super().__init__(
            f"`{op}` is overridden by `{rule.name}` ({rule.source}). A call of it at {where} cannot be "
            "given to the rule: it was traced before the differentiation began, or it is of another "
            "function with the same definition. Pass to rules.override the function object that is "
            "called, and let it be called, not its jaxpr, while the gradient is taken; or make the "
            "function an op with @funcgrad.op."
        )


class ForwardModeError(FuncgradError, TypeError):
    """JAX was to run a function forward that has only a backward rule.

    Example:
      >>> import jax, funcgrad
      >>> rules = funcgrad.DEFAULT.override({jax.nn.relu: lambda ct, x, *, out: ct})
      >>> slope = lambda x: jax.jvp(jax.nn.relu, (x,), (x,))[1]
      >>> funcgrad.grad(slope, rules=rules)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.ForwardModeError: ...met a function of which only a backward rule is known...
    """

    def __init__(self, ops: Any):
        names = ", ".join(f"`{op}`" for op in ops)
        super().__init__(
            "A forward derivative (jax.jvp, jax.jacfwd, jax.linearize) was to be computed by JAX inside "
            "the function that is differentiated, and met a function of which only a backward rule is "
            f"known. These are overridden: {names}; a jax.custom_vjp function is another. Use a "
            "derivative backward there (jax.vjp, jax.grad), or leave the override out."
        )


class ClosedOverError(FuncgradError, TypeError):
    """An overridden function reads a differentiated value that is not among its arguments.

    Example:
      >>> import funcgrad
      >>> class Layer:
      ...     def __call__(self, x):
      ...         return self.w * x
      >>> layer = Layer()
      >>> def loss(w, x):
      ...     layer.w = w
      ...     return layer(x)
      >>> rules = funcgrad.DEFAULT.override({Layer.__call__: lambda ct, x, *, self, out: ct})
      >>> funcgrad.grad(loss, (0, 1), rules=rules)(1.0, 2.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.ClosedOverError: ...also reads a differentiated value that it closes over...
    """

    def __init__(self, op: Any, rule: Any, where: str):
        super().__init__(
            f"`{op}`, called at {where}, is overridden by `{rule.name}` ({rule.source}), which gives "
            "cotangents to its arguments alone. The function also reads a differentiated value that it "
            "closes over, or that an object holds which is not a pytree. Pass that value as an argument."
        )


class SelectorError(FuncgradError, ValueError):
    """A selector of places that cannot be understood, or that means no place of the function.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> taps = {"h": funcgrad.at(op="tanh")}
      >>> funcgrad.grad(jnp.sin, taps=taps)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.SelectorError: ...at op=tanh, which means no place of the function...
    """


class EditError(FuncgradError, TypeError):
    """A tap, an edit or an override by place that cannot be made at the place that is meant.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> edit = funcgrad.at(op="sin").value(lambda h: h[:2])
      >>> f = lambda x: jnp.sum(jnp.sin(x))
      >>> funcgrad.grad(f, edit=edit)(jnp.ones(3))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.EditError: ...was given float32[3] and returned float32[2]...
    """


def check_takes(function: Callable[..., Any], names: Sequence[str], asked: str) -> None:
    """An error if a user's function, `asked` in words, cannot be given arguments of these names."""
    signature = unfit_signature(function, names, {})
    if signature is not None:
        raise EditError(
            f"{asked} has the signature {signature}, but is called with ({', '.join(names)}). Take "
            "these by position."
        )
