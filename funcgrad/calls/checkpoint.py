"""jax.checkpoint: the backward program computes again the values that were not saved.

The function is split as a jitted one is. A policy of JAX's, or a minimum cut (`partition/budget.py`),
says which values are saved besides the inputs. From the saved values the backward program replays the
operations that lead to the values that it reads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from funcgrad import _jax, errors
from funcgrad._jax import Cotangent, Mask, Value, Var
from funcgrad.called import of_jaxpr
from funcgrad.calls.entering import defcall
from funcgrad.masks import replaced, select
from funcgrad.partition.budget import Estimate, Search, parse_budget
from funcgrad.partition.cut import Cut
from funcgrad.partition.plan import Plan, joint_of
from funcgrad.partition.reach import CutPolicy, MinCut, Way, splitting
from funcgrad.partition.split import Split, StagedPullback, split_of
from funcgrad.registry import Rules
from funcgrad.rule_program import cached
from funcgrad.tape import FrozenTape


def checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    policy: Callable[..., Any] | str | None = None,
    budget: str | int | float | None = None,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Make the backward pass of `fun` compute again what is not kept: ``jax.checkpoint`` and more.

    Args:
      fun: a function of pytrees of arrays; None to use this as a decorator with options.
      policy: one of ``jax.checkpoint_policies``, None to keep the inputs only, or ``"min-cut"`` to
        keep the fewest bytes from which all else is computed again cheaply: by arithmetic,
        comparisons and moving elements about, never by matrix products or convolutions.
      budget: memory for the backward pass besides inputs and results: bytes, a string like
        ``"200MB"`` or ``"1.5GiB"``, or a float up to 1.0, a fraction of what keeping everything
        takes. What is kept, in the steps of scans too, is then chosen so that the estimate (see
        ``inspect.residuals``) stays within the budget with the least computing again. Not to be given
        with `policy`.
      prevent_cse: keep XLA from undoing this; False is right inside ``scan``.
      static_argnums: positions of arguments that are no arrays.

    Returns:
      A function with the arguments and results of `fun`, for ``funcgrad.grad`` and for ``jax.grad``
      (which keeps, in the place of a cut or a budget, what is not cheap to compute again).

    Raises:
      errors.BudgetError: when it is differentiated, if the budget is too small; the message says the
        smallest possible one.
      errors.InputError: `policy` or `budget` is not one of these.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> layer = funcgrad.checkpoint(lambda w, x: jnp.tanh(w @ x), policy="min-cut")
      >>> print(funcgrad.grad(lambda w: layer(w, jnp.ones(2)).sum())(jnp.zeros((2, 2))))
      [[1. 1.]
       [1. 1.]]
    """
    if policy is not None and budget is not None:
        raise errors.InputError(
            f"funcgrad.checkpoint was given both policy={policy!r} and budget={budget!r}. A budget "
            "chooses what to keep itself: leave out one of them."
        )
    if isinstance(policy, str) and policy != "min-cut":
        raise errors.InputError(
            f"funcgrad.checkpoint was given policy={policy!r}. The one policy that is a string is "
            "'min-cut'; others are functions, such as jax.checkpoint_policies.dots_saveable."
        )
    if policy == "min-cut" or budget is not None:
        policy = MinCut(None if budget is None else parse_budget(budget))

    def decorate(fun: Callable[..., Any]) -> Callable[..., Any]:
        return jax.checkpoint(
            fun, policy=policy, prevent_cse=prevent_cse, static_argnums=static_argnums
        )

    return decorate if fun is None else decorate(fun)


@defcall(_jax.remat_p, function=of_jaxpr())
def remat_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> RematProgram:
    """A checkpointed function's forward program, and a backward program that recomputes."""
    policy, barrier, jaxpr = params["policy"], params["prevent_cse"], params["jaxpr"]
    for op, effect, source in _jax.refused_in_checkpoint(jaxpr):
        raise errors.CheckpointEffectError(op, effect, _jax.where(source) or _jax.here())
    rules = rules.in_checkpoint() if jaxpr.is_high else rules
    return program_of_remat(jaxpr, differentiated, rules, policy, barrier)


