"""A vmapped loop, some of whose examples have ended: the gradient is that of each loop by itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax._src.dispatch import apply_primitive
from jax._src.effects import Effect, control_flow_allowed_effects
from jax.experimental import sparse
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, reshard
from jax.sharding import PartitionSpec as P

import funcgrad
from funcgrad import errors
from tests.calls import hijax_examples
from tests.compare import assert_same
from tests.meshes import mesh_of
from tests.programs import normal


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def roots(x, a=0.5):
    """Ends at or below `a`, where the body's slope is infinite or NaN."""
    return lax.while_loop(lambda c: c > a, lambda c: jnp.sqrt(c - a), x)


def roots_by_scan(x, a=0.5):
    """The same for jax.grad: a step that must not be taken is one of a harmless number."""

    def step(c, _):
        safe = jnp.where(c > a, c - a, 1.0)
        return jnp.where(c > a, jnp.sqrt(safe), c), None

    return lax.scan(step, x, None, 30)[0]


X = np.array([0.5, 1.3, 3.0, 0.2])
A = np.array([0.5, 0.4, 0.6, 0.3])
XX = np.array([[0.5, 1.3, 3.0], [2.0, 0.1, 0.5]])


def each_by_itself(fun, axes, *args):
    """The gradient of the sum over examples, by the gradients of each."""
    argnums = tuple(range(len(args)))
    each = jax.vmap(funcgrad.grad(fun, argnums), axes)(*args)
    pairs = zip(each, axes, strict=True)
    return tuple(ct if axis is not None else jnp.sum(ct, 0) for ct, axis in pairs)


def of_all(fun, axes, *args):
    return funcgrad.grad(lambda *xs: jnp.sum(jax.vmap(fun, axes)(*xs)), tuple(range(len(args))))(
        *args
    )


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_an_example_that_has_ended_is_not_touched(wrap):
    ours = funcgrad.grad(lambda x: jnp.sum(wrap(jax.vmap(roots))(x)))(X)
    assert_same(ours, jax.grad(lambda x: jnp.sum(jax.vmap(roots_by_scan)(x)))(X))


@pytest.mark.parametrize("axes", [(0, 0), (0, None)], ids=["each has a bound", "one bound"])
def test_constants_of_the_loop(axes):
    args = X, A if axes[1] == 0 else jnp.asarray(0.5)
    theirs = jax.grad(lambda *xs: jnp.sum(jax.vmap(roots_by_scan, axes)(*xs)), (0, 1))(*args)
    assert_same(of_all(roots, axes, *args), theirs)
    assert_same(each_by_itself(roots, axes, *args), theirs, weak=False)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [((0, None), (0, None)), ((0, None), (0, 0)), ((0, 0), (0, None)), ((0, 0), (0, 0))],
    ids=["shared", "outer", "inner", "both"],
)
def test_vmap_of_vmap(inner, outer):
    shape = XX.shape[outer[1] is None : 1 + (inner[1] is not None)]
    a = jnp.linspace(0.3, 0.6, int(np.prod(shape))).reshape(shape)

    def total(loop):
        return lambda x, a: jnp.sum(jax.vmap(jax.vmap(loop, inner), outer)(x, a))

    ours, theirs = funcgrad.grad(total(roots), (0, 1)), jax.grad(total(roots_by_scan), (0, 1))
    assert_same(ours(XX, a), theirs(XX, a))


def test_numbers_of_steps():
    def steps(x, w, n):
        grow = lambda i, c: jnp.tanh(w @ c) + jnp.sqrt(n - i - 1.0) * c
        return jnp.sum(lax.fori_loop(0, n, grow, x))

    xs, w, n = normal(4, 3), normal(3, 3, seed=1) * 0.5, jnp.array([0, 2, 5, 1])
    total = lambda x, w: jnp.sum(jax.vmap(steps, (0, None, 0))(x, w, n))
    one_by_one = lambda x, w: sum(steps(x[i], w, int(n[i])) for i in range(4))
    # at its last step the root has an infinite slope by n alone, which is an integer
    assert_same(funcgrad.grad(total, (0, 1))(xs, w), jax.grad(one_by_one, (0, 1))(xs, w))


