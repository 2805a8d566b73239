"""Errors about how a transform or a pullback was called."""

from __future__ import annotations

import pickle

import jax

from funcgrad.errors.base import FuncgradError


class InputError(FuncgradError, TypeError):
    """A differentiated function got, or was asked for, something that has no gradient.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> funcgrad.grad(jnp.sin)(1)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.InputError: ...of type int32[]: integers and booleans have no gradient...
    """


class OutputError(FuncgradError, TypeError):
    """A differentiated function returned something that cannot be differentiated.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> funcgrad.grad(jnp.sin)(jnp.ones(3))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.OutputError: ...float32[3]...
    """


class ArgnumsError(FuncgradError, TypeError, ValueError):
    """`argnums` names no argument of the call.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> funcgrad.grad(jnp.sin, argnums=1)(2.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.ArgnumsError: ...argnums=1, but the call has 1 positional argument(s)...
    """


class CotangentError(FuncgradError, TypeError, ValueError):
    """A pullback was given cotangents that do not match the function's output.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> y, pullback = funcgrad.vjp(jnp.sin, jnp.ones(3))
      >>> pullback(jnp.ones(4))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.CotangentError: ...with a cotangent of type float32[4]; the output...
    """


class LogError(FuncgradError, ValueError):
    """What backward functions log cannot be returned (``pullback.with_logs``).

    Example:
      >>> import jax, funcgrad
      >>> from jax.experimental import hijax
      >>> class Sine(getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive):  # from JAX 0.12: HiPrim
      ...     def __init__(self, aval):
      ...         self.in_avals, self.out_aval, self.params = (aval,), aval, {}
      ...         super().__init__()
      ...     def expand(self, x):
      ...         return jax.numpy.sin(x)
      ...     def vjp_fwd(self, wanted, x):
      ...         return self(x), x
      ...     def vjp_bwd(self, x, ct, ct_x):
      ...         ct_x.accum(ct * jax.numpy.cos(x))
      ...         return {"ct": ct}  # the log
      >>> sine = lambda x: Sine(jax.typeof(x))(x)
      >>> y, pullback = funcgrad.vjp(lambda x: sine(sine(x)), 1.0)
      >>> pullback.with_logs(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.LogError: Two backward functions logged under the key 'ct'...
    """


class PickleError(FuncgradError, pickle.PickleError):
    """A pullback cannot be saved, or what was saved is not what its function gives now.

    Example:
      >>> import pickle, funcgrad
      >>> y, pullback = funcgrad.vjp(lambda x: x**2, 3.0)
      >>> pickle.dumps(pullback)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.PickleError: ...cannot be found by its name. Define it with `def` at the top of...
    """


class BudgetError(FuncgradError, ValueError):
    """A budget of memory is too small: for a checkpointed function, or for a row of a Jacobian.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> f = funcgrad.checkpoint(lambda x: jnp.sum(jnp.sin(jnp.sin(x))), budget=8)  # bytes
      >>> funcgrad.grad(f)(jnp.ones(9))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.BudgetError: ...within 8 bytes. The smallest possible budget...
    """


class LeakedTracerError(FuncgradError, jax.errors.UnexpectedTracerError):
    """A value from inside a differentiation was used after the differentiation ended.

    Under ``jax_check_tracer_leaks``: was kept until after that.

    Example:
      >>> import jax, funcgrad
      >>> kept = []
      >>> with jax.checking_leaks():  # doctest: +ELLIPSIS
      ...     funcgrad.grad(lambda x: kept.append(x) or x * x)(1.0)
      Traceback (most recent call last):
      ...
      funcgrad.errors.LeakedTracerError: ...was kept after that differentiation had ended...
    """

    def __init__(self, function: str, done: str = "kept and used"):
        FuncgradError.__init__(
            self,
            f"A value traced while `{function}` was being differentiated was {done} after that "
            "differentiation had ended. Such a value belongs to its differentiation alone: return it "
            "from the function instead, with has_aux=True, or store "
            "jax.lax.stop_gradient of it only within the function.",
        )


class MissingPackageError(FuncgradError, ImportError):
    """A package is not installed that only some tools need.

    Example:
      >>> import sys, unittest.mock, jax.numpy as jnp, funcgrad
      >>> graph = funcgrad.inspect.graph(jnp.sin, 1.0)
      >>> with unittest.mock.patch.dict(sys.modules, pygraphviz=None):  # doctest: +ELLIPSIS
      ...     graph.to_svg()
      Traceback (most recent call last):
      ...
      funcgrad.errors.MissingPackageError: 'pygraphviz' is needed to draw a graph, and it is not...
    """

    def __init__(self, what: str, package: str, install: str):
        super().__init__(f"{package!r} is needed {what}, and it is not installed: {install}")
