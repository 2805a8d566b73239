"""Primitives that expand themselves (JAX says *high*), and types of their own.

A high primitive is an object (a ``VJPHiPrimitive``, ``HiPrim`` from JAX 0.12) with rules as methods. It
is bound as the one param of `hi_call_p`, on the flat leaves of its arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax._src import ad_checkpoint, ad_util, hijax, tree_util
from jax._src import core as _core
from jax._src.ad_checkpoint import name_p as _name_p
from jax._src.interpreters.ad import NullAccum, ValAccum
from jax.extend.core import ClosedJaxpr, Jaxpr

from funcgrad._jax.types import Aval, Cotangent, Mask, Value
from funcgrad._jax.values import SymbolicZero, Zero, as_array, is_high, is_inexact, typeof, weak_as

hi_call_p = hijax.call_hi_primitive_p
hi_linear_p = hijax.call_hi_primitive_linearized_p

_HiPrim: Any = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive
_VmapOf: Any = getattr(hijax, "VmapOf", ())
_RematTraced: Any = ad_checkpoint.RematTraced
_NAMES = tuple(
    kind
    for name in ("CheckpointName", "CheckpointNameFwd")
    if (kind := getattr(ad_checkpoint, name, None)) is not None
)
_BY_JVP: Any = getattr(hijax, "vjp_from_jvp", None)
_BY_LIN: Any = getattr(hijax, "vjp_from_lin", None)
_LIN_BY_JVP: Any = getattr(hijax, "linearize_from_jvp", None)
_JVP_BY_LIN: Any = getattr(hijax, "jvp_from_lin", ())


def hi_primitive(params: Mapping[str, Any]) -> Any:
    """The primitive with methods that a bind of `hi_call_p` or `hi_linear_p` stands for."""
    return params["_prim"]


def hi_name(prim: Any) -> str:
    """How messages name a high primitive: its class."""
    return type(prim).__name__


def hi_expand(prim: Any, args: Sequence[Value]) -> list[Value]:
    """A high primitive's outputs, by what it is made of."""
    out = prim.expand(*tree_util.tree_unflatten(prim.in_tree, args))
    return tree_util.tree_leaves_checked(prim.out_tree, out)


def is_checkpointed(prim: Any) -> bool:
    """Whether this is what ``jax.checkpoint`` makes of a function, under ``jax_remat3``."""
    return isinstance(prim, _RematTraced)


def is_forward_rule(prim: Any) -> bool:
    """Whether this is the forward function of a custom_vjp with ``optimize_remat``."""
    return isinstance(prim, hijax.OptRemat)


def remat_settings(prim: Any) -> tuple[Any, bool | tuple[bool, ...]]:
    """The policy of a checkpointed function, and whether barriers keep it apart, or which inputs."""
    return prim.policy, getattr(prim, "prevent_cse", True)


@dataclasses.dataclass(frozen=True)
class NamesPolicy:
    """A checkpoint policy that is told of a high primitive's name as of `name_p`'s."""

    policy: Callable[..., Any]

    def __call__(self, primitive: Any, *avals: Aval, **params: Any) -> Any:
        prim: Any = params.get("_prim")
        if isinstance(prim, _NAMES):
            return self.policy(_name_p, *avals, name=prim.name)
        return self.policy(primitive, *avals, **params)


# --- rules


def hi_rules(prim: Any) -> list[str]:
    """The rules by which a high primitive can be differentiated: of ``vjp``, ``jvp`` and ``lin``.

    A rule that JAX derives from one of the others is that one.
    """
    if isinstance(prim, _VmapOf):
        return hi_rules(prim.prim)
    found = {
        "vjp": _has_own(prim, "vjp_fwd")
        and not _is_derived(prim, "vjp_bwd_retval", _BY_JVP, _BY_LIN),
        "jvp": _has_own(prim, "jvp") and getattr(type(prim), "jvp", None) is not _JVP_BY_LIN,
        "lin": _has_own(prim, "lin") and not _is_derived(prim, "linearized", _LIN_BY_JVP),
    }
    return [name for name, there in found.items() if there]