def test_several_carries_in_a_scan():
    def step(total, x):
        c, s, _ = lax.while_loop(
            lambda c: c[0] > 0.5, lambda c: (jnp.sqrt(c[0] - 0.5), c[1] * c[0], c[2] + 1), (x, x, 0)
        )
        return total + c * s, None

    def scanned(x):
        return lax.scan(step, 0.0, jnp.stack([x, x + 0.7, x * 2]))[0]

    assert_same(of_all(scanned, (0,), X), each_by_itself(scanned, (0,), X))


def test_a_loop_in_a_loop():
    def outer(x):
        inner = lambda c: roots(c[0] + 1.0) + 0.0 * c[0]
        return lax.while_loop(lambda c: c[1] < x, lambda c: (inner(c), c[1] + 1.0), (x, 0.0))[0]

    assert_same(of_all(outer, (0,), X), each_by_itself(outer, (0,), X))


def test_a_solve_in_the_body():
    def root(m, v):
        halve = lambda v: jnp.sqrt(jnp.linalg.solve(m, v)) + 0.0 * v
        return jnp.sum(lax.while_loop(lambda v: jnp.min(v) > 0.3, halve, v))

    ms = 5 * jnp.eye(2) + 0.1 * normal(3, 2, 2)
    vs = jnp.array([[0.0, 2.0], [4.0, 5.0], [1.0, 0.9]])
    assert_same(of_all(root, (0, 0), ms, vs), each_by_itself(root, (0, 0), ms, vs))


def test_second_order():
    total = lambda x: jnp.sum(jax.vmap(roots)(x) ** 2)
    by_scan = lambda x: jnp.sum(jax.vmap(roots_by_scan)(x) ** 2)
    twice = funcgrad.grad(lambda x: jnp.sum(funcgrad.grad(total)(x) ** 2))
    assert_same(twice(X), jax.grad(lambda x: jnp.sum(jax.grad(by_scan)(x) ** 2))(X))


def test_gradient_of_the_gradient_of_each():
    total = lambda x: jnp.sum(jax.vmap(funcgrad.grad(roots))(x) ** 2)
    by_scan = lambda x: jnp.sum(jax.vmap(jax.grad(roots_by_scan))(x) ** 2)
    assert_same(jax.jit(funcgrad.grad(total))(X), jax.grad(by_scan)(X))


def walk(x, key):
    """Random steps down, of which each example takes another number."""

    def step(carry):
        c, key = carry
        key, now = jax.random.split(key)
        return jnp.sqrt(c - 0.5) * jax.random.uniform(now, (), x.dtype, 0.9, 1.1), key

    return lax.while_loop(lambda carry: carry[0] > 0.5, step, (x, key))[0]


def test_random_keys_in_the_carry():
    keys = jax.random.split(jax.random.key(0), 4)
    total = lambda x: jnp.sum(jax.vmap(walk)(x, keys))
    assert_same(funcgrad.grad(total)(X), jax.vmap(funcgrad.grad(walk))(X, keys))


def test_a_collective_counts_examples_that_have_ended():
    def fill(x):
        return lax.while_loop(lambda c: c < 5.0, lambda c: c + 0.1 * lax.psum(c**2, "i"), x)

    total = lambda x: jnp.sum(jax.vmap(fill, axis_name="i")(x))
    x = jnp.array([0.5, 1.3, 3.0])
    slopes = [(total(x + d) - total(x - d)) / 2e-6 for d in 1e-6 * jnp.eye(3)]
    assert_same(funcgrad.grad(total)(x), jnp.stack(slopes), rtol=1e-7)


def test_constants_of_either_vmap_alone_take_no_rows_that_no_example_has():
    loop = lambda x, a, b: lax.while_loop(lambda c: c > a * b, lambda c: c / (1 + a + b), x)
    each = jax.vmap(jax.vmap(loop, (0, None, 0)), (0, 0, None))
    args = XX, jnp.array([0.5, 0.9]), jnp.array([0.5, 0.1, 0.7])
    ours = funcgrad.grad(lambda *xs: jnp.sum(each(*xs)), (0, 1, 2))(*args)
    one_by_one = jax.vmap(jax.vmap(funcgrad.grad(loop, (0, 1, 2)), (0, None, 0)), (0, 0, None))
    of_x, of_a, of_b = one_by_one(*args)
    assert_same(ours, (of_x, jnp.sum(of_a, 1), jnp.sum(of_b, 0)))


A_OUTER, B_INNER = np.array([1.5, 2.0]), np.array([0.5, 0.3, 0.2])


