"""Errors about operations that cannot be differentiated."""

from __future__ import annotations

from typing import Any

from funcgrad import messages
from funcgrad.errors.base import FuncgradError, Unlocated


class MissingRuleError(FuncgradError, NotImplementedError):
    """An op on the way from a differentiated input to the output has no rule.

    Example:
      >>> import jax, funcgrad
      >>> no_rules = funcgrad.Rules([])
      >>> funcgrad.grad(jax.lax.sin, rules=no_rules)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.MissingRuleError: ...through op `sin`...Write one and pass it in...
    """

    def __init__(self, op: Any, operands: int, params: Any, where: str):
        xs = ", ".join(f"x{i}" for i in range(operands))
        returns = ", ".join(f"ct_x{i}" for i in range(operands))
        identifier = "".join(c if c.isalnum() else "_" for c in str(op).split(" ")[0])
        names = f"  # params: {', '.join(sorted(params))}" if params else ""
        super().__init__(
            f"A gradient was asked for through op `{op}`, used at {where}, and the rules in use have "
            "none for it. Write one and pass it in:\n\n"
            f"    def {identifier}_vjp(ct, {xs}, *, out, **params):{names}\n"
            f"        return {returns}\n\n"
            f"    funcgrad.grad(f, rules=funcgrad.DEFAULT.override({{op: {identifier}_vjp}}))\n\n"
            f"where `op` is {messages.found_as(op)}. To treat its result as a constant, wrap it in "
            "jax.lax.stop_gradient."
        )


def missing_rule(op: Any, operands: int, params: Any, target: str) -> Unlocated:
    """The error for an op that has no rule; `target` is the foreign function that it calls."""
    if str(op) in messages.OPAQUE:
        return Unlocated(OpaqueOpError, op, target)
    return Unlocated(MissingRuleError, op, operands, params)


class OpaqueOpError(MissingRuleError, ValueError):
    """An op on the way runs code of the user's that cannot be differentiated.

    Example:
      >>> import jax, numpy as np, funcgrad
      >>> f = lambda x: jax.pure_callback(np.sin, x, x)
      >>> funcgrad.grad(f)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.OpaqueOpError: ...Give the function that calls jax.pure_callback a rule...
    """

    def __init__(self, op: Any, target: str, where: str):
        Exception.__init__(self, messages.ask_for_a_function(op, target, where))


class PrimitiveWithoutRuleError(MissingRuleError):
    """A primitive of ``jax.experimental.hijax`` brings no rule for what was asked of it.

    Example:
      >>> import jax, funcgrad
      >>> from jax.experimental import hijax
      >>> class Sine(getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive):  # from JAX 0.12: HiPrim
      ...     def __init__(self, aval):
      ...         self.in_avals, self.out_aval, self.params = (aval,), aval, {}
      ...         super().__init__()
      ...     def expand(self, x):
      ...         return jax.numpy.sin(x)
      >>> funcgrad.grad(lambda x: Sine(jax.typeof(x))(x))(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.PrimitiveWithoutRuleError: ...`Sine`...does not define `vjp_fwd`...
    """

    def __init__(self, name: str, wanted: str, where: str):
        NotImplementedError.__init__(
            self,
            f"A gradient was asked for through the hijax primitive `{name}`, used at {where}, whose "
            f"class does not define {wanted}. Its operations are not differentiated in its place. "
            "Define that on the class, or wrap the result in jax.lax.stop_gradient.",
        )


class UnknownCallError(FuncgradError, NotImplementedError):
    """A function was called by a primitive that no rule says anything of.

    Example:
      >>> import jax, funcgrad
      >>> call_p = jax.extend.core.Primitive("call_it")
      >>> @call_p.def_impl
      ... def call_it(x, *, subfuns):
      ...     return subfuns[0](x)
      >>> sine = lambda x: call_p.bind(x, subfuns=(jax.lax.sin,))
      >>> funcgrad.grad(sine)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.UnknownCallError: ...through `call_it`...It calls a function...
    """

    def __init__(self, op: Any, where: str):
        super().__init__(
            f"A gradient was asked for through `{op}`, used at {where}. It calls a function, and the "
            "rules in use do not say what that call means for a gradient, so the function is not "
            "differentiated in its place. Say it with funcgrad.extend.defcall and rules.extend, or call "
            "the function itself."
        )


class NoDerivativeError(FuncgradError, NotImplementedError, ValueError):
    """An op is used in a way in which it has no derivative.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> f = lambda a: jnp.abs(jnp.linalg.eig(a)[1]).sum()  # of eigenvectors, scaled as LAPACK likes
      >>> funcgrad.grad(f)(jnp.eye(2))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.NoDerivativeError: ...op `eig`...defined only up to the scale...
    """

    def __init__(self, op: Any, problem: str, where: str):
        super().__init__(
            f"A gradient was asked for through op `{op}`, used at {where}, which {problem}"
        )


def no_derivative(op: Any, problem: str) -> Unlocated:
    """The same from within a rule, which does not know the user's line.

    A rule raises it, or returns it as the cotangent of the one operand that it holds for.
    """
    return Unlocated(NoDerivativeError, op, problem)


class KinkError(FuncgradError, FloatingPointError):
    """A gradient was asked for at a kink, a tie or a pole, and the rules refuse one there.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> funcgrad.grad(jnp.abs, rules=funcgrad.kinks("raise"))(0.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.KinkError: The gradient of op `abs`...was asked for where x = 0...
    """

    def __init__(self, op: Any, words: str, where: str):
        super().__init__(
            f"The gradient of op `{op}`, used at {where}, was asked for where {words} (x and y are its "
            "operands, in order). There it has none: the slopes from two sides differ, or are infinite. "
            'rules=funcgrad.kinks("raise") refuses that; kinks("zero") and kinks("torch") take a value.'
        )


