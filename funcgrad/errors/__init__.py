"""Errors that say what was asked, what was found and what to do.

Each is a :class:`FuncgradError`, and of the type that JAX or Python raises in such a case, too.

Example:
  >>> import jax.numpy as jnp, funcgrad
  >>> try:
  ...     funcgrad.grad(lambda x: 2 * x)(jnp.ones(3))
  ... except funcgrad.errors.OutputError as error:
  ...     print(isinstance(error, TypeError), "float32[3]" in str(error))
  True True
"""

from __future__ import annotations

from funcgrad.errors.base import (
    FuncgradError,
    Unlocated,
    at_worst_unknown,
    located_at,
)
from funcgrad.errors.checks import (
    FactorError,
    GradientError,
    NotFiniteError,
)
from funcgrad.errors.derivatives import (
    CheckpointEffectError,
    InitialValueError,
    KinkError,
    MissingRuleError,
    MutableReferenceError,
    MutableValueError,
    NoDerivativeError,
    OpaqueOpError,
    PrimitiveWithoutRuleError,
    TransposeSolveError,
    UnknownCallError,
    UnknownExamplesError,
    missing_rule,
    no_derivative,
)
from funcgrad.errors.overrides import (
    ClosedOverError,
    EditError,
    ForwardModeError,
    SelectorError,
    UncaughtCallError,
    UnusedOverrideError,
    UnusedOverrideWarning,
    check_takes,
)
from funcgrad.errors.rules import (
    DuplicateRuleError,
    NonLinearJvpError,
    NotAnOpError,
    NotARuleError,
    PrimitiveRuleError,
    RuleError,
    RuleResultError,
    call_rule,
    wrong_count,
    wrong_signature,
)
from funcgrad.errors.usage import (
    ArgnumsError,
    BudgetError,
    CotangentError,
    InputError,
    LeakedTracerError,
    LogError,
    MissingPackageError,
    OutputError,
    PickleError,
)

__all__ = [
    "ArgnumsError",
    "BudgetError",
    "CheckpointEffectError",
    "ClosedOverError",
    "CotangentError",
    "DuplicateRuleError",
    "EditError",
    "FactorError",
    "ForwardModeError",
    "FuncgradError",
    "GradientError",
    "InitialValueError",
    "InputError",
    "KinkError",
    "LeakedTracerError",
    "LogError",
    "MissingPackageError",
    "MissingRuleError",
    "MutableReferenceError",
    "MutableValueError",
    "NoDerivativeError",
    "NonLinearJvpError",
    "NotARuleError",
    "NotAnOpError",
    "NotFiniteError",
    "OpaqueOpError",
    "OutputError",
    "PickleError",
    "PrimitiveRuleError",
    "PrimitiveWithoutRuleError",
    "RuleError",
    "RuleResultError",
    "SelectorError",
    "TransposeSolveError",
    "UncaughtCallError",
    "UnknownCallError",
    "UnknownExamplesError",
    "UnusedOverrideError",
    "UnusedOverrideWarning",
]


for _name in __all__:
    globals()[_name].__module__ = __name__  # as users write it, and as tracebacks show it
