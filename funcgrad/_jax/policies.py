"""Checkpoint policies: which values they keep, also inside the functions that operations carry.

JAX has a rule for each operation that carries a function. It parts the operation in two: a *known* one,
which also gives out what the policy keeps of its inside, and a *staged* one, which computes the same
outputs again from what is kept. So the policies keep as much inside a scan or a cond as in JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax._src import ad_checkpoint, effects
from jax._src import core as _core
from jax._src.interpreters import partial_eval
from jax._src.state.types import AccumEffect, RefEffect
from jax.extend.core import Jaxpr

from funcgrad._jax.hijax import NamesPolicy
from funcgrad._jax.jaxprs import inner_jaxprs, is_literal, prune, variables, with_inner_jaxprs
from funcgrad._jax.types import Atom, Equation, Var


@dataclass(frozen=True)
class Offloaded:
    """Where a kept value waits for the backward program."""

    here: str
    elsewhere: str

    def away(self, x: Any) -> Any:
        return jax.device_put(x, _core.mem_kind_to_space(self.elsewhere))

    def back(self, x: Any) -> Any:
        return jax.device_put(x, _core.mem_kind_to_space(self.here))


@dataclass
class Parted:
    """Equations parted by a policy.

    Attributes:
      known: compute all that the equations do, and what is kept.
      staged: compute the rest again from the inputs and from what is kept.
      at_hand: variables that the staged equations have or compute.
      kept: variables of the known equations that are to be kept, if a staged equation reads them.
      moved: of kept variables, where they wait, if elsewhere.
    """

    known: list[Equation]
    staged: list[Equation]
    at_hand: set[Var]
    kept: dict[Var, None] = field(default_factory=dict)
    moved: dict[Var, Offloaded] = field(default_factory=dict)

    def keep_unless_at_hand(self, atoms: Iterable[Atom]) -> None:
        """Keep what staged equations read and cannot compute."""
        self.kept |= dict.fromkeys(v for v in variables(atoms) if v not in self.at_hand)

    def stage_again(self, eqn: Equation) -> None:
        """Compute an equation again."""
        self.keep_unless_at_hand(eqn.invars)
        self.staged.append(eqn)
        self.at_hand.update(eqn.outvars)

    def offload(self, eqn: Equation, where: Offloaded) -> None:
        """Keep an equation's results elsewhere."""
        self.kept |= dict.fromkeys(eqn.outvars)
        self.moved |= dict.fromkeys(eqn.outvars, where)


def part_by_policy(eqns: Sequence[Equation], inputs: Iterable[Var], policy: Any) -> Parted:
    """Part equations in those that run forward and those that run again.

    What was read from a reference is kept whatever the policy says: it may hold something else by
    then. An equation with another effect runs once, but for prints, which JAX runs again.
    """
    parted = Parted([], [], {*inputs})
    policy = None if policy is None else NamesPolicy(policy)
    for eqn in eqns:
        rule = partial_eval.partial_eval_jaxpr_custom_rules.get(eqn.primitive)
        if any(isinstance(e, RefEffect) and not _is_untracked(e) for e in eqn.effects):
            parted.known.append(eqn)
        elif rule is not None and (policy is not None or eqn.effects):
            _part_inside(parted, eqn, rule, policy or ad_checkpoint.nothing_saveable)
        else:
            parted.known.append(eqn)
            case = _case(eqn, policy)
            if isinstance(case, Offloaded):
                parted.offload(eqn, case)
            elif case is False and not _acts(eqn):
                parted.stage_again(eqn)
    return parted


def _part_inside(parted: Parted, eqn: Equation, rule: Any, policy: Any) -> None:
    """Part an equation by JAX's rule for operations that carry a function."""
    at_hand = [is_literal(v) or v in parted.at_hand for v in eqn.invars]
    known, staged, unknown, again, kept = rule(policy, [False] * len(at_hand), at_hand, eqn)
    assert not any(unknown)
    results = {*eqn.outvars, *variables(eqn.invars)}
    parted.known.append(eqn if all(v in results for v in kept) else known)
    parted.kept |= dict.fromkeys(v for v in kept if v not in parted.at_hand)
    if staged is not None:
        parted.staged.append(staged)
        parted.at_hand |= {v for v, there in zip(eqn.outvars, again, strict=True) if there}