def by_each_pair(loop, *args):
    """The gradients of the sum over pairs of a constant of each vmap, and those of one pair by one."""
    each = jax.vmap(jax.vmap(loop, (0, None, 0)), (0, 0, None))
    ours = jax.jit(funcgrad.grad(lambda *xs: jnp.sum(each(*xs)), (0, 1, 2)))(*args)
    grads = jax.vmap(jax.vmap(funcgrad.grad(loop, (0, 1, 2)), (0, None, 0)), (0, 0, None))
    of_x, of_a, of_b = grads(*args)
    return ours, (of_x, jnp.sum(of_a, 1), jnp.sum(of_b, 0))


def test_an_example_keeps_its_own_values_beside_constants_of_either_vmap_alone():
    """(0, 0) and (1, 0) and (1, 1) never begin, and others end at once or after some steps."""

    def loop(x, a, b):
        return lax.while_loop(lambda c: c > a * b, lambda c: jnp.sqrt(c - a * b), x)

    ours, one_by_one = by_each_pair(loop, XX, A_OUTER, B_INNER)
    assert all(jnp.all(jnp.isfinite(ct)) for ct in one_by_one)
    assert_same(ours, one_by_one)


def test_effects_beside_constants_of_either_vmap_alone():
    seen = []

    def loop(x, a, b):
        def body(c):
            jax.debug.callback(lambda x: seen.append(round(float(x), 5)), c)
            return jnp.sqrt(c - a * b)

        return lax.while_loop(lambda c: c > a * b, body, x)

    jax.block_until_ready(
        jax.vmap(jax.vmap(loop, (0, None, 0)), (0, 0, None))(XX, A_OUTER, B_INNER)
    )
    jax.effects_barrier()
    expected, seen[:] = sorted(seen), []
    each = jax.vmap(jax.vmap(loop, (0, None, 0)), (0, 0, None))
    funcgrad.grad(lambda x: jnp.sum(each(x, A_OUTER, B_INNER)))(XX)
    jax.effects_barrier()
    assert sorted(seen) == expected


def test_a_collective_that_nobody_reads_mixes_nothing():
    def body(c):
        lax.psum(c, "i")
        return jnp.sqrt(c - 0.5)

    loop = jax.vmap(lambda x: lax.while_loop(lambda c: c > 0.5, body, x), axis_name="i")
    theirs = jax.grad(lambda x: jnp.sum(jax.vmap(roots_by_scan)(x)))(X)
    assert_same(funcgrad.grad(lambda x: jnp.sum(loop(x)))(X), theirs)


def test_a_reference_that_no_gradient_follows_is_an_error():
    """JAX does not store what an example that has ended would store."""

    def total(x):
        ref = jax.new_ref(jnp.zeros(4), kind="no_grad_no_remat")

        def loop(x, ref):
            def body(c):
                ref[...] += 1.0
                return jnp.sqrt(c - 0.5)

            return lax.while_loop(lambda c: c > 0.5, body, x)

        return jnp.sum(jax.vmap(loop)(x, ref)), ref[...]

    np.testing.assert_array_equal(total(X)[1], [0.0, 3.0, 4.0, 0.0])
    with pytest.raises(errors.MutableReferenceError, match=r"test_examples\.py.*end one by one"):
        funcgrad.grad(total, has_aux=True)(X)


def test_no_example_goes_on():
    assert_same(of_all(roots, (0,), 0.5 * jnp.ones(3)), (jnp.ones(3),))


@pytest.mark.parametrize("layout", [P(None), P("a"), P(None, reduced={"a"})], ids=str)
def test_a_constant_on_a_mesh_is_no_reason_to_touch_an_example_that_has_ended(layout):
    """Only the values of examples are replaced, so that the types of others do not matter."""

    def scaled_roots(x, w):
        scale = lambda w: jnp.sum(reshard(w, P(None)))
        return lax.while_loop(lambda c: c > 0.5, lambda c: jnp.sqrt(c - 0.5) * scale(w), x)

    def loss(x, w):
        return jnp.sum(jax.vmap(scaled_roots, (0, None))(x, w))

    def by_scan(x, w):
        def step(c, _):
            root = jnp.sqrt(jnp.where(c > 0.5, c - 0.5, 1.0)) * jnp.sum(w)
            return jnp.where(c > 0.5, root, c), None

        return lax.scan(step, x, None, 30)[0]

    w = np.full(4, 0.25)
    expected = jax.grad(lambda x, w: jnp.sum(jax.vmap(by_scan, (0, None))(x, w)), (0, 1))(X, w)
    with jax.set_mesh(mesh_of(AxisType.Explicit, a=2, b=2)):
        found = funcgrad.grad(loss, (0, 1))(jnp.asarray(X), reshard(jnp.asarray(w), layout))
        found = [np.asarray(reshard(ct, P(None))) for ct in found]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