@cached(_jax.weak_cache)
def program_of_remat(
    jaxpr: _jax.Jaxpr, differentiated: Mask, rules: Rules, policy: Any, barrier: Any
) -> RematProgram:
    """Split the function, and plan which values are kept and which are computed again."""
    way = None
    if isinstance(policy, CutPolicy):
        way = policy.way(jaxpr, splitting(differentiated, rules))
        split, plan, moved = way.split, way.plan, {}
    else:
        if policy is not None:
            jaxpr = _jax.with_policies_inside(jaxpr, lambda inner: either(inner, policy))
        split = split_of(_jax.close(jaxpr), differentiated, rules)
        plan, moved = plan_by_policy(split, policy)
    delay = barrier is not False and (way is not None or not _jax.BARRIERS_HOLD)
    held = barrier if isinstance(barrier, tuple) else (True,) * len(split.inputs)
    loose = frozenset(v for v, hold in zip(split.inputs, held, strict=True) if not hold)
    return RematProgram(Cut(split, plan), moved, barrier is not False, delay, loose, way)


def either(inner: Any, outer: Any) -> Any:
    """The policy of a checkpoint inside another: what the outer one keeps is there for it, too."""
    return inner if isinstance(inner, CutPolicy) else _jax.EitherPolicy(inner, outer)


def plan_by_policy(split: Split, policy: Any) -> tuple[Plan, dict[Var, Any]]:
    """The plan that keeps the values that a policy of JAX's saves, and where offloaded ones wait."""
    joint, jaxpr = joint_of(split), split.forward.closed.jaxpr
    given = [*joint.constants, *split.inputs]
    parted = _jax.part_by_policy(joint.equations, given, policy)
    parted.keep_unless_at_hand(joint.targets)
    again, read = _jax.pruned(jaxpr, parted.staged, [*given, *parted.kept], joint.targets)
    kept = [v for v in read if v not in joint.constants]
    computed = [v for v in kept if v in parted.kept]
    known, _ = _jax.pruned(jaxpr, parted.known, given, [*split.outputs, *computed])
    known = _jax.rounded(jaxpr, known, given, computed)
    unparted, staged = joint.equations, tuple(parted.staged)
    joint = replace(joint, equations=tuple(known), again=staged, unparted=unparted)
    moved = {v: where for v, where in parted.moved.items() if v in kept}
    return Plan(joint, tuple(kept), tuple(again)), moved