def _is_derived(prim: Any, name: str, *pairs: Any) -> bool:
    """Whether a rule is one of those that JAX makes of others."""
    rule = getattr(type(prim), name, None)
    return any(pair is not None and getattr(pair, name) is rule for pair in pairs)


def is_transposable(prim: Any) -> bool:
    """Whether a high primitive has a rule for the operands in which it is linear."""
    return _has_own(prim, "transpose")


def _has_own(prim: Any, name: str) -> bool:
    return getattr(type(prim), name, None) is not getattr(_HiPrim, name, None)


@dataclasses.dataclass(frozen=True, eq=False)
class HiBackward:
    """A high primitive's backward rule, without the residuals.

    Attributes:
      prim: the primitive.
      tree: the residuals as the rule takes them.
      structured: whether they are a pair of which the rule takes both by themselves.
      wanted: which operands get a cotangent.
    """

    prim: Any
    tree: Any
    structured: bool
    wanted: Mask

    def __call__(
        self, residuals: Sequence[Value], cts: Sequence[Cotangent]
    ) -> tuple[list[Cotangent], Any]:
        """The cotangents of the wanted operands, and what the rule logs."""
        given = self.given(residuals)
        accumulators = self.accumulators()
        args = tree_util.tree_unflatten(self.prim.in_tree, accumulators)
        outs = _cotangents(self.prim, cts)
        ct_out = tree_util.tree_unflatten(self.prim.out_tree, outs)
        log = self.prim.vjp_bwd(*(given if self.structured else (given,)), ct_out, *args)
        return [_accumulated(a) for a, w in zip(accumulators, self.wanted, strict=True) if w], log

    def given(self, residuals: Sequence[Value]) -> Any:
        """The residuals as the rule takes them."""
        return tree_util.tree_unflatten(self.tree, residuals)

    @property
    def takes_residuals(self) -> bool:
        """Whether the rule takes residuals of this kind: both of a pair, only by its own ``vjp_bwd``."""
        return not self.structured or _has_own(self.prim, "vjp_bwd")

    def accumulators(self) -> list[Any]:
        """What the rule adds the operands' cotangents to."""
        pairs = zip(self.prim.in_avals_flat, self.wanted, strict=True)
        return [(ValAccum if w else NullAccum)(a.to_ct_aval()) for a, w in pairs]


def hi_vjp(
    prim: Any, primals: Sequence[Value], wanted: Mask, in_checkpoint: bool
) -> tuple[list[Value], list[bool], list[Value], HiBackward]:
    """A high primitive's outputs, which of them depend on the wanted operands, and its pullback in two:
    the residuals, and the rule that reads them."""
    args = tree_util.tree_unflatten(prim.in_tree, primals)
    forward = partial(prim.vjp_fwd, tree_util.tree_unflatten(prim.in_tree, wanted))
    if in_checkpoint and getattr(prim, "opt_remat", False):  # custom_vjp's own function, in the end
        forward = hijax.OptRemat(prim, jax.jit(forward).trace(*args))
    out, kept, *rest = forward(*args)
    outs = tree_util.tree_leaves_checked(prim.out_tree, out)
    nonzero = tree_util.broadcast_prefix(rest[0], out) if rest else [any(wanted)] * len(outs)
    structured = len(rest) > 1 and rest[1] is not None
    residuals, tree = tree_util.tree_flatten((kept, rest[1]) if structured else kept)
    return outs, nonzero, residuals, HiBackward(prim, tree, structured, wanted)


def hi_linear_backward(params: Mapping[str, Any]) -> tuple[HiBackward, list[bool]]:
    """The backward rule behind a bind of `hi_linear_p`, and which of all outputs it has."""
    prim = hi_primitive(params)
    nonzero = list(params.get("nz_out_flat", (True,) * len(prim.out_avals_flat)))
    structured = params.get("has_sres", False)
    wanted = tuple(params["nz_in_flat"])
    return HiBackward(prim, params["residuals_tree"], structured, wanted), nonzero