# --- bodies of many kinds, against the unrolled loop of each example


def matrix(c):
    """A positive definite matrix that is singular where the loop has ended."""
    a, b = c
    return jnp.array([[a, 0.1 * a * b], [0.1 * a * b, b]])


def pool(c, fun, init):
    return lax.reduce_window(c, init, fun, (2,), (1,), "SAME")


def nearly(c, how):
    """0.9 by a callback."""
    found = jax.ShapeDtypeStruct((), c.dtype)
    return jax.pure_callback(
        lambda x: 0.9 + 0 * np.asarray(x), found, lax.stop_gradient(c[0]), vmap_method=how
    )


SPARSE = sparse.BCOO.fromdense(jnp.array([[0.9, 0.1], [0.0, 1.0]]))
BODIES = {
    "largest of a window": lambda c: pool(jnp.sqrt(c), lax.max, -jnp.inf),
    "sum of a window": lambda c: 0.6 * pool(jnp.sqrt(c), lax.add, 0.0),
    "product": lambda c: 0.6 * lax.reduce(jnp.sqrt(c), 1.0, lambda a, b: a * b, (0,)) + 0 * c,
    "cholesky": lambda c: jnp.linalg.cholesky(matrix(c)) @ jnp.ones(2),
    "triangular": lambda c: 0.7 * jax.scipy.linalg.solve_triangular(matrix(c), c**0.5, lower=True),
    "inverse": lambda c: 0.3 * jnp.linalg.inv(matrix(c)) @ c + 0.2 * c,
    "eigh": lambda c: jnp.sqrt(jnp.linalg.eigvalsh(matrix(c))),
    "qr": lambda c: jnp.sqrt(jnp.abs(jnp.diag(jnp.linalg.qr(matrix(c))[1]))),
    "tridiagonal": lambda c: (
        0.7 * lax.linalg.tridiagonal_solve(c, c, c / 9, c[:, None] ** 0.5)[:, 0]
    ),
    "top k": lambda c: lax.approx_max_k(jnp.sqrt(c), 2)[0],
    "norm": lambda c: 0.7 * jnp.linalg.norm(c) + 0.1 * c,
    "logsumexp": lambda c: 0.7 * jax.nn.logsumexp(jnp.log(c)) + 0.1 + 0 * c,
    "scatter": lambda c: jnp.sqrt(c).at[jnp.argmax(c)].multiply(0.7),
    "convolution": lambda c: 0.5 * jnp.convolve(jnp.sqrt(c), c, "same") + 0.2 * c,
    "switch": lambda c: lax.cond(c[0] > 1, jnp.sqrt, lambda c: 0.8 * jnp.sqrt(c), c),
    "callback": lambda c: jnp.sqrt(c) * nearly(c, "expand_dims"),
    "callback one by one": lambda c: jnp.sqrt(c) * nearly(c, "sequential"),
}


def sparse_root(c):
    """The roots of the elements on a sparse diagonal."""
    return sparse.BCOO((jnp.sqrt(c), jnp.array([[0, 0], [1, 1]])), shape=(2, 2))


def scaled_in_place(c):
    """A reference of the body's own."""
    ref = jax.new_ref(jnp.sqrt(c))
    ref[...] = 0.9 * ref[...]
    return ref[...]


BODIES |= {
    "sparse matrix": lambda c: SPARSE @ jnp.sqrt(c),
    "sparse product": lambda c: sparse_root(c) @ jnp.array([0.9, 1.0]),
    "sparse sum": lambda c: 0.9 * sparse_root(c).T.todense().sum(1),
    "sparse from dense": lambda c: 0.9 * jnp.sqrt(sparse.BCOO.fromdense(jnp.diag(c), nse=2).data),
    "reference": scaled_in_place,
}
HALVES = np.array([0.25, 0.75])
PAIRS = np.array([[0.5, 0.5], [1.3, 2.0], [3.0, 2.5], [0.5, 0.9]])