def _is_untracked(effect: RefEffect) -> bool:
    """Whether JAX's rules do this to a reference once, and keep what was read from it."""
    kind = getattr(getattr(effect.input, "aval", None), "kind", None)
    return kind == "no_grad_no_remat" and not isinstance(effect, AccumEffect)


def _case(eqn: Equation, policy: Any) -> bool | Offloaded:
    """What a policy says of an equation's results."""
    if policy is None:
        return False
    case = policy(eqn.primitive, *[v.aval for v in eqn.invars], **eqn.params)
    if isinstance(case, partial_eval.Offloadable):
        return Offloaded(case.src, case.dst)
    return case is True or isinstance(case, partial_eval.SaveableType)


def _acts(eqn: Equation) -> bool:
    """Whether an equation does something besides giving its results."""
    return any(
        not isinstance(e, (_core.NamedAxisEffect, _core.InternalMutableArrayEffect))
        for e in eqn.effects
    )


@dataclass(frozen=True)
class EitherPolicy:
    """Keeps what one of two policies keeps, where the first one says."""

    first: Any
    second: Any

    def __call__(self, *args: Any, **params: Any) -> Any:
        case = False if self.first is None else self.first(*args, **params)
        keeps = case is not False and not isinstance(case, partial_eval.RecomputeType)
        return case if keeps else self.second(*args, **params)


def with_policies_inside(jaxpr: Any, replaced: Callable[[Any], Any]) -> Any:
    """A jaxpr in which each checkpoint, at any depth, has another policy in the place of its own."""
    eqns = [eqn.replace(params=_with_policies(eqn, replaced)) for eqn in jaxpr.eqns]
    same = all(a.params is b.params for a, b in zip(eqns, jaxpr.eqns, strict=True))
    return jaxpr if same else jaxpr.replace(eqns=eqns)


def _with_policies(eqn: Equation, replaced: Callable[[Any], Any]) -> dict[str, Any]:
    """An equation's params with other policies: its own, if nothing in them changes."""
    params = with_inner_jaxprs(eqn.params, lambda inner: with_policies_inside(inner, replaced))
    if eqn.primitive is not ad_checkpoint.remat_p:
        return params
    policy = replaced(params["policy"])
    return params if policy is params["policy"] else {**params, "policy": policy}


def pruned(
    jaxpr: Jaxpr, eqns: Sequence[Equation], inputs: Sequence[Var], results: Sequence[Atom]
) -> tuple[list[Equation], list[Var]]:
    """Those of the equations that results or effects need, and the inputs that they read.

    Dead code goes out of the functions that they carry, too.

    Args:
      jaxpr: any, whose debugging information is used.
    """
    whole = jaxpr.replace(
        constvars=[],
        invars=list(inputs),
        outvars=list(results),
        eqns=list(eqns),
        effects=partial_eval.make_jaxpr_effects([], list(inputs), list(results), list(eqns)),
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    left, used = prune(whole, [True] * len(results))
    return list(left.eqns), [v for v, there in zip(inputs, used, strict=True) if there]


def rounded(
    jaxpr: Jaxpr, eqns: Sequence[Equation], inputs: Sequence[Var], results: Sequence[Var]
) -> list[Equation]:
    """The equations, with each of these floating-point results rounded to its own precision.

    XLA may compute with more precision than a type has. What is kept and what the forward program goes
    on with would then differ.
    """
    whole = jaxpr.replace(constvars=[], invars=list(inputs), outvars=list(results), eqns=list(eqns))
    return list(ad_checkpoint._insert_reduce_precision(whole, len(results)).eqns)


def refused_in_checkpoint(jaxpr: Jaxpr) -> list[tuple[Any, Any, Any]]:
    """The operations, at any depth, with which JAX differentiates no checkpoint.

    Of each the primitive, its effect, and its place in the source.
    """
    found: list[tuple[Any, Any, Any]] = []
    refused = effects.remat_allowed_effects.filter_not_in
    for eqn in jaxpr.eqns if refused(jaxpr.effects) else ():
        inside = [op for inner in inner_jaxprs(eqn.params) for op in refused_in_checkpoint(inner)]
        found += inside or [(eqn.primitive, e, eqn.source_info) for e in refused(eqn.effects)]
    return found