def hi_jvp(
    prim: Any, rule: str, primals: Sequence[Value], tangents: Sequence[Value | None]
) -> tuple[list[Value], list[Value | None]]:
    """A high primitive's outputs and their tangents, by ``jvp`` or ``lin``; None is a zero."""
    avals = [typeof(x).to_tangent_aval() for x in primals]
    given = _with_zeros(tangents, avals)
    if isinstance(prim, _VmapOf):  # vmapped rules of JAX 0.10 take no symbolic zeros
        given = [ad_util.instantiate(t) for t in given]
    args = tree_util.tree_unflatten(prim.in_tree, primals)
    moved = tree_util.tree_unflatten(prim.in_tree, given)
    if rule == "jvp":
        out, tangent = prim.jvp(args, moved)
    else:
        nonzero = tree_util.tree_unflatten(prim.in_tree, [t is not None for t in tangents])
        out, kept, *rest = prim.lin(nonzero, *args)
        structured = len(rest) > 1 and rest[1] is not None
        tangent = prim.linearized(*((kept, rest[1]) if structured else (kept,)), *moved)
    outs = tree_util.tree_leaves_checked(prim.out_tree, out)
    return outs, [_value_or_none(t) for t in prim.out_tree.flatten_up_to(tangent)]


def hi_transpose(
    prim: Any, operands: Sequence[Value], linear: Mask, cts: Sequence[Cotangent]
) -> tuple[list[Cotangent], Any]:
    """The cotangents of the operands in which a high primitive is linear, and what its rule logs."""
    backward = HiBackward(prim, None, False, linear)
    accumulators = backward.accumulators()
    args = [
        a if is_linear else x
        for a, x, is_linear in zip(accumulators, operands, linear, strict=True)
    ]
    outs = _cotangents(prim, cts)
    ct_out = tree_util.tree_unflatten(prim.out_tree, outs)
    log = prim.transpose(ct_out, *tree_util.tree_unflatten(prim.in_tree, args))
    return [_accumulated(a) for a, w in zip(accumulators, linear, strict=True) if w], log


def _cotangents(prim: Any, cts: Sequence[Cotangent]) -> list[Any]:
    """Cotangents of a primitive's outputs as its rules take them, weak where the outputs are."""
    avals = [aval.to_ct_aval() for aval in prim.out_avals_flat]
    pairs = zip(cts, avals, strict=True)
    return _with_zeros([None if ct is None else weak_as(ct, aval) for ct, aval in pairs], avals)


def _with_zeros(values: Sequence[Value | None], avals: Sequence[Aval]) -> list[Any]:
    """Cotangents or tangents, with JAX's symbolic zeros for those that there are none of."""
    return [Zero(a) if x is None else x for x, a in zip(values, avals, strict=True)]


def _accumulated(accumulator: Any) -> Cotangent:
    return _value_or_none(accumulator.freeze())


def _value_or_none(x: Any) -> Any:
    """None for a symbolic zero and for a value without a gradient; numbers as arrays."""
    if x is None or isinstance(x, (Zero, SymbolicZero)):
        return None
    aval = typeof(x)
    if not is_inexact(aval):
        return None
    return x if is_high(aval) else as_array(x)


# --- types


def parts_of(aval: Aval) -> list[Aval]:
    """The types of the arrays that a value consists of; a mutable value counts as none."""
    if not is_high(aval):
        return [aval]
    if getattr(aval, "has_qdd", False):
        return []
    return [part for inner in aval.lo_ty() for part in parts_of(inner)]


def current_qdd(x: Value) -> Any:
    """What a mutable value of a type of its own now holds (JAX up to 0.10)."""
    return _core.cur_qdd(x)


def input_types(closed: ClosedJaxpr) -> list[Aval]:
    """The types of a closed jaxpr's inputs, with what mutable ones hold when it starts."""
    return list(getattr(closed, "in_aval_qdds", closed.in_avals))


def output_types(jaxpr: Jaxpr) -> list[Aval]:
    """The types of a jaxpr's outputs, with what mutable ones hold when it ends."""
    return [_held(v) for v in jaxpr.outvars]


def _held(v: Any) -> Aval:
    final = getattr(v, "final_qdd", None)
    return v.aval if final is None else _core.AvalQDD(v.aval, final)
