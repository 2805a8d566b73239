"""Primitives that call a function: their params, and how they are bound."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax._src import config, linear_util, tree_util
from jax._src import core as _core
from jax._src.ad_checkpoint import remat_p  # noqa: F401
from jax._src.lax.control_flow.conditionals import _switch_internal
from jax._src.named_sharding import UNSPECIFIED
from jax._src.pjit import jit_p
from jax._src.shard_map import (
    _all_newly_manual_mesh_names,
    _unmentioned2,
    shard_map_p,  # noqa: F401
)
from jax.extend.core import ClosedJaxpr

from funcgrad._jax.logs import logged
from funcgrad._jax.ops import wrapped_function
from funcgrad._jax.values import SymbolicZero, Zero, as_array, memory_space, zeros

WrappedFun = linear_util.WrappedFun


def is_inlined(params: dict[str, Any]) -> bool:
    """Whether a jitted call is to be inlined as soon as it is traced (an enumeration from 0.12)."""
    inline = params["inline"]
    return inline is True or getattr(inline, "name", "") == "JAX_EARLY"


def has_settings(params: dict[str, Any]) -> bool:
    """Whether a jitted call carries shardings, layouts or compiler options of its own.

    A program that no jitted call of the user's is made of has no params.
    """
    if not params:
        return False
    shardings = {*params["in_shardings"], *params["out_shardings"]}
    layouts = {*params["in_layouts"], *params["out_layouts"]}
    return not (shardings <= _NO_SHARDING and layouts <= _NO_LAYOUT) or bool(
        params["compiler_options_kvs"]
    )


_NO_SHARDING = frozenset([UNSPECIFIED])
_NO_LAYOUT = frozenset([None])


def bind_jit(
    closed: ClosedJaxpr, args: Sequence[Any], params: dict[str, Any], shared: bool
) -> list[Any]:
    """Call `closed` as a jitted function with the settings of another.

    If `shared`, the other's inputs are its last and the other's outputs its first.
    """
    in_kept = len(params["in_shardings"]) if shared else 0
    out_kept = len(params["out_shardings"]) if shared else 0
    num_in, num_out = len(closed.in_avals), len(closed.out_avals)

    def inputs(name: str, neutral: Any) -> tuple[Any, ...]:
        return (*(neutral,) * (num_in - in_kept), *params[name][:in_kept])

    def outputs(name: str, neutral: Any) -> tuple[Any, ...]:
        return (*params[name][:out_kept], *(neutral,) * (num_out - out_kept))

    own = {
        "jaxpr": closed,
        "in_shardings": inputs("in_shardings", UNSPECIFIED),
        "in_layouts": inputs("in_layouts", None),
        "out_shardings": outputs("out_shardings", UNSPECIFIED),
        "out_layouts": outputs("out_layouts", None),
        "donated_invars": (False,) * num_in,
        "keep_unused": False,
    }
    return jit_p.bind(*args, **{**params, **own})


def scan_settings(params: dict[str, Any]) -> tuple[int, int, int, bool, Any]:
    """Numbers of constants and carries, length, direction and unrolling of a scan."""
    if "ft_in" in params:  # JAX from 0.11
        num_consts, num_carry, _ = (len(list(part)) for part in params["ft_in"].unpack())
    else:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    return num_consts, num_carry, params["length"], params["reverse"], params["unroll"]


def switch(
    index: Any, branches: Sequence[Callable[..., Any]], operands: Sequence[Any], platforms: Any
) -> Any:
    """Run the branch of this index; of ``jax.lax.platform_dependent``, lower those for the platform.

    There `platforms` says for which platforms each branch is, and the index is the platform's.
    """
    if platforms is None:
        return jax.lax.switch(index, branches, *operands)
    return _switch_internal(index, branches, operands, branches_platforms=platforms)


PLAIN_CALLS = tuple(
    primitive
    for name in ("call_p", "closed_call_p")
    if (primitive := getattr(_core, name, None)) is not None
)
"""Primitives that call a function and mean nothing besides (JAX up to 0.10)."""


def in_memory(x: Any, space: Any) -> Any:
    """A value in this memory."""
    return x if memory_space(x) == space else jax.device_put(x, space)


def instantiate(ct: Any, aval: Any, symbolic: bool) -> Any:
    """What a user's custom rule is given for a cotangent or tangent: zeros where none came."""
    if ct is not None:
        return ct
    return SymbolicZero(aval) if symbolic else zeros(aval)


