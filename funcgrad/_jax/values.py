"""Traces, values and their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import ad_util, dtypes, linear_util
from jax._src import core as _core
from jax._src.array import ArrayImpl
from jax._src.interpreters import partial_eval
from jax._src.lax import lax
from jax._src.sharding_impls import SingleDeviceSharding
from jax._src.state.types import AbstractRef
from jax.extend.core import Literal, Primitive, set_current_trace, take_current_trace  # noqa: F401

from funcgrad._jax.sharding import (
    cotangent_aval,
    current_mesh,
    typed_zeros,
    with_leading_axes,
)
from funcgrad._jax.types import Aval, Cotangent

Trace = _core.Trace


Tracer = _core.Tracer


class OwnTracer(Tracer):
    """The base of tracers of ours, whose classes name JAX's module as their own.

    Libraries choose their backend by the module of an argument's class (opt_einsum, autoray and what
    builds on them): a traced value is JAX's to them.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__module__ = Tracer.__module__


SymbolicZero = ad_util.SymbolicZero


Zero = ad_util.Zero


def typeof(x: Any) -> Any:
    """The type of a value, as ``jax.typeof`` gives it: the two most frequent kinds are known at once."""
    kind = type(x)
    if kind is partial_eval.DynamicJaxprTracer:
        return x.aval
    if kind is ArrayImpl and type(x._sharding) is SingleDeviceSharding:
        return x.aval
    return _core.typeof(x)


def known_integer(x: Any) -> int | None:
    """The integer that a value or a jaxpr's literal is; None of an array of JAX's, or what is none."""
    if type(x) is partial_eval.DynamicJaxprTracer:
        x = x.val
    x = getattr(x, "val", x) if isinstance(x, Literal) else x
    if isinstance(x, (jax.Array, bool)):
        return None
    is_number = isinstance(x, int) or getattr(x, "shape", None) == ()
    return int(x) if is_number and np.issubdtype(np.asarray(x).dtype, np.integer) else None


to_concrete_value: Callable[[Any], Any] = _core.to_concrete_value


def is_eager(trace: Trace) -> bool:
    """Whether operations in `trace` end up being executed at once rather than staged."""
    while not isinstance(trace, _core.EvalTrace):
        if isinstance(trace, partial_eval.DynamicJaxprTrace):
            return False
        parent = getattr(trace, "parent_trace", None)
        if parent is None:
            return False
        trace = parent
    return True


def traced_for_gradient(description: str) -> Any:
    """What JAX says of a tracer that escaped: which function it comes from."""
    return linear_util.DebugInfo("its gradient by funcgrad", description, None, None)


def _differentiated() -> Any:
    marker = object.__new__(partial_eval.DynamicJaxprTracer)
    marker.aval = _core.ShapedArray((), np.dtype(np.float32))
    return [("differentiated", marker)]


DIFFERENTIATED = _differentiated()
"""What ``jax.closure_convert`` has to find in a tracer to make an argument of it."""


def current_trace() -> Trace:
    """The trace in which an operation would now be processed."""
    return _core.trace_ctx.trace


def canonicalize(x: Any) -> Any:
    """A Python or numpy value as JAX takes it (x64 or not); other values as they are."""
    return dtypes.canonicalize_value(x)


def is_array_type(x: Any) -> bool:
    """Whether JAX accepts `x` as an array or scalar."""
    try:
        return not is_reference(typeof(canonicalize(x)))
    except TypeError:
        return False


def holds_arrays(x: Any) -> bool:
    """Whether a pytree has a leaf that is an array or a traced value, not a Python number."""
    return any(is_array_leaf(leaf) for leaf in jax.tree.leaves(x))


def is_value(x: Any) -> bool:
    """Whether this is a value of a type that is no array's: a reference, or of a type of its own."""
    if is_mutable(x) or isinstance(x, Tracer):
        return True
    return type(x) in _core.pytype_aval_mappings and is_high(typeof(x))


def is_array_leaf(x: Any) -> bool:
    """Whether a leaf is an array or a traced value, not a Python number."""
    return isinstance(x, (jax.Array, np.ndarray, np.generic, Tracer))


def is_number(x: Any) -> bool:
    """Whether a leaf is a Python number."""
    return isinstance(x, (int, float, complex))


def is_key(x: Any) -> bool:
    """Whether a value is a random key, or an array of such."""
    dtype = getattr(typeof(x), "dtype", None)
    return dtype is not None and dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def draws_together(aval: Aval) -> bool:
    """Whether these are random keys of a kind for which JAX draws for all of a vmap's keys at once."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None or not dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return False
    return dtype._impl.name != "threefry2x32"


def to_be_read_again(x: Any) -> Any:
    """A value that was read before: JAX's checker of random keys is told that this one may be."""
    return jax.random.clone(x) if is_key(x) else x


def on_numbers(fun: Callable[[list[Any]], list[Any]], values: Sequence[Any]) -> list[Any]:
    """What `fun` makes of arrays, in which random keys are given to it as the numbers they are."""
    keys = [x if is_key(x) else None for x in values]
    given = [
        x if key is None else jax.random.key_data(key) for x, key in zip(values, keys, strict=True)
    ]
    return [
        x if key is None else jax.random.wrap_key_data(x, impl=jax.random.key_impl(key))
        for x, key in zip(fun(given), keys, strict=True)
    ]


