"""Ops: primitives, functions, and where in the user's source they are used."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax._src import api_util
from jax._src.ad_checkpoint import name_p  # noqa: F401
from jax._src.ad_util import add_any_p  # noqa: F401
from jax._src.interpreters.ad import (
    custom_lin_p,  # noqa: F401
    primitive_jvps,
    primitive_transposes,
)
from jax._src.pjit import reshard_p  # noqa: F401
from jax._src.random.core import random_clone_p, random_gamma_p  # noqa: F401
from jax._src.random.philox2x32 import philox2x32_p  # noqa: F401
from jax._src.random.philox4x32 import philox4x32_p  # noqa: F401
from jax._src.random.prng import (  # noqa: F401
    iota_2x32_shape_p,
    random_bits_p,
    random_fold_in_p,
    random_seed_p,
    random_split_p,
    random_unwrap_p,
    random_wrap_p,
)
from jax._src.random.threefry2x32 import threefry2x32_p  # noqa: F401
from jax._src.random.threefry4x32 import threefry4x32_p  # noqa: F401
from jax.extend import source_info_util
from jax.extend.core import Primitive

source_info_util.register_exclusion(os.path.dirname(os.path.dirname(__file__)))


current_source: Callable[[], Any] = source_info_util.current


def where(source: Any) -> str | None:
    """``file:line (function)`` of the user's frame, if there is one."""
    return source_info_util.summarize(source) or None


def current_where() -> str | None:
    """``file:line (function)`` of the user's frame that the current operation comes from."""
    return where(current_source())


def here() -> str:
    """``file:line (function)`` of the user's frame that is running."""
    with source_info_util.user_context(None):
        return where(current_source()) or "<unknown line>"


def primitive(name: str, module: str = "") -> Primitive | None:
    """A primitive of ``jax.lax``, or of another module of JAX's, or None where this JAX lacks it."""
    return getattr(jax.lax, name, None) if not module else internal(name, module)


def internal(name: str, module: str) -> Any:
    """What one of JAX's own modules defines, or None where this JAX version lacks it."""
    try:
        return getattr(importlib.import_module(f"jax._src.{module}"), name, None)
    except ImportError:
        return None


@functools.cache
def is_foreign(primitive: Primitive) -> bool:
    """Whether a primitive is of a package other than JAX that told JAX its derivative."""
    if primitive not in primitive_jvps and primitive not in primitive_transposes:
        return False
    own = (module for name, module in sys.modules.items() if name.split(".")[0] == "jax")
    return not any(value is primitive for m in list(own) for value in list(vars(m).values()))


def function_description(fn: Any) -> str | None:
    """How a trace names `fn`: ``name at file:line``; None for what is no function."""
    while not inspect.isfunction(fn):
        if isinstance(fn, partial):
            fn = fn.func
        elif isinstance(fn, (jax.custom_jvp, jax.custom_vjp)):
            fn = fn.fun
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        else:
            return None
    return api_util.fun_sourceinfo(fn)


def source_of(fn: Any) -> str:
    """``file:line`` of a function, or ``<unknown>``."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "<unknown>"
