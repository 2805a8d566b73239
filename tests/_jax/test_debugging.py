"""What a user sees when something goes wrong: where a NaN begins, and tracebacks of their own frames."""

from __future__ import annotations

import contextlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive

import funcgrad
from funcgrad import errors

# --- jax_debug_nans


def sum_of_root(x: Any) -> Any:
    return jnp.sqrt(x * 2) * 0.0 + x  # at fault


def in_a_sum_of_cotangents(x: Any) -> Any:
    return jnp.sqrt(x) - jnp.sqrt(x)  # at fault


def in_scan(x: Any) -> Any:
    def body(carry: Any, _: Any) -> Any:
        return jnp.sqrt(carry * x), None  # at fault

    return lax.scan(body, x, None, length=3)[0]


def in_while(x: Any) -> Any:
    def body(carry: Any) -> Any:
        return jnp.sqrt(carry[0] * x), carry[1] + 1  # at fault

    return lax.while_loop(lambda carry: carry[1] < 3, body, (x, 0))[0]


def in_branch(x: Any) -> Any:
    root = lambda x: jnp.sqrt(x * x)  # at fault
    return lax.cond(x > 1, lambda x: x, root, x)


def in_checkpoint(x: Any) -> Any:
    return jax.checkpoint(lambda x: jnp.sqrt(x * x))(x)  # at fault


@jax.custom_vjp
def crooked(x: Any) -> Any:
    return x


crooked.defvjp(lambda x: (x, x), lambda x, ct: (ct * jnp.log(x - 1),))


def in_custom_vjp(x: Any) -> Any:
    return crooked(x) * 3  # at fault


CONTEXTS: dict[str, Callable[[Any], Any]] = {
    "eager": funcgrad.grad,
    "jit": lambda f: jax.jit(funcgrad.grad(f)),
    "of jit": lambda f: funcgrad.grad(jax.jit(f)),
    "jit of jit": lambda f: jax.jit(funcgrad.grad(jax.jit(f))),
    "nested": lambda f: funcgrad.grad(funcgrad.grad(f)),
    "pullback": lambda f: lambda x: funcgrad.vjp(f, x)[1](jnp.float32(1)),
}
FUNCTIONS = [
    sum_of_root,
    in_a_sum_of_cotangents,
    in_scan,
    in_while,
    in_branch,
    in_checkpoint,
    in_custom_vjp,
]


@pytest.fixture
def debug_nans() -> Iterator[None]:
    with jax.debug_nans(True):
        yield


def line_of(fun: Any, text: str) -> str:
    """``file:line`` of the line in `fun` that ends with `text`."""
    lines, first = inspect.getsourcelines(fun)
    number = next(first + i for i, line in enumerate(lines) if line.endswith(f"{text}\n"))
    return f"test_debugging.py:{number}"