def is_array(x: Any) -> bool:
    """Whether a value is an array of numbers: no key, no token, no reference."""
    dtype = getattr(typeof(x), "dtype", dtypes.float0)
    return dtype != dtypes.float0 and not dtypes.issubdtype(dtype, dtypes.extended)


def is_real_array(x: Any) -> bool:
    """Whether a value is an array of real floating-point numbers."""
    return is_array(x) and dtypes.issubdtype(x.dtype, np.floating)


def is_high(aval: Any) -> bool:
    """Whether this is a type that a package defined for itself (JAX says *hijax*)."""
    return getattr(aval, "is_high", False) and not is_reference(aval)


def is_inexact(aval: Any) -> bool:
    """Whether values of this type have a gradient: real or complex floating point.

    A type of its own says by the type of its tangents. What one that is mutable holds has no gradient.
    """
    if is_high(aval):
        if getattr(aval, "has_qdd", False):
            return False
        aval = aval.to_tangent_aval()
        if is_high(aval):
            return True
    dtype = getattr(aval, "dtype", None)
    if dtype is None or dtypes.issubdtype(dtype, np.inexact):
        return dtype is not None
    return has_own_dtype(aval) and _rule_of_dtype(dtype, "tangent_dtype")(dtype) != dtypes.float0


def has_own_dtype(aval: Any) -> bool:
    """Whether this is a type of arrays whose dtype a package defined (JAX says *extended*)."""
    return isinstance(getattr(aval, "dtype", None), dtypes.ExtendedDType)


def has_numbers(aval: Any) -> bool:
    """Whether values of this type are real or complex floating-point numbers, which JAX adds up."""
    return dtypes.issubdtype(getattr(aval, "dtype", dtypes.float0), np.inexact)


def _rule_of_dtype(dtype: Any, name: str) -> Callable[..., Any]:
    """What an extended dtype has among its rules."""
    rule = getattr(dtype._rules, name, None)
    if rule is None:
        raise TypeError(
            f"A gradient was asked for through values of the extended dtype {dtype}, whose rules lack "
            f"`{name}`. {_MISSING_RULES[name]}"
        )
    return rule


_MISSING_RULES = {
    "tangent_dtype": "Give them tangent_dtype(dtype), the dtype of the tangents, jax.dtypes.float0 if "
    "there are none; or wrap what is converted in jax.lax.stop_gradient.",
    "add": "Two cotangents of that dtype meet: give them add(dtype, x, y), their sum.",
    "zero": "A cotangent of that dtype did not arrive: give them zero(dtype), which adds nothing.",
}


def is_complex(aval: Any) -> bool:
    """Whether values of this type are complex."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and dtypes.issubdtype(dtype, np.complexfloating)


def strong(aval: Any) -> Any:
    """The type without its weakness, so that rules are traced once for both."""
    return aval.strip_weak_type() if getattr(aval, "weak_type", False) else aval


def zeros(aval: Any) -> Any:
    """Zeros of a type, weak where it is weak, sharded as the type says."""
    if has_own_dtype(aval):
        _rule_of_dtype(aval.dtype, "zero")
    elif _is_plain(aval) and current_mesh().empty:
        return lax.broadcast_in_dim(np.zeros((), aval.dtype), aval.shape, ())
    return typed_zeros(ad_util.zeros_like_aval, aval)


def _is_plain(aval: Any) -> bool:
    """Whether a type says nothing but a shape, not that of a scalar, and a dtype of numbers."""
    return (
        type(aval) is _core.ShapedArray
        and aval.shape != ()
        and not aval.weak_type
        and aval.dtype != dtypes.float0
        and aval.sharding.mesh.empty
    )


def cotangent_zeros(x: Any, dtype: Any = None) -> Any:
    """Zeros for the cotangent of an array, of another dtype if one is given."""
    aval = strong(cotangent_aval(typeof(x)))
    return zeros(aval if dtype is None else aval.update(dtype=dtype))


def strong_zeros(aval: Any) -> Any:
    """Zeros of a type, never weak: what a sum of cotangents starts from."""
    return zeros(strong(aval))


def instantiated(cts: Sequence[Cotangent], avals: Sequence[Aval | None]) -> list[Cotangent]:
    """Cotangents of values of these types, with zeros for one that did not arrive, where a type is
    given."""
    pairs = zip(cts, avals, strict=True)
    return [
        zeros(cotangent_aval(aval)) if ct is None and aval is not None else ct for ct, aval in pairs
    ]


add_values: Callable[[Any, Any], Any] = ad_util.add_jaxvals
"""The sum of two cotangents, which a type of its own defines."""


def add_cotangents(x: Any, y: Any) -> Any:
    """The sum of two cotangents that are arrays, by the rule of their dtype if it has one of its own."""
    of_x, of_y = typeof(x), typeof(y)
    if not has_own_dtype(of_x) and not has_own_dtype(of_y):
        return lax.add(x, y)
    if of_x.dtype != of_y.dtype:
        raise TypeError(
            f"Two cotangents of one value have the types {of_x.str_short()} and {of_y.str_short()}, "
            "which have no sum. A custom_vjp may return cotangents of an extended dtype: have all that "
            "the value goes through return that dtype."
        )
    _rule_of_dtype(of_x.dtype, "add")
    return add_values(x, y)


def zero_cotangent(x: Any) -> Any:
    """Zeros for the cotangent of the value or type `x`: of dtype float0 for integers."""
    aval = tangent_aval(x)
    if getattr(aval, "dtype", None) == dtypes.float0:
        return np.zeros(aval.shape, dtypes.float0)
    return zeros(cotangent_aval(aval))


def seed_like(y: Any) -> Any:
    """Ones for the cotangent of an output; of dtype float0 for integers."""
    return jnp.ones_like(y) if is_inexact(typeof(y)) else zero_cotangent(y)


def blank(aval: Any, *leading: int) -> Any:
    """Zeros of a type, random keys included, with leading axes of these sizes."""
    if dtypes.issubdtype(aval.dtype, dtypes.extended):
        physical: Any = _core.physical_aval(aval)
        data = jax.numpy.zeros((*leading, *physical.shape), physical.dtype)
        if not dtypes.issubdtype(aval.dtype, dtypes.prng_key):
            return lax.convert_element_type(data, aval.dtype)
        return jax.random.wrap_key_data(data, impl=aval.dtype._impl.name)
    return zeros(strong(with_leading_axes(aval, *leading)) if leading else aval)


def as_array(x: Any) -> Any:
    """A Python scalar, numpy array or JAX value as a JAX value, weak if it is a Python scalar."""
    return lax.asarray(x)


def as_value(x: Any) -> Any:
    """The same; a value of a type of its own as it is."""
    return x if is_value(x) else as_array(x)


def weak_like(ct: Any, x: Any) -> Any:
    """A real gradient with the weakness of its input, as JAX's casts leave it."""
    return weak_as(ct, typeof(x))


