"""Ops of one's own: a function together with its backward rule."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.catching import Caught, caught
from funcgrad.functions import Call, Form, custom_vjp_of, node_of
from funcgrad.keys import FunctionId, op_key
from funcgrad.registry import Rule


def op(fn: Callable[..., Any]) -> Op:
    """Make `fn` an op, which has a backward rule of its own.

    Positional arguments are operands (arrays); keyword-only arguments are params (static and
    hashable), which the rule is given by name, defaults included. A method can be an op: an object
    that is not a pytree is then a param ``self``.

    Give the op its backward in one of the lecture's two forms:

    - from what it read and wrote, with :meth:`Op.defvjp`;
    - from a context saved by a forward of its own, with :meth:`Op.defforward` and
      :meth:`Op.defbackward`.

    The op works under plain ``jax.grad``, ``jax.vmap`` and ``jax.jit`` as well, and its rule can be
    replaced with ``rules.override({op: rule})``.

    Raises:
      errors.NotAnOpError: `fn` is not a function.
      errors.InputError: the op is called before it has a backward rule, or with an array as a param.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> @funcgrad.op
      ... def cube(x):
      ...     return x**3
      >>> @cube.defvjp
      ... def cube_vjp(ct, x, *, out):
      ...     return ct * 3 * x**2
      >>> float(funcgrad.grad(cube)(2.0)), float(jax.grad(cube)(2.0))
      (12.0, 12.0)
      >>> @funcgrad.op
      ... def scaled_tanh(x, *, scale):
      ...     return scale * jnp.tanh(x)
      >>> @scaled_tanh.defforward
      ... def scaled_tanh_forward(x, *, scale):
      ...     t = jnp.tanh(x)
      ...     return scale * t, t
      >>> @scaled_tanh.defbackward
      ... def scaled_tanh_backward(ct, saved, *, scale):
      ...     return ct * scale * (1 - saved**2)
      >>> float(funcgrad.grad(scaled_tanh)(0.0, scale=3.0))
      3.0
    """
    if not callable(fn):
        raise errors.NotAnOpError(fn)
    return Op(fn)


class Op:
    """A function with a backward rule of its own; made by :func:`op`."""

    def __init__(self, fn: Callable[..., Any]):
        functools.update_wrapper(self, fn)
        self.__wrapped__ = fn
        self._rule: Callable[..., Any] | None = None
        self._forward: Callable[..., Any] | None = None
        self._backward: Callable[..., Any] | None = None

    def defvjp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Set the rule ``rule(ct, *operands, out, **params)``; what it reads is derived.

        It returns one cotangent per operand: a bare array where there is one operand, else a
        tuple, None meaning no gradient. With several outputs ``ct`` and ``out`` are tuples.
        """
        self._check_undefined(self._rule or self._backward, rule)
        self._rule = rule
        return rule

    def defforward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Set the forward ``forward(*operands, **params) -> (out, saved)``; `saved` is any pytree."""
        self._check_undefined(self._rule or self._forward, forward)
        self._forward = forward
        return forward

    def defbackward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        """Set the rule ``backward(ct, saved, **params)`` that reads what the forward saved."""
        self._check_undefined(self._rule or self._backward, backward)
        self._backward = backward
        return backward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(self.__wrapped__, args, kwargs, is_operand)
        self._check_params(call)
        return self._applied(call, caught())

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method, the op's first argument is the object."""
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<funcgrad op {getattr(self, '__name__', '?')}>"

    def _applied(self, call: Call, now: Caught | None) -> Any:
        """The call as one node, by an override if one is in use."""
        if now is None:
            return self._with_own_rule(call)
        op, rule, inside, somewhere = now.rule_of(self, call.agrees)
        if not isinstance(rule, Rule):
            return self._with_own_rule(call)

        def run(call: Call) -> Any:
            with _jax.caught_functions(inside):
                return self._applied(call, inside) if somewhere else call.run(self.__wrapped__)

        return node_of(op, rule, call, run)

    def _with_own_rule(self, call: Call) -> Any:
        key = FunctionId(op_key(self).description)
        if self._rule is not None:
            form, arrays = Form.of(call)

            def run(operands: Any) -> Any:
                return call.with_operands(operands).run(self.__wrapped__)

            return custom_vjp_of(key, Rule(self._rule, (key,)), form, run, marked=False)(*arrays)
        if self._forward is not None and self._backward is not None:
            custom = self._from_context(call, self._forward, self._backward)
            return custom(*(a.value for a in call.operands))
        raise errors.InputError(
            f"Op `{key}` was called, but it has no backward rule. Give it one with "
            "@op.defvjp, or with @op.defforward and @op.defbackward."
        )

    def _from_context(self, call: Call, forward: Any, backward: Any) -> Any:
        """The second form: the forward says what is kept."""

        def run(*operands: Any) -> Any:
            return call.with_operands(operands).run(self.__wrapped__)

        def forward_on_operands(*operands: Any) -> Any:
            return call.with_operands(operands).run(forward)

        def backward_on_saved(saved: Any, ct: Any) -> tuple[Any, ...]:
            cts = backward(ct, saved, **call.params_for(backward))
            return tuple(cts) if isinstance(cts, (tuple, list)) else (cts,)

        run.__wrapped__ = self.__wrapped__  # type: ignore[attr-defined]  # JAX names it so
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter("operands", inspect.Parameter.VAR_POSITIONAL)]
        )
        custom = jax.custom_vjp(run)
        custom.defvjp(forward_on_operands, backward_on_saved)
        return custom

    def _check_undefined(self, old: Any, new: Any) -> None:
        if old is not None:
            key = op_key(self)
            raise errors.DuplicateRuleError(key, Rule(old, (key,)), Rule(new, (key,)))

    def _check_params(self, call: Call) -> None:
        for a in call.arguments:
            if not a.is_operand and _jax.holds_arrays(a.value):
                raise errors.InputError(
                    f"Op `{op_key(self)}` was called with an array as `{a.name}`, which is a keyword "
                    "argument and so a static param. Make it a positional argument of the op to give "
                    "it a gradient, or pass a Python number."
                )


def is_operand(parameter: inspect.Parameter, value: Any) -> bool:
    """Whether an op's argument is an operand: positional, and made of arrays or numbers."""
    if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
        return False
    return all(_jax.is_array_leaf(x) or _jax.is_number(x) for x in jax.tree.leaves(value))
