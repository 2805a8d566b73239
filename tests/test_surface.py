"""What the package shows of itself: names, documentation, and the types of what it returns."""

from __future__ import annotations

import functools
import inspect
import pydoc
import re
import typing
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import funcgrad
from funcgrad import inspect as looking
from funcgrad import testing


def loss(params: dict[str, Any], x: float, *, scale: float = 1.0) -> Any:
    """The loss of a model.

    It is a square.
    """
    return (params["w"] * x * scale) ** 2


TRANSFORMS = {
    "grad": (funcgrad.grad, "Gradient"),
    "value_and_grad": (funcgrad.value_and_grad, "Value and gradient"),
    "jacrev": (funcgrad.jacrev, "Jacobian"),
    "hessian": (funcgrad.hessian, "Hessian"),
}


def test_the_public_names_are_listed():
    assert set(dir(funcgrad)) == {*funcgrad.__all__, "__version__"}
    assert all(hasattr(funcgrad, name) for name in dir(funcgrad))


def test_help_lists_the_public_names():
    listed = re.findall(r"^  (\w+): .+\.$", inspect.getdoc(funcgrad) or "", re.M)
    assert sorted(listed) == sorted(funcgrad.__all__)
    assert len(listed) == len(set(listed))
    shown = pydoc.plain(pydoc.render_doc(funcgrad))
    assert all(f"{name}: " in shown for name in listed)


@pytest.mark.parametrize(
    "function",
    [*[t for t, _ in TRANSFORMS.values()], funcgrad.vjp, funcgrad.hvp, funcgrad.as_jax_grad,
     looking.coverage, looking.cost, looking.graph, looking.flow, looking.residuals,
     testing.check_grads],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_signatures_name_the_default_rules(function):
    default = inspect.signature(function).parameters["rules"].default
    assert repr(default) == "DEFAULT"
    assert default == funcgrad.DEFAULT
    assert default[jax.lax.sin_p] is funcgrad.DEFAULT[jax.lax.sin_p]


@pytest.mark.parametrize(("transform", "what"), TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_a_derivative_says_whose_it_is(transform, what):
    derivative = transform(loss)
    doc = inspect.getdoc(derivative) or ""
    assert doc.startswith(f"{what} of `loss` with respect to positional argument 0.\n\nTakes the ")
    assert doc.endswith("The documentation of `loss`:\n\nThe loss of a model.\n\nIt is a square.")
    assert "arguments 0, 1." in (transform(loss, (0, 1)).__doc__ or "")
    assert (derivative.__name__, derivative.__module__) == ("loss", __name__)
    assert inspect.signature(derivative) == inspect.signature(loss)
    assert inspect.unwrap(derivative) is loss


@pytest.mark.parametrize(("transform", "what"), TRANSFORMS.values(), ids=TRANSFORMS.keys())
@pytest.mark.parametrize(
    ("fun", "name"),
    [
        (functools.partial(loss, {"w": 1.0}), "loss"),
        (jax.jit(loss), "loss"),
        (lambda x: x, "<lambda>"),
        (jnp.square, "square"),
        (jax.tree_util.Partial(loss), "loss"),
    ],
    ids=["partial", "jitted", "undocumented", "ufunc", "Partial"],
)
def test_it_says_so_of_any_function(fun, name, transform, what):
    assert (transform(fun).__doc__ or "").startswith(f"{what} of `{name}` with respect to")


@pytest.mark.parametrize("transform", [t for t, _ in TRANSFORMS.values()], ids=TRANSFORMS.keys())
def test_type_checkers_see_the_functions_arguments(transform):
    """The parameters of what is given are those of what comes back: one ParamSpec."""
    hints = typing.get_type_hints(transform)
    given, returned = hints["fun"].__args__[0], hints["return"].__args__[0]
    assert isinstance(given, typing.ParamSpec)
    assert given is returned


def test_the_value_has_the_functions_type():
    hints = typing.get_type_hints(funcgrad.value_and_grad)
    value = typing.get_args(typing.get_args(hints["return"])[1])[0]
    assert value is typing.get_args(hints["fun"])[1]
