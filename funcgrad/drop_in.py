"""Trying funcgrad on an existing code base without editing it.

JAX's functions for derivatives backward have their code replaced (`catching.py` says how), so that every
reference to them leads here, whoever imported it and when. A setting of JAX's kind says whether
funcgrad's or JAX's own is meant.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from funcgrad import _jax
from funcgrad.catching import replaced_code
from funcgrad.default import DEFAULT
from funcgrad.jacobians import hessian, jacrev
from funcgrad.registry import Rules
from funcgrad.surface import public
from funcgrad.transforms import grad, value_and_grad, vjp

OURS: Mapping[str, Callable[..., Any]] = {
    "grad": grad,
    "value_and_grad": value_and_grad,
    "vjp": vjp,
    "jacrev": jacrev,
    "jacobian": jacrev,
    "hessian": hessian,
}
FUNCTIONS = _jax.reverse_mode_functions()
DEFAULTS = {
    function: {p.name: p.default for p in inspect.signature(function).parameters.values()}
    for function in FUNCTIONS
}
"""What is not passed on, so that ours may lack options that a version of JAX has."""


class Gradients:
    """How many gradients were funcgrad's.

    A gradient counts when Python takes it: within a jitted function when that is traced, and not when
    what was compiled runs again.

    Attributes:
      by_name: how many, by the function that was asked: ``grad``, ``vjp``, ...
    """

    def __init__(self, outer: Gradients | None = None):
        self.by_name: Counter[str] = Counter()
        self._outer = outer
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many, all together."""
        return self.by_name.total()

    def add(self, name: str) -> None:
        """Count one, here and in the block around."""
        with self._lock:
            self.by_name[name] += 1
        if self._outer is not None:
            self._outer.add(name)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        each = ", ".join(f"{count:,} {name}" for name, count in self.by_name.most_common())
        return f"{self.count:,} gradient{'s' * (self.count != 1)} by funcgrad{each and ': '}{each}"


@dataclass(frozen=True)
class Settings:
    """What is differentiated by: part of the key of what JAX caches meanwhile."""

    rules: Rules
    strict: bool
    gradients: Gradients = field(compare=False)

    def __repr__(self) -> str:
        return f"<funcgrad with {len(self.rules)} rules{', strict' * self.strict}>"


@public
@contextlib.contextmanager
def as_jax_grad(*, rules: Rules = DEFAULT, strict: bool = False) -> Iterator[Gradients]:
    """Let ``jax.grad`` and its like be funcgrad's.

    Within the block ``jax.grad``, ``value_and_grad``, ``vjp``, ``jacrev``, ``jacobian`` and ``hessian``
    are funcgrad's in this thread, under whatever name code has imported them (``from jax import
    grad``), in JAX's own modules too (``jax.test_util.check_grads``, ``jax.scipy.optimize``). Other
    threads keep JAX's, and so does a gradient function that was made before the block. A jitted
    function is compiled for the block and for the outside separately, as under a setting of JAX's
    own, so that no cache mistakes one for the other. Blocks may be nested.

    Args:
      rules: the backward rules to chain.
      strict: refuse primitives of third-party packages that have no rule in `rules`.

    Returns:
      A context, which yields the :class:`Gradients`: how many were taken.

    Example:
      >>> import jax, funcgrad
      >>> @jax.jit
      ... def power(x, n):  # somebody else's code, of which jax.grad refuses the loop
      ...     return jax.lax.fori_loop(0, n, lambda i, y: y * x, 1.0)
      >>> with funcgrad.as_jax_grad() as gradients:
      ...     print(jax.grad(power)(3.0, 4))
      108.0
      >>> gradients
      <1 gradient by funcgrad: 1 grad>
    """
    around = _jax.drop_in.value
    gradients = Gradients(around.gradients if isinstance(around, Settings) else None)
    with _replaced(), _jax.drop_in(Settings(rules, strict, gradients)):
        yield gradients


@contextlib.contextmanager
def in_all_threads(strict: bool = False, gradients: Gradients | None = None) -> Iterator[Gradients]:
    """The same for all threads of the process."""
    gradients = gradients or Gradients()
    with _replaced():
        before = _jax.set_drop_in_everywhere(Settings(DEFAULT, strict, gradients))
        try:
            yield gradients
        finally:
            _jax.set_drop_in_everywhere(before)


@contextlib.contextmanager
def _replaced() -> Iterator[None]:
    """JAX's functions lead to :func:`choose`."""
    with contextlib.ExitStack() as stack:
        for function in FUNCTIONS:
            stack.enter_context(replaced_code(function, choose))
        yield


def choose(function: Any, original: Any, args: Any, kwargs: Any) -> Any:
    """A call of one of JAX's functions: ours where the setting says so."""
    settings = _jax.drop_in.value
    call_of_function = sys._getframe(2)  # this function, catching's forward, the call itself
    if not isinstance(settings, Settings) or _jax.means_jax(call_of_function):
        return original(*args, **kwargs)
    names = original.__code__.co_varnames[: original.__code__.co_argcount]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("reduce_axes"):  # which JAX refuses
        return original(*args, **kwargs)
    defaults, name = DEFAULTS[function], FUNCTIONS[function]
    options = {key: value for key, value in given.items() if value is not defaults[key]}
    fun = options.pop("fun")
    if name == "vjp":
        settings.gradients.add(name)
    derivative = OURS[name](
        fun, *args[len(names) :], **options, rules=settings.rules, strict=settings.strict
    )
    return derivative if name == "vjp" else _counted(derivative, name, settings.gradients)


def _counted(derivative: Any, name: str, gradients: Gradients) -> Any:
    """A gradient function that counts its calls."""

    @_jax.boundary
    @functools.wraps(derivative)
    def counted(*args: Any, **kwargs: Any) -> Any:
        gradients.add(name)
        return derivative(*args, **kwargs)

    return counted