def until_small(body):
    """A loop that ends where an element is at or below 1/2, where the body is given 0."""
    return lambda x: lax.while_loop(lambda c: jnp.min(c) > 0.5, lambda c: body(c - 0.5), x)


def unrolled_gradient(body, x):
    """The gradient of the sum of what `until_small` finds, by jax.grad of its steps."""

    def steps(x, count):
        for _ in range(count):
            x = body(x - 0.5)
        return jnp.sum(x)

    count, now = 0, x
    while jnp.min(now) > 0.5:
        count, now = count + 1, body(now - 0.5)
    return jax.grad(steps)(x, count)


def vmapped_twice(loop):
    return lambda xs: jax.vmap(jax.vmap(loop, out_axes=-1))(xs.reshape(2, 2, 2))


def vmapped_over_columns(loop):
    return lambda xs: jax.vmap(loop, 1)(xs.T)


def vmapped_in_scan(loop):
    return lambda xs: lax.scan(lambda t, s: (t + s * jax.vmap(loop)(xs), None), 0 * xs, HALVES)[0]


@pytest.mark.parametrize("name", BODIES)
def test_body(name):
    expected = jnp.stack([unrolled_gradient(BODIES[name], x) for x in jnp.asarray(PAIRS)])
    assert jnp.all(jnp.isfinite(expected))
    ours = funcgrad.grad(lambda xs: jnp.sum(jax.vmap(until_small(BODIES[name]))(xs)))
    assert_same(ours(PAIRS), expected, rtol=1e-9, weak=False)


@pytest.mark.parametrize("wrap", [vmapped_twice, vmapped_over_columns, vmapped_in_scan])
@pytest.mark.parametrize("name", ["largest of a window", "inverse", "scatter", "switch"])
def test_body_in(wrap, name):
    expected = jnp.stack([unrolled_gradient(BODIES[name], x) for x in jnp.asarray(PAIRS)])
    ours = funcgrad.grad(lambda xs: jnp.sum(wrap(until_small(BODIES[name]))(xs)))
    assert_same(ours(PAIRS), expected, rtol=1e-9, weak=False)


# --- primitives that only their packages know


def root_primitive(read):
    """A square root with the derivative that it told JAX; `read` is where JAX finds its function."""
    root = Primitive("root")
    root.def_abstract_eval(lambda x: x)
    root.def_impl(jnp.sqrt if read == "impl" else functools.partial(apply_primitive, root))
    lower = mlir.lower_fun(jnp.sqrt, multiple_results=False)
    lowerings = {
        "lowered": lower,
        "impl": lambda *args: lower(*args),
        "nowhere": lambda *a: lower(*a),
    }
    mlir.register_lowering(root, lowerings[read])
    ad.defjvp(root, lambda t, x: t / (2 * jnp.sqrt(x)))
    batching.primitive_batchers[root] = lambda args, dims: (root.bind(*args), dims[0])
    return root.bind


class Root(hijax_examples.Unary):
    def expand(self, x):
        return jnp.sqrt(x)


class RootByVjp(Root):
    def vjp_fwd(self, nonzero, x):
        return self(x), x

    def vjp_bwd_retval(self, x, ct):
        return (ct / (2 * jnp.sqrt(x)),)


class RootByJvp(Root):
    def jvp(self, primals, tangents):
        return self(*primals), tangents[0] / (2 * jnp.sqrt(primals[0]))


class RootByLin(Root):
    def lin(self, nonzero, x):
        return self(x), 1 / (2 * jnp.sqrt(x))

    def linearized(self, slope, t):
        return slope * t


ROOTS = {
    "with an implementation": lambda: root_primitive("impl"),
    "with a lowering": lambda: root_primitive("lowered"),
    "hijax by vjp": lambda: hijax_examples.apply(RootByVjp),
    "hijax by jvp": lambda: hijax_examples.apply(RootByJvp),
    "hijax by lin": lambda: hijax_examples.apply(RootByLin),
}


@pytest.mark.parametrize("name", ROOTS)
def test_primitive_of_another_package(name):
    root = ROOTS[name]()
    expected = jnp.stack(
        [unrolled_gradient(lambda c: 0.9 * jnp.sqrt(c), x) for x in jnp.asarray(PAIRS)]
    )
    loop = until_small(lambda c: 0.9 * root(c))
    ours = funcgrad.grad(lambda xs: jnp.sum(jax.vmap(loop)(xs)))(PAIRS)
    assert_same(ours, expected, rtol=1e-9, weak=False)