def call_custom_vjp_backward(
    bwd: WrappedFun, residuals: Any, cts: Sequence[Any], avals: Sequence[Any], symbolic: bool
) -> list[Any]:
    """A custom_vjp's input cotangents, None for a zero. With them goes what the function logs.

    JAX from 0.11 returns the log as well. JAX from 0.12 makes zeros itself of cotangents that did not
    arrive, and must be told which these are.
    """
    symbolic = symbolic or jax.__version_info__ >= (0, 12)
    given = [instantiate(ct, aval, symbolic) for ct, aval in zip(cts, avals, strict=True)]
    results = bwd.call_wrapped(*residuals, *given)
    log = None
    if jax.__version_info__ >= (0, 11):
        results, log = results
    return logged(
        [None if ct is None or isinstance(ct, Zero) else as_array(ct) for ct in results], log
    )


def description_of_wrapped(fun: WrappedFun) -> str:
    """How the function behind a custom derivative is named: ``name at file:line``."""
    return fun.debug_info.func_src_info


def jaxpr_behind(fun: WrappedFun) -> ClosedJaxpr | None:
    """The jaxpr that a custom derivative's function runs; None if it is a Python function."""
    held = vars(fun.f).values() if hasattr(fun.f, "__dict__") else ()
    args = getattr(fun.f, "args", ()) or ()
    cells = [c.cell_contents for c in getattr(fun.f, "__closure__", None) or ()]
    return next((x for x in (*args, *cells, *held) if isinstance(x, ClosedJaxpr)), None)


def function_behind(fun: WrappedFun) -> Any:
    """The Python function that a custom derivative's function runs."""
    found = fun.f
    while (inner := wrapped_function(found)) is not None:
        found = inner
    return found


def operands_before(fwd: WrappedFun) -> int:
    """How many operands checkify puts before those of a custom_vjp function.

    A residual that is one of the function's operands is known by its place among these alone. JAX
    counts checkify's too, and takes another operand for the residual.
    """
    if getattr(fwd.f, "__module__", None) != "jax._src.checkify":
        return 0
    return inspect.getclosurevars(fwd.f).nonlocals.get("num_errs", 0)


newly_manual_names: Callable[..., tuple[Any, ...]] = _all_newly_manual_mesh_names


unmentioned_names: Callable[..., list[Any]] = _unmentioned2


@contextmanager
def within_shard_map(params: Mapping[str, Any]) -> Iterator[None]:
    """A context in which collectives know the mesh axes of a shard_map with these params."""
    mesh = params["mesh"]
    names = {*newly_manual_names(mesh, params["newly_manual_axes"])}
    sizes = [(name, size) for name, size in mesh.shape.items() if name in names]
    with _core.extend_axis_env_nd(sizes), config._check_vma(params["check_vma"]):
        yield


def flat_tree(values: Sequence[Any]) -> Any:
    """Values as JAX's flat tree, which has a module of its own from JAX 0.11."""
    if hasattr(tree_util, "FlatTree"):
        return tree_util.FlatTree.flatten(list(values))
    return importlib.import_module("jax._src.flattree").flatten(list(values))


def jaxpr_param(params: dict[str, Any]) -> str:
    """Under which name a call primitive carries its jaxpr, which versions differ in."""
    for name in ("call_jaxpr", "jaxpr", "call"):
        if name in params:
            return name
    return "fwd_jaxpr"


BARRIERS_HOLD = jax.__version_info__ >= (0, 12)
"""Whether XLA keeps optimisation barriers long enough when it compiles for a CPU."""


def barriers_leave_cotangents() -> bool:
    """Whether the user wants no cotangents behind a checkpoint's barriers (JAX from 0.12)."""
    leave = getattr(config, "remat_barrier_no_cotangents", None)
    return leave is not None and leave.value and config.remat3.value


QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Settings for `XLA_FLAGS` for programs that are compiled once and run once."""


def quick_compilation() -> dict[str, Any] | None:
    """The same as options of one ``jax.jit``; None on an accelerator, which may not know them."""
    if jax.default_backend() != "cpu":
        return None
    settings = (flag.removeprefix("--").split("=") for flag in QUICK_COMPILATION.split())
    return {name: int(value) if value.isdigit() else value == "true" for name, value in settings}


_UNFUSED = " --xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""

QUICKEST_COMPILATION = QUICK_COMPILATION + _UNFUSED
"""The same, quicker still; but unoptimised XLA without its fusion emitters computes wrong hypots."""