def weakened(x: Any) -> Any:
    """The array with a weak type."""
    return lax._convert_element_type(x, x.dtype, weak_type=True)


def weak_as(ct: Any, aval: Any) -> Any:
    """The same for an input of this type."""
    found = typeof(ct)
    if is_high(aval) or is_high(found) or not hasattr(aval, "weak_type"):
        return ct
    if found.weak_type == aval.weak_type or not dtypes.issubdtype(found.dtype, np.floating):
        return ct
    return lax._convert_element_type(ct, found.dtype, weak_type=aval.weak_type)


def tangent_aval(x: Any) -> Any:
    """The type of a tangent or cotangent of the value or type `x` (float0 for integers)."""
    aval = x if isinstance(x, _core.AbstractValue) else typeof(x)
    return aval.to_tangent_aval()


def abstract_eval(primitive: Primitive, avals: Sequence[Any], params: dict[str, Any]) -> Any:
    """Output types of a primitive, without running it."""
    out, _ = primitive.abstract_eval(*avals, **params)
    return out


def is_plain_array_type(aval: Any) -> bool:
    """Whether this is the type of an array and nothing else: no reference, no type of a package's."""
    return type(aval) is _core.ShapedArray


def is_reference(aval: Any) -> bool:
    """Whether this is the type of a mutable reference."""
    return isinstance(aval, AbstractRef)


def is_mutable(x: Any) -> bool:
    """Whether this value is a mutable reference."""
    return isinstance(getattr(x, "aval", None), AbstractRef)


def holds_mutable(values: Sequence[Any]) -> bool:
    """Whether one of these is a mutable reference."""
    return bool([x for x in values if type(x) is not ArrayImpl and is_mutable(x)])


DEVICE = _core.MemorySpace.Device
"""The memory in which values lie unless somebody says otherwise."""


def memory_space(x: Any) -> Any:
    """The memory in which a value lies."""
    return getattr(typeof(x), "memory_space", DEVICE)


def waits_elsewhere(x: Any) -> bool:
    """Whether a value lies in another memory than the device's."""
    return memory_space(x) != DEVICE


def varying(x: Any) -> frozenset[Any]:
    """The mesh axes over which a value varies inside a shard_map."""
    return varying_axes(typeof(x))


def varying_axes(aval: Aval) -> frozenset[Any]:
    """The mesh axes over which a value of this type varies inside a shard_map."""
    mat = getattr(aval, "mat", None)
    return frozenset() if mat is None else frozenset(mat.varying)


def type_outside(aval: Aval) -> Aval:
    """The type that a value of a shard_map has outside it, where it says nothing of mesh axes."""
    return _core.ShapedArray(aval.shape, aval.dtype)


def is_part_of_sum(aval: Aval) -> bool:
    """Whether a value of this type in a shard_map is a part of a sum, or its cotangent is one."""
    mat = getattr(aval, "mat", None)
    return mat is not None and bool(mat.unreduced or mat.reduced)