def test_a_primitive_that_cannot_be_read_is_an_error():
    root = root_primitive("nowhere")
    loop = until_small(lambda c: 0.9 * root(c))
    with pytest.raises(errors.UnknownExamplesError, match=r"op `root`.*test_examples\.py") as found:
        funcgrad.grad(lambda xs: jnp.sum(jax.vmap(loop)(xs)))(PAIRS)
    assert str(found.value).count("test_examples.py") == 2
    advised = jax.vmap(funcgrad.grad(lambda x: jnp.sum(loop(x))))(PAIRS)
    one_by_one = [unrolled_gradient(lambda c: 0.9 * jnp.sqrt(c), x) for x in jnp.asarray(PAIRS)]
    assert_same(advised, jnp.stack(one_by_one), rtol=1e-9, weak=False)


# --- random keys of which JAX draws for all examples by the first


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
@pytest.mark.parametrize("raw", [False, True], ids=["keys", "numbers"])
def test_random_keys_that_mix_the_examples(impl, raw):
    """The first example ends at once. Its key, which stays the same, draws for the others."""

    def walk(x, key):
        def step(carry):
            c, key = carry
            key, now = jax.random.split(jax.random.wrap_key_data(key, impl=impl) if raw else key)
            key = jax.random.key_data(key) if raw else key
            return jnp.sqrt(c - 0.5) * jax.random.uniform(now, (), x.dtype, 0.9, 1.1), key

        return lax.while_loop(lambda carry: carry[0] > 0.5, step, (x, key))[0]

    keys = jax.random.split(jax.random.key(0, impl=impl), 4)
    keys = jax.random.key_data(keys) if raw else keys
    total = jax.jit(lambda x: jnp.sum(jax.vmap(walk)(x, keys)))
    value, ours = funcgrad.value_and_grad(total)(X)
    assert_same(value, total(X))
    goes_on = X > 0.5
    slopes = [(total(X + d) - total(X - d)) / 2e-6 for d in 1e-6 * np.eye(4)]
    np.testing.assert_allclose(ours[goes_on], np.array(slopes)[goes_on], rtol=1e-6)
    np.testing.assert_array_equal(ours[~goes_on], 1.0)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_integers_beside_random_keys_that_mix_the_examples(impl):
    """Of an example that does not begin the slope is finite only with all of another's numbers."""

    def walk(x, n, key, w):
        def step(carry):
            c, n, key = carry
            key, now = jax.random.split(key)
            scale = w * jax.random.uniform(now, (), x.dtype, 0.9, 1.1)
            return jnp.sqrt(c - 0.5 * n) * scale, n, key

        return lax.while_loop(lambda carry: carry[0] > 0.5 * carry[1], step, (x, n, key))[0]

    keys = jax.random.split(jax.random.key(0, impl=impl), 4)
    each = jax.vmap(walk, (0, 0, 0, None))
    total = jax.jit(lambda w: jnp.sum(each(X, np.array([9, 1, 1, 8]), keys, w)))
    slope = (total(1.0 + 1e-6) - total(1.0 - 1e-6)) / 2e-6
    np.testing.assert_allclose(funcgrad.grad(total)(1.0), slope, rtol=1e-6)


# --- effects in the body


class Counts(Effect):
    """An effect that only its package knows; JAX allows it in loops."""


def test_an_effect_whose_result_is_used_is_an_error():
    count = Primitive("count")
    control_flow_allowed_effects.add_type(Counts)
    count.def_effectful_abstract_eval(lambda x: (x, {Counts()}))
    batching.primitive_batchers[count] = lambda args, dims: (count.bind(*args), dims[0])
    loop = lambda x: lax.while_loop(lambda c: c > 0.5, lambda c: jnp.sqrt(count.bind(c)) - 0.5, x)
    gradient = funcgrad.grad(lambda x: jnp.sum(jax.vmap(loop)(x)))
    with pytest.raises(errors.UnknownExamplesError, match=r"op `count`.*has an effect"):
        jax.eval_shape(gradient, X)


def with_jvp(fun):
    """The function with a jvp of its own, in which it runs too."""
    own = jax.custom_jvp(fun)
    own.defjvp(lambda primals, tangents: (fun(*primals), tangents[0]))
    return own