@pytest.mark.usefixtures("debug_nans")
@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
@pytest.mark.parametrize("fun", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_nan_is_found_at_the_users_line(fun, context):
    with pytest.raises(FloatingPointError) as raised:
        context(fun)(jnp.float32(0.0))
    assert isinstance(raised.value, errors.NotFiniteError)
    assert f"nan in the backward pass of {__file__[:1]}" in str(raised.value)
    assert re.search(r"[Ii]nvalid value \(nan\) encountered in \w", str(raised.value))
    assert line_of(fun, "# at fault") in str(raised.value)
    assert float(funcgrad.grad(jnp.sin)(0.0)) == 1.0


@pytest.mark.usefixtures("debug_nans")
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_the_cause_of_an_error_for_a_nan_is_the_users_operation_as_jax_gives_it(wrap):
    for module in (jax, funcgrad):
        with pytest.raises(FloatingPointError) as raised:
            module.grad(wrap(jnp.linalg.norm))(jnp.zeros((3, 3)))
        cause = raised.value.__cause__
        assert type(cause).__name__ == "JaxStackTraceBeforeTransformation"
        frames = traceback.extract_tb(cause.__traceback__)
        assert frames[-1].filename == __file__


@pytest.mark.usefixtures("debug_nans")
def test_under_vmap_it_is_the_line_of_the_call():
    with pytest.raises(errors.NotFiniteError, match=line_of(sum_of_root, "# at fault")):
        jax.vmap(funcgrad.grad(sum_of_root))(jnp.zeros(3))


def test_an_infinity_is_found_too():
    with jax.debug_infs(True), pytest.raises(errors.NotFiniteError) as raised:
        funcgrad.grad(lambda x: jnp.sqrt(x))(0.0)
    assert "became inf" in str(raised.value)
    assert "jax_debug_infs" in str(raised.value)


def test_the_users_own_floating_point_error_is_left_alone():
    @jax.custom_vjp
    def numpy_s(x: Any) -> Any:
        return x

    def backward(_: Any, ct: Any) -> Any:
        raise FloatingPointError("from numpy")

    numpy_s.defvjp(lambda x: (x, None), backward)
    with pytest.raises(FloatingPointError, match="from numpy"):
        funcgrad.grad(numpy_s)(1.0)


@pytest.mark.usefixtures("debug_nans")
def test_a_nan_of_the_function_itself_is_jax_s():
    with pytest.raises(FloatingPointError) as raised:
        funcgrad.grad(lambda x: jnp.log(x - 1))(0.0)
    assert not isinstance(raised.value, funcgrad.FuncgradError)


def first_use(x: Any) -> Any:
    return lax.cosh(x)


def second_use(x: Any) -> Any:
    return lax.cosh(x)


def test_operations_of_a_backward_program_come_from_the_users_lines():
    """A rule is traced once for all its uses: the line of the first is not that of the others."""
    for use, other in ((first_use, second_use), (second_use, first_use)):
        text = jax.jit(funcgrad.grad(use)).lower(1.0).as_text(debug_info=True)
        number = inspect.getsourcelines(use)[1] + 1
        assert f'test_debugging.py":{number}:' in text
        assert f'test_debugging.py":{inspect.getsourcelines(other)[1] + 1}:' not in text


# --- tracebacks

INTERNAL = (str(Path(funcgrad.__file__).parent), str(Path(jax.__file__).parent))


class Planned(Exception):
    pass


def fails(x: Any) -> Any:
    raise Planned


def calls_one_that_fails(x: Any) -> Any:
    return fails(jnp.sin(x))


def failing_rule(ct: Any, x: Any, **_: Any) -> Any:
    raise Planned


own_p = Primitive("own_op_without_rule")
own_p.def_impl(lambda x: x)
own_p.def_abstract_eval(lambda x: x)

FAILING_RULES = funcgrad.DEFAULT.override({lax.sin_p: failing_rule})
TRANSFORMS: dict[str, Callable[..., Any]] = {
    "grad": funcgrad.grad,
    "value_and_grad": funcgrad.value_and_grad,
    "jacrev": funcgrad.jacrev,
    "hessian": funcgrad.hessian,
    "vjp": lambda f, **kw: lambda x: funcgrad.vjp(f, x, **kw)[1](1.0),
    "hvp": lambda f, **kw: lambda x: funcgrad.hvp(f, (x,), (x,), **kw),
}
JITS: dict[str, Callable[..., Any]] = {
    "eager": lambda transform, f, **kw: transform(f, **kw),
    "jit": lambda transform, f, **kw: jax.jit(transform(f, **kw)),
    "of jit": lambda transform, f, **kw: transform(jax.jit(f), **kw),
}
CULPRITS: dict[str, Any] = {
    "function": (calls_one_that_fails, funcgrad.DEFAULT, ["calls_one_that_fails", "fails"]),
    "rule": (jnp.sin, FAILING_RULES, ["failing_rule"]),
    "rules": (own_p.bind, funcgrad.DEFAULT, []),
    "argument": (jnp.sin, funcgrad.DEFAULT, []),
}


def frames_of(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


@pytest.mark.parametrize("culprit", CULPRITS.values(), ids=CULPRITS.keys())
@pytest.mark.parametrize("jitted", JITS.values(), ids=JITS.keys())
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_tracebacks_show_the_users_frames_alone(transform, jitted, culprit):
    fun, rules, last = culprit
    x = "text" if culprit is CULPRITS["argument"] else 1.0
    if isinstance(x, str) and jitted is JITS["jit"]:
        pytest.skip("jax.jit refuses the argument itself")
    with pytest.raises((Planned, funcgrad.FuncgradError)) as raised:
        jitted(transform, fun, rules=rules)(x)
    frames = frames_of(raised.value)
    assert not [f.filename for f in frames if f.filename.startswith(INTERNAL)]
    assert [f.name for f in frames[len(frames) - len(last) :]] == last


def test_wrong_use_shows_the_users_frames_alone():
    with pytest.raises(funcgrad.FuncgradError) as raised:
        funcgrad.grad(3.0)  # type: ignore[arg-type]
    assert len(frames_of(raised.value)) == 1


def test_in_a_block_of_as_jax_grad_too():
    for call in (lambda: jax.vjp(calls_one_that_fails, 1.0), lambda: jax.grad(fails)(1.0)):
        with funcgrad.as_jax_grad(), pytest.raises(Planned) as raised:
            call()
        assert not [f for f in frames_of(raised.value) if f.filename.startswith(INTERNAL)]


def test_the_setting_of_jax_shows_all_frames():
    before = jax.config.values["jax_traceback_filtering"]
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with pytest.raises(Planned) as raised:
            funcgrad.grad(calls_one_that_fails)(1.0)
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert any(f.filename.startswith(INTERNAL) for f in frames_of(raised.value))


# --- jax_traceback_filtering


def fails_for_a_reason(x: Any) -> Any:
    try:
        raise KeyError
    except KeyError as reason:
        raise Planned from reason


@jax.custom_vjp
def fails_backward(x: Any) -> Any:
    return x


fails_backward.defvjp(lambda x: (x, x), lambda x, ct: (fails_for_a_reason(ct),))

FAILING: dict[str, Callable[[Any], Any]] = {
    "grad": lambda module: module.grad(fails_for_a_reason)(1.0),
    "vjp": lambda module: module.vjp(fails_for_a_reason, 1.0),
    "twice": lambda module: module.grad(module.grad(fails_for_a_reason))(1.0),
    "jit": lambda module: jax.jit(module.value_and_grad(fails_for_a_reason))(1.0),
    "of jit": lambda module: module.grad(jax.jit(fails_for_a_reason))(1.0),
    "vmap": lambda module: jax.vmap(module.grad(fails_for_a_reason))(jnp.ones(2)),
    "checkpoint": lambda module: module.grad(jax.checkpoint(fails_for_a_reason))(1.0),
    "backward": lambda module: module.grad(lambda x: fails_backward(x) * 1)(1.0),
    "backward in jit": lambda module: jax.jit(module.grad(lambda x: fails_backward(x) * 1))(1.0),
    "shape": lambda module: module.grad(lambda x: jnp.ones(3) @ jnp.ones(4) * x)(1.0),
}


def error_of(call: Callable[[Any], Any], module: Any) -> Exception:
    try:
        call(module)
    except Exception as error:
        return error
    raise AssertionError("it raises nothing")


def seen(call: Callable[[Any], Any], module: Any, hides: bool) -> list[Any]:
    """What a user sees of an error: its frames, its notes, and its causes with theirs."""
    found: list[Any] = []
    error: BaseException | None = error_of(call, module)
    while error is not None:
        frames = [
            (f.f_code.co_filename, line)
            for f, line in traceback.walk_tb(error.__traceback__)
            if not (hides and "__tracebackhide__" in f.f_locals)
        ]
        if "Unfiltered" in type(error).__name__:  # all frames, so JAX's or ours
            frames = []
        found += [type(error), frames, getattr(error, "__notes__", [])]
        found += [type(error.__context__), error.__suppress_context__]
        error = error.__cause__
    return found


@pytest.mark.parametrize("call", FAILING.values(), ids=FAILING.keys())
@pytest.mark.parametrize("mode", ["tracebackhide", "remove_frames", "quiet_remove_frames", "auto"])
def test_errors_look_as_under_jax_grad(mode, call):
    with traceback_filtering(mode):
        ours, jaxs = (seen(call, m, mode == "tracebackhide") for m in (funcgrad, jax))
    assert ours == jaxs


@pytest.mark.parametrize("call", FAILING.values(), ids=FAILING.keys())
def test_without_filtering_every_frame_is_there(call):
    with traceback_filtering("off"):
        error = error_of(call, funcgrad)
    assert any(f.filename.startswith(INTERNAL[0]) for f in frames_of(error))
    assert not hasattr(error, "__notes__")


@contextlib.contextmanager
def traceback_filtering(mode: str) -> Iterator[None]:
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", mode)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_filtering", before)