@dataclass(frozen=True, eq=False)
class RematProgram(StagedPullback):
    """The forward program, and the backward program that begins by computing again.

    Attributes:
      cut: the function, cut in two.
      moved: kept variables that wait in another memory, with where.
      barrier: keep XLA from finding out that these are the same computations.
      delay: tie each of them to the cotangents that have arrived, one by one.
      loose: inputs for which that is not asked.
      way: how a minimum cut or a budget chose the plan, if one did.
    """

    cut: Cut
    moved: dict[Var, Any]
    barrier: bool
    delay: bool
    loose: frozenset[Var] = frozenset()
    way: Way | None = None
    programs: dict[Any, Any] = field(default_factory=dict)

    @property
    def split(self) -> Split:
        return self.cut.split

    @functools.cached_property
    def compiles(self) -> bool:
        """Whether XLA can be given the function: JAX runs a checkpointed one without compiling it."""
        return _jax.compiles(self.split.forward.closed.jaxpr)

    @property
    def inner(self) -> dict[str, FrozenTape]:
        """The function's own tape."""
        return {"body": self.split.tape}

    @property
    def plan(self) -> Plan:
        """The plan of which values are kept, and which are computed again."""
        return self.cut.plan

    @functools.cached_property
    def estimates(self) -> tuple[Estimate, Estimate]:
        """The memory and the operations that the plan takes, and those of keeping everything."""
        if self.way is not None:
            return self.way.estimate, self.way.everything
        search = Search(self.plan.joint, self.inputs)
        return search.estimate(self.plan), search.estimate(search.everything())

    @property
    def present(self) -> Mask:
        """Which outputs carry a gradient."""
        return self.split.present

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return self.split.closes_over_tracer

    @property
    def inputs(self) -> list[Var]:
        """The forward jaxpr's inputs, without the constants that it closes over."""
        return self.split.inputs

    def forward(self, primals: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """Outputs and residuals."""
        outs, stored = self.jitted_forward(*primals)
        pairs = zip(self.split.outputs, outs, strict=True)
        found = {v: out for v, out in pairs if not _jax.is_literal(v)}
        found |= dict(zip(self.inputs, primals, strict=True))
        found |= dict(zip(self.stored, stored, strict=True))
        return outs, [found[v] for v in self.plan.kept]

    def trace_forward(self, *primals: Value) -> tuple[list[Value], list[Value]]:
        """The outputs, and the kept values that are stored."""
        outs, values = self.cut.run_forward(primals)
        computed = dict(zip(self.cut.computed, values, strict=True))
        pairs = [(v, computed[v]) for v in self.stored]
        return outs, [self.moved[v].away(x) if v in self.moved else x for v, x in pairs]

    @functools.cached_property
    def stored(self) -> list[Var]:
        """The kept values that are neither inputs nor, where they lie, outputs."""
        outputs = {*_jax.variables(self.split.outputs)} - {*self.moved}
        return [v for v in self.cut.computed if v not in outputs]

    def __call__(
        self, residuals: Sequence[Value], cts: Sequence[Cotangent], eager: bool
    ) -> list[Cotangent]:
        with jax.named_scope(AGAIN):
            return super().__call__(residuals, cts, eager)

    def trace_backward(self, residuals: list[Value], cts: list[Cotangent]) -> list[Cotangent]:
        """The operands' cotangents, after computing again the values that were not kept."""
        if self.barrier:
            held = [v not in self.loose for v in self.plan.kept]
            given = [] if _jax.barriers_leave_cotangents() else cts
            behind, given = behind_barrier((select(residuals, held), given))
            residuals, cts = replaced(residuals, held, behind), given or cts
        pairs = zip(self.plan.kept, residuals, strict=True)
        kept = [self.moved[v].back(x) if v in self.moved else x for v, x in pairs]
        return self.cut.pull_back(kept, cts, delayed if self.delay else None, self.loose)


AGAIN = "rematted_computation"
"""The name scope of a checkpoint's backward program, by which profilers know JAX's."""


def delayed(values: list[Value], cts: list[Value]) -> list[Value]:
    """Make XLA compute with the values only when the cotangents are there.

    Otherwise XLA finds that the forward program has computed the same before, and keeps that instead.
    Before JAX 0.12, XLA for CPUs drops optimisation barriers early. So there each value goes through
    ``where(always, value, 0)``, with an `always` computed from a cotangent's bits, which XLA cannot
    fold.
    """
    values, cts = behind_barrier((values, cts))
    known = [ct for ct in cts if _jax.is_real_array(ct) and ct.size and not _jax.is_partial(ct)]
    ct = known[0] if known else None
    if ct is None or _jax.BARRIERS_HOLD:
        return values
    tied = [
        _jax.is_array(x)
        and not (_jax.is_partial(x) or _jax.waits_elsewhere(x))
        and _jax.varying(ct) <= _jax.varying(x)
        for x in values
    ]

    def tie_to(values: list[Value], ct: Value) -> list[Value]:
        first = _jax.first_element(ct).astype(jnp.float32)
        always = (jax.lax.bitcast_convert_type(first, jnp.uint32) | 1) != 0
        with _jax.for_rules(values, own=True):
            return [jnp.where(always, x, jnp.zeros((), x.dtype)) for x in values]

    results = jax.lax.platform_dependent(
        select(values, tied), ct, cpu=tie_to, default=lambda values, ct: values
    )
    return replaced(values, tied, results)


def behind_barrier(values: Any) -> Any:
    """A pytree behind optimisation barriers, one for all values that vary over the same mesh axes.

    JAX makes the operands of one barrier vary over the same axes, which would change their types. A
    reference is left as it is, and a value of a type of its own: JAX has no barriers for these.
    """
    leaves, tree = jax.tree.flatten(values)
    avals = [_jax.typeof(leaf) for leaf in leaves]
    kinds = {
        i: getattr(aval, "mat", None)
        for i, aval in enumerate(avals)
        if not (_jax.is_mutable(leaves[i]) or _jax.is_high(aval))
    }
    for kind in dict.fromkeys(kinds.values()):
        places = [i for i, other in kinds.items() if other == kind]
        held = _jax.on_numbers(jax.lax.optimization_barrier, [leaves[i] for i in places])
        for i, leaf in zip(places, held, strict=True):
            leaves[i] = leaf
    return jax.tree.unflatten(tree, leaves)