def with_vjp(fun):
    own = jax.custom_vjp(fun)
    own.defvjp(lambda x: (fun(x), None), lambda _, ct: (ct,))
    return own


def seen_in(where):
    """A body that shows its carry, and what it has shown."""
    seen = []

    def show(c):
        jax.debug.callback(lambda x: seen.append(round(float(x), 5)), c)
        return c * 1.0

    shown = {
        "plain": show,
        "jit": jax.jit(show),
        "cond": lambda c: lax.cond(c > 1.0, show, lambda c: c, c),
        "scan": lambda c: lax.scan(lambda c, _: (show(c), None), c, None, 2)[0],
        "while": lambda c: lax.while_loop(
            lambda s: s[1] < 2, lambda s: (show(s[0]), s[1] + 1), (c, 0)
        )[0],
        "custom_jvp": with_jvp(show),
        "custom_vjp": with_vjp(show),
        "solve": lambda c: lax.custom_linear_solve(
            lambda x: x, c, lambda _, b: show(b), symmetric=True
        ),
        "test": lambda c: c,
    }[where]
    test = (lambda c: show(c) > 0.5) if where == "test" else (lambda c: c > 0.5)
    return seen, lambda x: lax.while_loop(test, lambda c: jnp.sqrt(shown(c) - 0.5), x)


SEEN_IN = [
    *("plain", "jit", "cond", "scan", "while", "custom_jvp", "custom_vjp", "solve", "test"),
]


@pytest.mark.parametrize("where", SEEN_IN)
def test_effects_are_of_the_examples_themselves(where):
    seen, loop = seen_in(where)
    jax.block_until_ready(jax.vmap(loop)(X))
    jax.effects_barrier()
    expected, seen[:] = sorted(seen), []
    ours = funcgrad.grad(lambda x: jnp.sum(jax.vmap(loop)(x)))(X)
    jax.effects_barrier()
    assert_same(ours, jax.grad(lambda x: jnp.sum(jax.vmap(roots_by_scan)(x)))(X))
    assert sorted(seen) == expected


# --- shardings that are part of types


@pytest.mark.parametrize("spec", [P("a", None), P(None, "b"), P("a", "b"), P(("a", "b"), None)])
def test_sharded_examples(spec):
    body = lambda c: 0.9 * jnp.sqrt(c)
    expected = jnp.stack([unrolled_gradient(body, x) for x in jnp.asarray(PAIRS)])
    with jax.set_mesh(mesh_of(AxisType.Explicit, a=2, b=2)):
        total = lambda xs: jnp.sum(jax.vmap(until_small(body))(xs))
        ours = jax.jit(funcgrad.grad(total))(reshard(jnp.asarray(PAIRS), spec))
        assert jax.typeof(ours).sharding.spec == spec
    assert_same(np.asarray(ours), expected, weak=False)


@pytest.mark.parametrize("spec", [P("a"), P(None)], ids=["sharded", "whole"])
def test_random_keys_on_a_mesh(spec):
    keys = jax.random.split(jax.random.key(0), 4)
    expected = jax.vmap(funcgrad.grad(walk))(X, keys)
    with jax.set_mesh(mesh_of(AxisType.Explicit, a=2)):
        x, keys = reshard(jnp.asarray(X), spec), reshard(keys, spec)
        ours = jax.jit(funcgrad.grad(lambda x: jnp.sum(jax.vmap(walk)(x, keys))))(x)
    assert_same(np.asarray(ours), expected, weak=False)


def test_sharded_vmap_of_vmap():
    w = np.array([1.1, 1.2])
    loop = lambda x, w: lax.while_loop(lambda c: c > 0.5, lambda c: w * jnp.sqrt(c - 0.5), x)
    expected = np.stack(
        [
            [unrolled_gradient(lambda c, w=w: w * jnp.sqrt(c), jnp.float64(x)) for x in xs]
            for xs, w in zip(XX, w, strict=True)
        ]
    )
    with jax.set_mesh(mesh_of(AxisType.Explicit, a=2)):
        each = jax.vmap(jax.vmap(loop, (0, None)))
        x, w = reshard(jnp.asarray(XX), P("a", None)), reshard(jnp.asarray(w), P("a"))
        ours = jax.jit(funcgrad.grad(lambda x: jnp.sum(each(x, w))))(x)
    assert_same(np.asarray(ours), expected, weak=False)
