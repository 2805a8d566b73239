"""Ops of one's own: a function together with its backward rule."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import Partial, tree_broadcast, tree_flatten, tree_leaves, tree_unflatten

from funcgrad import _jax, errors
from funcgrad.registry import Rule, op_key
from funcgrad.rule_program import Program, program_of


def op(fn: Callable[..., Any]) -> Op:
    """Make `fn` an op, which has a backward rule of its own.

    Positional arguments are operands (arrays); keyword-only arguments are params (static and
    hashable). Give the op its backward in one of the lecture's two forms:

    - from what it read and wrote, with :meth:`Op.defvjp`;
    - from a context saved by a forward of its own, with :meth:`Op.defforward` and
      :meth:`Op.defbackward`.

    The op works under plain ``jax.grad``, ``jax.vmap`` and ``jax.jit`` as well, and its rule can be
    replaced with ``rules.override({op: rule})``.

    Raises:
      errors.NotAnOpError: `fn` is not a function.
      errors.InputError: the op is called before it has a backward rule.

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
        self._with_params = functools.lru_cache(maxsize=256)(self._build)

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

    def __call__(self, *operands: Any, **params: Any) -> Any:
        return self._with_params(tuple(sorted(params.items())))(*operands)

    def __repr__(self) -> str:
        return f"<funcgrad op {getattr(self, '__name__', '?')}>"

    def _check_undefined(self, old: Any, new: Any) -> None:
        if old is not None:
            key = op_key(self)
            raise errors.DuplicateRuleError(key, Rule(old, (key,)), Rule(new, (key,)))

    def _build(self, params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
        """The op with its params fixed, as JAX takes it: with a forward and a backward."""
        run = functools.partial(self.__wrapped__, **dict(params))
        if self._rule is not None:
            forward, backward = self._from_rule(self._rule, run, params)
        elif self._forward is not None and self._backward is not None:
            forward, backward = _from_context(self._forward, self._backward, dict(params))
        else:
            raise errors.InputError(
                f"Op `{op_key(self)}` was called, but it has no backward rule. Give it one with "
                "@op.defvjp, or with @op.defforward and @op.defbackward."
            )
        custom = jax.custom_vjp(run)
        custom.defvjp(forward, backward, symbolic_zeros=self._rule is not None)
        return custom

    def _from_rule(self, rule: Any, run: Any, params: Any) -> tuple[Any, Any]:
        """The first form: of operands and outputs, what the rule reads is kept."""
        flat_rule = functools.lru_cache(maxsize=256)(
            lambda in_tree, out_tree: self._on_leaves(rule, dict(params), in_tree, out_tree)
        )

        def forward(*primals: Any) -> Any:
            leaves, in_tree = tree_flatten(primals)
            operands = [leaf.value for leaf in leaves]
            wanted = tuple(i for i, leaf in enumerate(leaves) if leaf.perturbed)
            out = run(*tree_unflatten(in_tree, operands))
            outs, out_tree = tree_flatten(out)
            on_leaves = flat_rule(in_tree, out_tree)
            with errors.located_at(_jax.here):
                program = program_of(
                    on_leaves,
                    on_leaves.ops[0],
                    {},
                    [jax.typeof(x) for x in operands],
                    [jax.typeof(y) for y in outs],
                    wanted,
                    len(outs) > 1,
                )
            values = (*operands, *outs)
            application = _Application(program, in_tree)
            return out, Partial(application, *(values[i] for i in program.reads))

        def backward(saved: Any, ct: Any) -> tuple[Any, ...]:
            return saved(tree_leaves(ct, is_leaf=_is_symbolic_zero))

        return forward, backward

    def _on_leaves(self, rule: Any, params: dict[str, Any], in_tree: Any, out_tree: Any) -> Rule:
        """The op's rule as one over the leaves of its operands and outputs."""
        key = op_key(self)

        def rule_on_leaves(ct: Any, *leaves: Any, out: Any) -> list[Any]:
            operands = tree_unflatten(in_tree, leaves)
            single = out_tree.num_leaves == 1
            ct, out = (
                tree_unflatten(out_tree, [value] if single else value) for value in (ct, out)
            )
            cts = _as_tuple(rule(ct, *operands, out=out, **params))
            if len(cts) != len(operands):
                raise errors.Unlocated(
                    errors.RuleResultError, flat, key, errors.wrong_count(len(cts), len(operands))
                )
            filled = tree_broadcast(cts, operands, is_leaf=_is_none)
            return tree_leaves(filled, is_leaf=_is_none)

        functools.update_wrapper(rule_on_leaves, rule)
        flat = Rule(rule_on_leaves, (key,))
        return flat


def _from_context(forward: Any, backward: Any, params: dict[str, Any]) -> tuple[Any, Any]:
    """The second form: the forward says what is kept."""

    def backward_on_saved(saved: Any, ct: Any) -> tuple[Any, ...]:
        return _as_tuple(backward(ct, saved, **params))

    return functools.partial(forward, **params), backward_on_saved


@dataclass(frozen=True)
class _Application:
    """A rule's program together with the structure of its operands."""

    program: Program
    in_tree: Any

    def __call__(self, *residuals_and_cts: Any) -> tuple[Any, ...]:
        *residuals, cts = residuals_and_cts
        cts = [None if _is_symbolic_zero(ct) else ct for ct in cts]
        eager = _jax.is_eager(_jax.current_trace())
        found = self.program(residuals, cts, eager)
        leaves: list[Any] = [None] * self.in_tree.num_leaves
        for i, ct in zip(self.program.signature.wanted, found, strict=True):
            leaves[i] = ct
        return tree_unflatten(self.in_tree, leaves)


def _is_none(node: Any) -> bool:
    return node is None


def _is_symbolic_zero(ct: Any) -> bool:
    return isinstance(ct, _jax.SymbolicZero)


def _as_tuple(cts: Any) -> tuple[Any, ...]:
    return tuple(cts) if isinstance(cts, (tuple, list)) else (cts,)
