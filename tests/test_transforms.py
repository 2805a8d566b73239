"""The public transforms against JAX's own: signatures, structures, dtypes and values."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.compare import assert_same

FLOAT0 = jax.dtypes.float0


@jax.tree_util.register_dataclass
@dataclass
class Layer:
    w: Any
    b: Any
    name: str = field(default="layer", metadata={"static": True})


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Case:
    """A call ``transform(fun, **settings)(*args, **kwargs)``; arguments are made when it runs."""

    name: str
    fun: Callable[..., Any]
    args: Callable[[], tuple[Any, ...]]
    kwargs: dict[str, Any]
    settings: dict[str, Any]

    def run(self, transform: Any, jit: bool = False) -> Any:
        transformed = transform(self.fun, **self.settings)
        call = functools.partial(transformed, **self.kwargs)
        return (jax.jit(call) if jit else call)(*self.args())


def case(name: str, fun: Any, *args: Any, kwargs: Any = None, **settings: Any) -> Case:
    def make() -> tuple[Any, ...]:
        return tuple(a() if callable(a) else a for a in args)

    return Case(name, fun, make, kwargs or {}, settings)


def arange(*shape: int, dtype: Any = None) -> Callable[[], Any]:
    return lambda: (
        (jnp.arange(1, 1 + int(np.prod(shape))) / 7).reshape(shape).astype(dtype or float)
    )


def half_sum(dtype: Any) -> Callable[[], Any]:
    return lambda: jnp.asarray([0.5, -1.5, 2.0], dtype)


def product(x: Any, y: Any) -> Any:
    return jnp.sum(jnp.sin(x) * y)


def forward(layer: Layer, x: Any) -> Any:
    return jnp.sum(jnp.tanh(x @ layer.w + layer.b)) * len(layer.name)


def layer() -> Layer:
    return Layer(arange(3, 2)(), arange(2)(), "four")


def tree_loss(tree: Any) -> Any:
    return sum(jnp.sum(jnp.asarray(x) ** 2 * (i + 1)) for i, x in enumerate(jax.tree.leaves(tree)))


def with_aux(x: Any) -> Any:
    y = jnp.sin(x)
    return jnp.sum(y * y), {"y": y, "double": 2 * y, "given": x, "none": None, "int": y > 0}


def clamp_steps(x: Any) -> Any:
    return jnp.floor(x) * 2.0 + jnp.sign(x)


CLOSED = jnp.asarray([2.0, 3.0, 4.0], jnp.float32)
NUMPY = np.asarray([2.0, 3.0, 4.0], np.float32)
COMPLEX = np.asarray([1.0 + 2.0j, -0.5 - 1.0j], np.complex64)
X, Y = arange(3), arange(3)

ARGNUMS = [
    case("argnums=1", product, X, Y, argnums=1),
    case("argnums=-1", product, X, Y, argnums=-1),
    case("argnums=-2", product, X, Y, argnums=-2),
    case("argnums=(0, 1)", product, X, Y, argnums=(0, 1)),
    case("argnums=(1, 0)", product, X, Y, argnums=(1, 0)),
    case("argnums=(-1,)", product, X, Y, argnums=(-1,)),
    case("argnums=[0]", product, X, Y, argnums=[0]),
    case("argnums=np.int64", product, X, Y, argnums=np.int64(1)),
    case("keywords", lambda x, *, y, n=2: product(x, y) * n, X, kwargs={"y": 3.0, "n": 5}),
    case("keyword default", lambda x, y=2.0: product(x, y), X),
    case("not an array beside it", lambda x, kind: x**2 if kind == "a" else x, 3.0, "a"),
    case("partial", functools.partial(product, y=2.0), X),
]

TREES = [
    case("dataclass", forward, layer, arange(4, 3)),
    case("dataclass and x", forward, layer, arange(4, 3), argnums=(0, 1)),
    case("NamedTuple", tree_loss, lambda: Pair(jnp.ones(2), (3.0, None))),
    case("nested", tree_loss, lambda: {"b": [1.0, jnp.ones((2, 1))], "a": {"c": ()}, "n": None}),
    case("OrderedDict", tree_loss, lambda: OrderedDict(z=2.0, a=jnp.ones(2))),
    case("empty", lambda tree: 3.0, {}),
    case("None", lambda x: 3.0, None),
]

INPUTS = [
    case("Python float", jnp.sin, 0.3),
    case("Python float, own output", lambda x: x, 0.3),
    case("Python complex", lambda z: (z * z.conjugate()).real, 1 + 2j),
    case("numpy scalar", jnp.sin, np.float32(0.3)),
    case("numpy float64 scalar", jnp.sin, np.float64(0.3)),
    case("numpy array", lambda x: jnp.sum(jnp.sin(x)), NUMPY),
    case("0-d numpy", jnp.sin, np.asarray(0.3, np.float32)),
    case("numpy method", lambda x: (x * x).sum(), NUMPY),
    case("weak times strong", lambda x: jnp.sum(x * CLOSED), 2.0),
    case("strong times weak", lambda x: jnp.sum(x) * 2.0, NUMPY),
    case("weak through jit", lambda x: jax.jit(lambda y: y * 2)(x), 2.0),
    case("weak, astype", lambda x: jnp.sum(lax.convert_element_type(x, jnp.float32) * CLOSED), 2.0),
    case("bfloat16", lambda x: jnp.sum(x**2), half_sum(jnp.bfloat16)),
    case("float16", lambda x: jnp.sum(jnp.tanh(x)), half_sum(jnp.float16)),
    case("mixed", lambda x, y: jnp.sum(x * y), half_sum(jnp.bfloat16), NUMPY, argnums=(0, 1)),
    case("size 0", lambda x: jnp.sum(x**2) + 1.0, lambda: jnp.zeros((0, 3))),
    case("size 0, prod", lambda x: jnp.prod(x), lambda: jnp.zeros((0,))),
    case("unused", lambda x, y: jnp.sum(y), X, Y, argnums=(0, 1)),
    case("independent", lambda x: jnp.sum(CLOSED), X),
    case("constant", lambda x: 1.0, X),
    case("integer way", lambda x: jnp.sum(x.astype(int)).astype(float), X),
    case("zero derivative", lambda x: jnp.sum(clamp_steps(x)), X),
    case("stop_gradient", lambda x: jnp.sum(x * lax.stop_gradient(x)), X),
    case("closed over", lambda x: jnp.sum(x * CLOSED + NUMPY), X),
    case("in place", lambda x: jnp.sum(x.at[0].set(0.0).at[1].multiply(3.0)), X),
    case("float output of ints", lambda x: jnp.sum(x) * jnp.int32(3), X),
    case("allow_int", lambda x, n: x**2 * n, 3.0, 2, argnums=(0, 1), allow_int=True),
    case("allow_int alone", lambda n: 1.0 * n, lambda: jnp.arange(3)[1], allow_int=True),
    case(
        "allow_int, bool", lambda t: t["x"] * t["b"], lambda: {"x": 3.0, "b": True}, allow_int=True
    ),
    case("holomorphic", lambda z: jnp.sum(z**3 * 1j), COMPLEX, holomorphic=True),
    case("holomorphic exp", lambda z: jnp.exp(z), 0.5 + 1j, holomorphic=True),
    case("complex to real", lambda z: jnp.sum(jnp.abs(z * z) + jnp.imag(z)), COMPLEX),
    case("real to complex to real", lambda x: jnp.real(jnp.exp(1j * x)), 0.3),
    case("complex and real", lambda z, x: jnp.sum((z * x).real), COMPLEX, 2.0, argnums=(0, 1)),
]

AUX = [
    case("aux", with_aux, X, has_aux=True),
    case("aux list", lambda x: [jnp.sum(x), x], X, has_aux=True),
    case("aux dataclass", lambda x: (jnp.sum(x), Layer(x, 2 * x)), X, has_aux=True),
    case("aux Python numbers", lambda x: (jnp.sum(x), (1, 2.0, True, 1j)), X, has_aux=True),
    case("aux numpy", lambda x: (jnp.sum(x), NUMPY), X, has_aux=True),
    case("aux through jit", jax.jit(with_aux), X, has_aux=True),
]

SCALAR = [*ARGNUMS, *TREES, *INPUTS, *AUX]
WEAK_LOST = ("Python complex",)  # JAX gives a strong gradient for these weak inputs
by_name = {"ids": lambda c: c.name}


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request: pytest.FixtureRequest) -> Any:
    with jax.enable_x64(request.param):
        yield request.param


@pytest.mark.parametrize("name", ["grad", "value_and_grad", "vjp", "jacrev", "hessian"])
def test_signature_is_that_of_jax(name):
    def of(transform: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(transform).parameters.values()
        own = (
            "rules",
            "strict",
            "reduce_axes",
            "saveable_args",
            "in_nzs",
            "taps",
            "edit",
            "debug_nans",
            "chunk_size",
        )
        return [(p.name, p.kind, p.default) for p in parameters if p.name not in own]

    assert of(getattr(funcgrad, name)) == of(getattr(jax, name))


@pytest.mark.parametrize("name", ["grad", "value_and_grad", "jacrev", "hessian"])
def test_result_is_named_after_the_function(name):
    def fun(x: Any) -> Any:
        """Says much."""
        return x

    ours, theirs = getattr(funcgrad, name)(fun), getattr(jax, name)(fun)
    assert inspect.signature(ours) == inspect.signature(fun)
    assert ours.__module__ == theirs.__module__


@pytest.mark.parametrize("transform", ["grad", "value_and_grad"])
@pytest.mark.parametrize("case", SCALAR, **by_name)
def test_gradient_of_scalar(case, transform, x64):
    ours, theirs = (case.run(getattr(m, transform)) for m in (funcgrad, jax))
    assert_same(ours, theirs, weak=case.name not in WEAK_LOST)


@pytest.mark.parametrize("case", [c for c in SCALAR if "not an array" not in c.name], **by_name)
def test_gradient_of_scalar_under_jit(case, x64):
    ours, theirs = (case.run(m.value_and_grad, jit=True) for m in (funcgrad, jax))
    assert_same(ours, theirs, weak=case.name not in WEAK_LOST)


@pytest.mark.parametrize("leaf", ["text", object(), print], ids=["str", "object", "function"])
@pytest.mark.parametrize("module", [funcgrad, jax], ids=["funcgrad", "jax"])
def test_aux_leaf_that_is_no_array(module, leaf):
    """It passes through as it is, as with JAX."""

    def fun(x: Any) -> Any:
        return x * 2.0, {"leaf": leaf, "x": x * 3.0}

    auxs = [
        module.grad(fun, has_aux=True)(1.0)[1],
        module.value_and_grad(fun, has_aux=True)(1.0)[0][1],
        module.jacrev(fun, has_aux=True)(1.0)[1],
        module.vjp(fun, 1.0, has_aux=True)[2],
    ]
    for aux in auxs:
        assert aux["leaf"] is leaf
        assert_same(aux["x"], 3 * jnp.asarray(1.0), weak=False)


def test_aux_can_be_used_afterwards():
    (_, aux), _ = funcgrad.value_and_grad(with_aux, has_aux=True)(X())
    for leaf in jax.tree.leaves(aux):
        assert type(leaf) is type(X()), "a tracer came out"
        jnp.sum(leaf)


@pytest.mark.parametrize("value", [NUMPY, 3.0, np.float32(2)], ids=["array", "float", "scalar"])
def test_what_is_not_traced_comes_out_as_it_went_in(value):
    for module in (jax, funcgrad):
        (_, same), _, aux = module.vjp(lambda x: ((x, value), value), X(), has_aux=True)
        assert type(aux) is type(value)
        assert type(same) is type(value)


@pytest.mark.parametrize("ct", [2.0, np.float32(2.0), np.asarray(2.0, np.float32)])
@pytest.mark.parametrize("fun", [lambda x: x, lambda x: jnp.sum(x**2), lambda x: [x, (x, x)][0]])
def test_cotangent_that_is_no_jax_array(fun, ct):
    x = jnp.float32(3.0)
    assert_same(funcgrad.vjp(fun, x)[1](ct), jax.vjp(fun, x)[1](ct), weak=False)


def test_same_array_twice_and_input_as_output():
    x = X()
    assert_same(funcgrad.grad(product, (0, 1))(x, x), jax.grad(product, (0, 1))(x, x))
    for module in (funcgrad, jax):
        (a, b), pullback = module.vjp(lambda x: (x, x), x)
        assert a is b
        assert_same(pullback((x, 2 * x)), (3 * x,))


# --- vjp

OUTPUTS = [
    ("several", lambda x, y: (x * y, jnp.sin(x)), lambda: (X(), Y())),
    ("tree", lambda t: {"a": t["x"] ** 2, "b": (t["y"], None)}, lambda: ({"x": X(), "y": 2.0},)),
    ("integers", lambda x: (x * 2, jnp.arange(3), x > 0.2), lambda: (X(),)),
    ("integer input", lambda x, n: x * n, lambda: (X(), jnp.arange(3))),
    ("only integers", lambda x: jnp.argmax(x), lambda: (X(),)),
    ("input", lambda x, y: (y, x), lambda: (X(), 2.0)),
    ("independent", lambda x: (jnp.ones(2), 3.0), lambda: (X(),)),
    ("no output", lambda x: (), lambda: (X(),)),
    ("no input", lambda: jnp.ones(2), lambda: ()),
    ("complex", lambda z: (z * z, jnp.abs(z), jnp.conj(z)), lambda: (jnp.asarray(COMPLEX),)),
    ("mixed", lambda x: (x.astype(jnp.bfloat16), x.astype(complex)), lambda: (X(),)),
    ("dataclass", lambda p: Layer(p.b, p.w, p.name), lambda: (layer(),)),
    ("unused output", lambda x: lax.split(x, (1, 2))[1], lambda: (X(),)),
]


def cotangent_for(out: Any) -> Any:
    def like(y: Any) -> Any:
        aval = jax.typeof(y).to_tangent_aval()
        if aval.dtype == FLOAT0:
            return np.zeros(aval.shape, FLOAT0)
        size = int(np.prod(aval.shape))
        return (jnp.arange(size).reshape(aval.shape) + 0.5).astype(aval.dtype)

    return jax.tree.map(like, out)


@pytest.mark.parametrize(("fun", "args"), [o[1:] for o in OUTPUTS], ids=[o[0] for o in OUTPUTS])
def test_vjp(fun, args, x64):
    out, pullback = funcgrad.vjp(fun, *args())
    expected, reference = jax.vjp(fun, *args())
    assert_same(out, expected)
    ct = cotangent_for(out)
    assert_same(pullback(ct), reference(ct))
    assert_same(pullback(ct), reference(ct))
    if not any(jax.typeof(c).dtype == FLOAT0 for c in jax.tree.leaves(ct)):
        many = jax.tree.map(lambda c: jnp.stack([c, 2 * c, 0 * c]), ct)
        if jax.tree.leaves(many):
            assert_same(jax.vmap(pullback)(many), jax.vmap(reference)(many), weak=False)
        returned = jax.jit(lambda *a: funcgrad.vjp(fun, *a)[1])(*args())
        assert_same(returned(ct), reference(ct), weak=False)
        assert_same(jax.jit(lambda p, ct: p(ct))(returned, ct), reference(ct), weak=False)


def test_vjp_has_aux():
    ours, theirs = (m.vjp(with_aux, X(), has_aux=True) for m in (funcgrad, jax))
    assert_same((ours[0], ours[2]), (theirs[0], theirs[2]))
    assert_same(ours[1](2.0), theirs[1](2.0))


def mlp(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["w"]) @ params["v"]


@pytest.fixture
def params() -> Any:
    return {"w": arange(3, 2)(), "v": arange(2)()}


def test_pullback_is_a_pytree(params):
    """Residuals are its leaves: out of jit, through tree.map, into another jit and through scan."""
    x, ct = arange(4, 3)(), arange(4)()
    expected = jax.vjp(mlp, params, x)[1](ct)
    _, pullback = jax.jit(lambda *a: funcgrad.vjp(mlp, *a))(params, x)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(pullback))
    assert_same(pullback(ct), expected, rtol=1e-6)
    stored = jax.tree.map(lambda leaf: leaf + 0, pullback)
    assert_same(stored(ct), expected, rtol=1e-6)
    apply = jax.jit(lambda pullback, ct: pullback(ct))
    assert_same(apply(pullback, ct), expected, rtol=1e-6)
    scaled = lax.scan(lambda c, s: (c, pullback(s * c)), ct, jnp.asarray([1.0, 2.0]))[1]
    assert_same(jax.tree.map(lambda a: a[0], scaled), expected, rtol=1e-6)


def test_pullback_made_twice_shares_compilation(params):
    """Two steps of one jitted function give pullbacks that a second jit need not trace again."""
    traced = []

    @jax.jit
    def apply(pullback: Any, ct: Any) -> Any:
        traced.append(1)
        return pullback(ct)

    make = jax.jit(lambda *a: funcgrad.vjp(mlp, *a)[1])
    for scale in (1.0, 2.0):
        x = scale * arange(4, 3)()
        assert_same(apply(make(params, x), x[:, 0]), jax.vjp(mlp, params, x)[1](x[:, 0]), rtol=1e-6)
    assert len(traced) == 1


def test_vmap_over_vjp_batches_its_pullback():
    xs, cts = arange(4, 3)(), arange(4, 3)()
    pullbacks = jax.vmap(lambda x: funcgrad.vjp(jnp.sin, x)[1])(xs)
    assert_same(jax.vmap(lambda p, ct: p(ct))(pullbacks, cts), (cts * jnp.cos(xs),), rtol=1e-6)


def test_pullback_can_be_differentiated():
    def through(vjp: Any) -> Any:
        return lambda x, ct: jnp.sum(vjp(lambda x: x**3 * jnp.sin(x), x)[1](ct)[0] ** 2)

    for outer in (funcgrad.grad, jax.grad):
        ours = outer(through(funcgrad.vjp), (0, 1))(X(), Y())
        assert_same(ours, jax.grad(through(jax.vjp), (0, 1))(X(), Y()), rtol=1e-5)
