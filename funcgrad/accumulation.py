"""Where the cotangents of a pullback's arguments go: out as values, or into references.

``Pullback.with_refs`` takes an entry for each leaf of the arguments:

| entry                | what becomes of the leaf's cotangent              | what the pullback returns |
|----------------------|---------------------------------------------------|---------------------------|
| a reference          | it is added to what the reference holds           | ``GradRef()``             |
| ``DontWant()``       | it is dropped                                     | ``DidntWant()``           |
| an accumulator       | it is added to what JAX's accumulator holds       | as JAX does               |
| ``GradValue()``, any | it is returned                                    | the cotangent             |

An argument that is itself a reference has a content before the function and one after it. The entry's
reference holds the cotangent of the content after it when the pullback is called, and that of the
content before it when the pullback returns.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import jax
from jax.tree_util import keystr, tree_leaves_with_path, tree_structure

from funcgrad import _jax, errors
from funcgrad._jax import Aval, Cotangent


def check_entries(
    entries: tuple[Any, ...],
    tree: Any,
    avals: Sequence[Aval],
    references: Container[int],
    name: str,
) -> list[Any]:
    """The entries by leaf of the arguments, of which some are references."""
    found = tree_structure(entries)
    if found != tree:
        raise errors.CotangentError(
            f"`with_refs` of the pullback of `{name}` was called with entries of structure {found}; "
            f"the arguments have structure {tree}. Pass for each array of the arguments a reference, "
            "jax.ad.GradValue() or jax.ad.DontWant(). (None is no entry but an empty pytree.)"
        )
    pairs = tree_leaves_with_path(entries)
    refused = references if _jax.REFERENCES_NEED_REFERENCES else ()
    for i, ((path, entry), aval) in enumerate(zip(pairs, avals, strict=True)):
        if _jax.is_mutable(entry):
            check_reference(entry, keystr(path), aval, name)
        elif i in refused and not isinstance(entry, _jax.DontWant):
            raise content_as_value(aval, f"`with_refs` of the pullback of `{name}`")
    return [entry for _, entry in pairs]


def check_reference(ref: Any, path: str, aval: Aval, name: str) -> None:
    """Refuse a reference that cannot hold the leaf's cotangent."""
    found, expected = _jax.content_aval(ref), _jax.cotangent_aval(aval)
    if expected.dtype == jax.dtypes.float0:
        return
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise errors.CotangentError(
            f"`with_refs` of the pullback of `{name}` was given for the argument's leaf {path} a "
            f"reference to {found.str_short()}; the cotangent to be added has type "
            f"{expected.str_short()}. Pass a reference of that shape and dtype."
        )


def deliver(entry: Any, ct: Cotangent, aval: Aval) -> Any:
    """Bring a leaf's cotangent where its entry says; what the pullback returns for the leaf."""
    if _jax.is_mutable(entry):
        if ct is not None:
            _jax.add_to_all(entry, ct)
        return _jax.GradRef()
    if isinstance(entry, _jax.DontWant):
        return _jax.DidntWant()
    if _jax.is_accumulator(entry):
        if ct is not None:
            entry.accum(ct)
        if hasattr(entry, "val"):
            total = entry.freeze()
            return _jax.zero_cotangent(aval) if isinstance(total, _jax.Zero) else total
        return _jax.GradRef() if hasattr(entry, "ref") else _jax.DidntWant()
    return _jax.zero_cotangent(aval) if ct is None else ct


def deliver_content(entry: Any, ct: Cotangent, aval: Aval, name: str) -> Any:
    """The same for an argument that is a reference, with the cotangent of its content at first."""
    if isinstance(entry, _jax.DontWant):
        return _jax.DidntWant()
    if _jax.is_mutable(entry):
        _jax.write_all(entry, _jax.zeros(_jax.cotangent_aval(aval)) if ct is None else ct)
        return _jax.GradRef()
    if ct is None and not _jax.REFERENCES_NEED_REFERENCES:
        return jax.new_ref(_jax.zeros(_jax.cotangent_aval(aval)))
    raise content_as_value(aval, f"The pullback of `{name}`")


def content_as_value(aval: Aval, called: str) -> errors.CotangentError:
    """The error for an argument that is a reference, and the cotangent of whose content nobody takes."""
    return errors.CotangentError(
        f"{called} was called, and one of the arguments is a reference to {aval.str_short()}: the "
        "cotangent of what it held can't be returned as a value. Call pullback.with_refs(...)(ct) with "
        "a reference in the argument's place, into which it is put, or with jax.ad.DontWant()."
    )


def check_restored(residuals: Sequence[Any], name: str) -> None:
    """Refuse residuals that the user has not put back."""
    if any(map(_jax.is_left_out, residuals)):
        raise errors.CotangentError(
            f"The pullback of `{name}` was called, and an argument that it needs was not kept, since "
            "saveable_args=... of funcgrad.vjp says so. Put the arguments back, in the place of each "
            "NotSaveable() in pullback.args_res, before calling it."
        )