class InitialValueError(FuncgradError, NotImplementedError):
    """The initial value of a reduction was differentiated.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> f = lambda start: jax.lax.reduce(jnp.ones(3), start, lambda x, y: x * y + y, (0,))
      >>> funcgrad.grad(f)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.InitialValueError: ...by the initial value of `reduce`...
    """

    def __init__(self, op: Any, where: str):
        super().__init__(
            f"A gradient was asked for by the initial value of `{op}`, used at {where}. It must be the "
            "identity of the reduction's function, and how often it is applied is not defined. Wrap it "
            "in jax.lax.stop_gradient, and apply a value of your own after the reduction."
        )


class TransposeSolveError(FuncgradError, TypeError):
    """A custom_linear_solve cannot be differentiated backward.

    Example:
      >>> import jax, funcgrad
      >>> halve = lambda matvec, b: b / 2
      >>> f = lambda b: jax.lax.custom_linear_solve(lambda x: 2 * x, b, halve)
      >>> funcgrad.grad(f)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.TransposeSolveError: ...which was given no transpose_solve...
    """

    def __init__(self, where: str):
        super().__init__(
            f"A gradient was asked for through jax.lax.custom_linear_solve, used at {where}, which was "
            "given no transpose_solve. Pass one, or symmetric=True if the matrix is symmetric."
        )


class UnknownExamplesError(FuncgradError, NotImplementedError):
    """A vmapped loop has an op with which examples that have ended cannot be kept apart from the others.

    Example:
      >>> import jax, funcgrad
      >>> halve_p = jax.extend.core.Primitive("halve")
      >>> @halve_p.def_abstract_eval
      ... def same_type(aval):
      ...     return aval
      >>> batchers = jax.interpreters.batching.primitive_batchers
      >>> batchers[halve_p] = lambda xs, axes: (halve_p.bind(*xs), axes[0])
      >>> rules = funcgrad.DEFAULT.override({halve_p: lambda ct, x, *, out: ct / 2})
      >>> loop = jax.vmap(lambda x: jax.lax.while_loop(lambda c: c > 1, halve_p.bind, x))
      >>> gradient = funcgrad.grad(lambda xs: loop(xs).sum(), rules=rules)
      >>> jax.eval_shape(gradient, jax.numpy.ones(3))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.UnknownExamplesError: ...has the op `halve`...
    """

    UNREAD = (
        "JAX knows no function of arrays for it, so it cannot be told which values are those of an "
        "example that has ended"
    )
    ACTING = (
        "It has an effect and a result that is used, so the body cannot be given other values for an "
        "example that has ended"
    )

    def __init__(self, op: Any, where: str, why: str, loop: str):
        super().__init__(
            "A gradient was asked for through a vmapped while loop whose examples end one by one, used "
            f"at {loop}. Its body has the op `{op}`, used at {where}. {why}, which might make the "
            "gradients of others NaN. Differentiate one example and vmap that: "
            "jax.vmap(funcgrad.grad(f))."
        )


class MutableValueError(FuncgradError, NotImplementedError):
    """A differentiated value was put where no gradient can follow it: in a box, a log, a callback.

    Example:
      >>> import jax, funcgrad
      >>> from jax.experimental import io_callback
      >>> f = lambda x: (io_callback(lambda x: None, None, x), x * x)[1]
      >>> funcgrad.grad(f)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.MutableValueError: A differentiated value was given to `io_callback`...
    """

    def __init__(self, op: Any, where: str):
        super().__init__(
            f"A differentiated value was given to `{op}` at {where}, which stores it or sends it away "
            "and returns nothing, so that no gradient could follow it. Give it jax.lax.stop_gradient of "
            "the value, or return the value itself."
        )


class MutableReferenceError(FuncgradError, NotImplementedError):
    """A mutable reference is used where no gradient can follow what it holds.

    Example:
      >>> import jax, funcgrad
      >>> def doubled_until_one(x):
      ...     ref = jax.new_ref(x)
      ...     def body(i):
      ...         ref[...] = 2 * ref[...]
      ...         return i + 1
      ...     jax.lax.while_loop(lambda i: ref[...] < 1, body, 0)
      ...     return ref[...]
      >>> funcgrad.grad(doubled_until_one)(0.3)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.MutableReferenceError: ...given to `while`...by its condition and its body...
    """

    def __init__(self, op: Any, problem: str, where: str):
        super().__init__(
            f"A gradient was asked for through a mutable reference given to `{op}` at {where}, "
            f"{problem} "
            "Pass and return the value itself there, or store jax.lax.stop_gradient of it in the "
            "reference."
        )


class CheckpointEffectError(FuncgradError, NotImplementedError):
    """A checkpointed function does something that may not be done twice.

    Example:
      >>> import jax, funcgrad
      >>> from jax.experimental import io_callback
      >>> f = jax.checkpoint(lambda x: (io_callback(lambda: None, None), jax.lax.sin(x))[1])
      >>> funcgrad.grad(f)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.CheckpointEffectError: ...op `io_callback`...has the effect IO...
    """

    def __init__(self, op: Any, effect: Any, where: str):
        super().__init__(
            f"A gradient was asked for of a function under jax.checkpoint in which op `{op}`, used at "
            f"{where}, has the effect {effect}. The backward pass would have it again. Move it out of "
            "the checkpointed function, or use jax.debug.callback, which may run twice. (JAX: Effects "
            f"not supported in partial-eval of `checkpoint`/`remat`: {effect}.)"
        )
