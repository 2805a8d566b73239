"""Sparse arrays of jax.experimental: every primitive, and ``sparse.grad`` by us."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse as jsparse
from jax.experimental.sparse import BCOO, BCSR, COO, CSR

import funcgrad
from funcgrad import errors
from funcgrad._jax import sparse
from tests.rules.cases import Case, assert_close, complex_normal, normal
from tests.rules.test_indexing import ints


def scattered(*shape: int, seed: int = 0, dense: int = 0) -> np.ndarray:
    """Normal numbers of which some are zero, whole blocks where `dense` axes are stored as such."""
    kept = np.random.default_rng(seed + 9).random(shape[: len(shape) - dense]) < 0.5
    return normal(*shape, seed=seed) * kept.reshape(*kept.shape, *(1,) * dense)


def bcoo(x: np.ndarray, batch: int = 0, dense: int = 0, extra: int = 0) -> tuple[Any, Any, Any]:
    """Data and indices of a BCOO array with `extra` places left over, and its shape."""
    full = BCOO.fromdense(x, n_batch=batch, n_dense=dense)
    mat = BCOO.fromdense(x, n_batch=batch, n_dense=dense, nse=full.nse + extra)
    data = np.asarray(mat.data) + 0.1 * normal(*mat.data.shape, seed=5)
    return data, np.asarray(mat.indices), x.shape


def bcoo_function(fn: Any, shape: Any) -> Any:
    return lambda data, indices, *rest: fn(BCOO((data, indices), shape=shape), *rest)


def bcoo_case(op: Any, fn: Any, parts: Any, *rest: Any, name: str, **settings: Any) -> Case:
    data, indices, shape = parts
    return Case(op, bcoo_function(fn, shape), (data, indices, *rest), name, **settings)


def dot(dims: Any, **how: Any) -> Any:
    return lambda mat, y: jsparse.bcoo_dot_general(mat, y, dimension_numbers=dims, **how)


def sampled(dims: Any) -> Any:
    return lambda x, y, i: jsparse.bcoo_dot_general_sampled(x, y, i, dimension_numbers=dims)


def data_of(mat: Any) -> Any:
    return mat.data


def sort_indices(mat: Any) -> Any:
    return jsparse.bcoo_sort_indices(mat).data


def sum_duplicates(nse: int) -> Any:
    return lambda mat: jsparse.bcoo_sum_duplicates(mat, nse=nse).data


def transposed(*permutation: int) -> Any:
    return lambda mat: jsparse.bcoo_transpose(mat, permutation=permutation).data


MATRIX = scattered(4, 3)
PARTS = bcoo(MATRIX)
PADDED = bcoo(MATRIX, extra=2)
BATCHED = bcoo(scattered(2, 4, 3, seed=1), batch=1)
DENSE = bcoo(scattered(4, 3, 2, seed=2, dense=1), dense=1)
COMPLEX = (complex_normal(*PARTS[0].shape), *PARTS[1:])
REPEATED = (normal(5), ints([2, 1], [0, 0], [2, 1], [3, 2], [0, 0]), (4, 3))
ONE_DATA = (normal(1, 3), ints([[0], [2], [1]], [[1], [1], [0]]), (2, 3))
ONE_INDICES = (normal(2, 3), ints([[0], [2], [1]]), (2, 3))
NO_SPARSE = (normal(2, 3), np.zeros((2, 3, 0), np.int32), (2,))

TODENSE = [
    bcoo_case(sparse.bcoo_todense_p, jsparse.bcoo_todense, parts, name=name)
    for name, parts in {
        "plain": PARTS,
        "padded": PADDED,
        "batched": BATCHED,
        "dense": DENSE,
        "complex": COMPLEX,
        "repeated": REPEATED,
        "one-indices": ONE_INDICES,
        "no-sparse-axis": NO_SPARSE,
    }.items()
]
DOTS = [
    bcoo_case(sparse.bcoo_dot_general_p, dot(dims, **how), parts, y, name=name)
    for name, parts, y, dims, how in (
        ("vector", PARTS, normal(3, seed=3), (([1], [0]), ([], [])), {}),
        ("vector-left", PARTS, normal(4, seed=3), (([0], [0]), ([], [])), {}),
        ("matrix", PARTS, normal(3, 2, seed=3), (([1], [0]), ([], [])), {}),
        ("matrix-transposed", PADDED, normal(2, 4, seed=3), (([0], [1]), ([], [])), {}),
        ("complex", COMPLEX, complex_normal(3, 2, seed=3), (([1], [0]), ([], [])), {}),
        ("both", PARTS, normal(3, 4, seed=3), (([0, 1], [1, 0]), ([], [])), {}),
        ("outer", PARTS, normal(2, seed=3), (([], []), ([], [])), {}),
        ("repeated", REPEATED, normal(3, seed=3), (([1], [0]), ([], [])), {}),
        ("batched", BATCHED, normal(2, 3, seed=3), (([2], [1]), ([0], [0])), {}),
        ("batch-kept", BATCHED, normal(3, 2, seed=3), (([2], [0]), ([], [])), {}),
        ("batch-summed", BATCHED, normal(2, 3, seed=3), (([0, 2], [0, 1]), ([], [])), {}),
    )
]  # fmt: skip
INDICES = ints([0, 1], [3, 2], [1, 0], [4, 3])

CASES = [
    *TODENSE,
    *DOTS,
    Case(
        sparse.bcoo_fromdense_p,
        lambda x: jsparse.bcoo_fromdense(x, nse=8).data,
        (MATRIX,),
        "padded",
        smooth=False,
    ),
    Case(
        sparse.bcoo_fromdense_p,
        lambda x: jsparse.bcoo_fromdense(x, nse=12, n_batch=1).data,
        (normal(2, 3, 4),),
        "batched",
    ),
    Case(
        sparse.bcoo_fromdense_p,
        lambda x: jsparse.bcoo_fromdense(x, nse=6, n_dense=1).data,
        (complex_normal(2, 3, 2),),
        "dense-complex",
    ),
    Case(
        sparse.bcoo_extract_p,
        lambda x: (
            jsparse.bcoo_extract(
                BCOO((jnp.ones(4), jnp.asarray(INDICES)), shape=(4, 3)), x, assume_unique=True
            ).data
        ),
        (normal(4, 3),),
        "outside",
        vmap=False,  # JAX cannot batch the array under indices without a batch axis
    ),
    bcoo_case(
        sparse.bcoo_extract_p,
        lambda mat, x: jsparse.bcoo_extract(mat, x, assume_unique=True).data,
        BATCHED,
        normal(2, 4, 3),
        name="batched",
        vmap=False,
    ),
    bcoo_case(sparse.bcoo_transpose_p, transposed(1, 0), PARTS, name="plain"),
    bcoo_case(sparse.bcoo_transpose_p, transposed(0, 2, 1), BATCHED, name="batched"),
    bcoo_case(
        sparse.bcoo_transpose_p,
        transposed(1, 0, 2, 4, 3),
        bcoo(scattered(2, 1, 3, 2, 4, dense=2), batch=2, dense=2),
        name="all-kinds",
    ),
    Case(
        sparse.bcoo_dot_general_sampled_p,
        sampled((([], []), ([], []))),
        (normal(4), normal(3), INDICES),
        "outer",
    ),
    Case(
        sparse.bcoo_dot_general_sampled_p,
        sampled((([1], [0]), ([], []))),
        (complex_normal(4, 2), complex_normal(2, 3), INDICES),
        "matrix-complex",
    ),
    Case(
        sparse.bcoo_dot_general_sampled_p,
        sampled((([2], [2]), ([0], [0]))),
        (normal(2, 4, 5), normal(2, 3, 5), np.stack([INDICES, INDICES[::-1]])),
        "batched",
    ),
    bcoo_case(sparse.bcoo_sort_indices_p, sort_indices, REPEATED, name="plain"),
    bcoo_case(
        sparse.bcoo_sort_indices_p,
        sort_indices,
        (BATCHED[0], BATCHED[1][:, ::-1], BATCHED[2]),
        name="batched",
    ),
    bcoo_case(sparse.bcoo_sort_indices_p, sort_indices, ONE_DATA, name="one-data"),
    bcoo_case(sparse.bcoo_sum_duplicates_p, sum_duplicates(4), REPEATED, name="filled-up"),
    bcoo_case(sparse.bcoo_sum_duplicates_p, sum_duplicates(2), REPEATED, name="cut-off"),
    bcoo_case(sparse.bcoo_sum_duplicates_p, sum_duplicates(3), ONE_DATA, name="one-data"),
    bcoo_case(sparse.bcoo_sum_duplicates_p, sum_duplicates(6), BATCHED, name="batched"),
]

# --- BCSR, COO, CSR -------------------------------------------------------------------------------

COLUMNS, POINTERS = ints(0, 2, 1, 0, 2), ints(0, 2, 2, 3, 5)  # of a (4, 3) matrix
ROW = ints(0, 0, 2, 3, 3)
BATCHED_COLUMNS, BATCHED_POINTERS = np.stack([COLUMNS, COLUMNS[::-1]]), np.stack([POINTERS] * 2)
SQUARE_COLUMNS, SQUARE_POINTERS = ints(0, 2, 1, 0, 2), ints(0, 2, 3, 5)


def bcsr_function(fn: Any, shape: Any) -> Any:
    return lambda data, i, p, *rest: fn(BCSR((data, i, p), shape=shape), *rest)


def csr_function(fn: Any) -> Any:
    return lambda data, i, p, *rest: fn(CSR((data, i, p), shape=(4, 3)), *rest)


def coo_function(fn: Any) -> Any:
    return lambda data, row, column, *rest: fn(COO((data, row, column), shape=(4, 3)), *rest)


def product(transpose: bool) -> Any:
    return lambda mat, y: (mat.T if transpose else mat) @ y


def bcsr_dot(dims: Any) -> Any:
    return lambda mat, y: jsparse.bcsr_dot_general(mat, y, dimension_numbers=dims)


CSR_PARTS, COO_PARTS = (normal(5), COLUMNS, POINTERS), (normal(5), ROW, COLUMNS)
BCSR_BATCHED = (normal(2, 5), BATCHED_COLUMNS, BATCHED_POINTERS)
FILLED_UP = (normal(7), ints(0, 2, 1, 0, 2, 0, 0), POINTERS)

CASES += [
    Case(sparse.bcsr_todense_p, bcsr_function(jsparse.bcsr_todense, (4, 3)), CSR_PARTS, "plain"),
    Case(sparse.bcsr_todense_p, bcsr_function(jsparse.bcsr_todense, (4, 3)), FILLED_UP, "filled"),
    Case(
        sparse.bcsr_todense_p, bcsr_function(jsparse.bcsr_todense, (2, 4, 3)), BCSR_BATCHED, "batch"
    ),
    Case(
        sparse.bcsr_fromdense_p,
        lambda x: BCSR.fromdense(x, nse=8).data,
        (MATRIX,),
        "padded",
        smooth=False,
    ),
    Case(
        sparse.bcsr_extract_p,
        lambda i, p, x: jsparse.bcsr_extract(i, p, x),
        (COLUMNS, POINTERS, normal(4, 3)),
        "plain",
        vmap=False,  # JAX cannot batch the array under indices without a batch axis
    ),
    Case(
        sparse.bcsr_dot_general_p,
        bcsr_function(bcsr_dot((([1], [0]), ([], []))), (4, 3)),
        (*CSR_PARTS, normal(3, 2)),
        "matrix",
    ),
    Case(
        sparse.bcsr_dot_general_p,
        bcsr_function(bcsr_dot((([2], [1]), ([0], [0]))), (2, 4, 3)),
        (*BCSR_BATCHED, normal(2, 3)),
        "batched",
    ),
    # JAX has no batching of the matrices of the older formats
    Case(sparse.coo_todense_p, coo_function(COO.todense), COO_PARTS, vmap=False),
    Case(sparse.csr_todense_p, csr_function(CSR.todense), CSR_PARTS, vmap=False),
    *(  # nor, before 0.12, a second derivative of products: of `M.T @ y` it gives `M @ y`'s
        Case(op, wrap(product(False)), args, name, vmap=False, order=1)
        for op, wrap, args, name in (
            (
                sparse.coo_matvec_p,
                coo_function,
                (*COO_PARTS, normal(3, seed=3)),
                "plain",
            ),
            (
                sparse.coo_matmat_p,
                coo_function,
                (complex_normal(5), ROW, COLUMNS, complex_normal(3, 2, seed=3)),
                "complex",
            ),
            (
                sparse.csr_matvec_p,
                csr_function,
                (*CSR_PARTS, normal(3, seed=3)),
                "plain",
            ),
            (
                sparse.csr_matmat_p,
                csr_function,
                (*CSR_PARTS, normal(3, 2, seed=3)),
                "plain",
            ),
        )
    ),
    Case(
        sparse.coo_fromdense_p, lambda x: COO.fromdense(x, nse=12).data, (normal(4, 3),), vmap=False
    ),
    Case(
        sparse.csr_fromdense_p, lambda x: CSR.fromdense(x, nse=12).data, (normal(4, 3),), vmap=False
    ),
    Case(
        sparse.spsolve_p,
        lambda data, i, p, b: sparse.spsolve(data, i, p, b),
        (2 + normal(5), SQUARE_COLUMNS, SQUARE_POINTERS, normal(3, seed=3)),
        "plain",
        vmap=False,  # JAX has none
        rtol=1e-9,
    ),
]

# --- against dense programs, where JAX has no derivative or another one ---------------------------


@pytest.fixture(autouse=True)
def x64() -> Any:
    with jax.enable_x64(True):
        yield


TESTED_APART = {sparse.bcoo_spdot_general_p, sparse.todense_p}


def spread(data: Any, row: Any, column: Any, shape: Any = (4, 3)) -> Any:
    """The dense matrix, by operations of jax.numpy."""
    return jnp.zeros(shape, data.dtype).at[row, column].add(data)


def assert_as_dense(by_sparse: Any, by_dense: Any, *args: Any, order: int = 2) -> None:
    """Gradients and Hessians of sums of sines are those of JAX through the dense program."""

    def loss(fn: Any) -> Any:
        return lambda *args: jnp.sum(jnp.sin(fn(*args)))

    argnums = tuple(range(len(args)))
    ours, theirs = (funcgrad.grad, funcgrad.hessian), (jax.grad, jax.hessian)
    for our, their in list(zip(ours, theirs, strict=True))[:order]:
        expected = their(loss(by_dense), argnums)(*args)
        assert_close(our(loss(by_sparse), argnums)(*args), expected, 1e-11, "eager")
        assert_close(jax.jit(our(loss(by_sparse), argnums))(*args), expected, 1e-11, "jit")


@pytest.mark.parametrize("transpose", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("columns", [(), (2,)], ids=["vector", "matrix"])
@pytest.mark.parametrize("format_", ["coo", "csr"])
def test_products_of_the_older_formats(format_, columns, transpose):
    make = {
        "coo": lambda data: COO((data, jnp.asarray(ROW), jnp.asarray(COLUMNS)), shape=(4, 3)),
        "csr": lambda data: CSR((data, jnp.asarray(COLUMNS), jnp.asarray(POINTERS)), shape=(4, 3)),
    }[format_]
    dense = lambda data: spread(data, ROW, COLUMNS)
    assert_as_dense(
        lambda data, y: product(transpose)(make(data), y),
        lambda data, y: product(transpose)(dense(data), y),
        jnp.asarray(normal(5)),
        jnp.asarray(normal(4 if transpose else 3, *columns, seed=1)),
    )


def test_entries_that_fill_a_matrix_up_have_no_gradient():
    x = jnp.asarray(MATRIX)
    nse = int(np.count_nonzero(MATRIX)) + 3
    weights = jnp.asarray(normal(nse))
    for format_ in (COO, CSR, BCOO, BCSR):
        gradient = funcgrad.grad(lambda x, f=format_: f.fromdense(x, nse=nse).data @ weights)(x)
        expected = np.zeros_like(MATRIX)
        expected[np.nonzero(MATRIX)] = weights[:-3]
        assert_close(gradient, jnp.asarray(expected), 1e-12, format_.__name__)
    filled_up = csr_function(lambda mat: jnp.sum(jnp.exp(mat.todense())))
    data, *rest = map(jnp.asarray, FILLED_UP)
    expected = jnp.exp(data).at[5:].set(0)
    assert_close(funcgrad.grad(filled_up)(data, *rest), expected, 1e-12, "todense")


def test_extract_takes_a_repeated_index_once():
    mat = BCOO((jnp.ones(5), jnp.asarray(REPEATED[1])), shape=(4, 3))
    row, column = REPEATED[1].T
    once = jnp.array([1.0, 1, 0, 1, 0])
    assert_as_dense(
        lambda x: jsparse.bcoo_extract(mat, x, assume_unique=False).data,
        lambda x: x[row, column] * once,
        jnp.asarray(normal(4, 3)),
    )


def test_jacobians_of_dense_arrays_are_batched_along_any_axis():
    data, columns, pointers = map(jnp.asarray, BCSR_BATCHED)
    y = jnp.asarray(normal(3, 2))
    dense = lambda data: BCSR((data, columns, pointers), shape=(2, 4, 3)).todense()
    fn = lambda data: jnp.einsum("bij,jk->kib", dense(data), y)
    assert_close(funcgrad.jacrev(fn)(data), jax.jacfwd(fn)(data), 1e-12, "jacobian")


def test_indices_shared_by_a_batch():
    data, indices, shape = ONE_INDICES
    indices = jnp.asarray(indices)
    dims = (([1], [0]), ([], []))
    assert_as_dense(
        lambda data, y: dot(dims)(BCOO((data, indices), shape=shape), y),
        lambda data, y: jnp.zeros(shape).at[:, indices[0, :, 0]].add(data) @ y,
        jnp.asarray(data),
        jnp.asarray(normal(3, seed=1)),
    )


def test_block_axes():
    data, indices, shape = DENSE
    dims = (([1], [0]), ([], []))
    assert_as_dense(
        lambda data, y: dot(dims)(BCOO((data, jnp.asarray(indices)), shape=shape), y),
        lambda data, y: jnp.einsum(
            "ijk,jl->ikl", jnp.zeros(shape).at[tuple(indices.T)].add(data), y
        ),
        jnp.asarray(data),
        jnp.asarray(normal(3, 2, seed=1)),
    )


def test_product_of_two_sparse_arrays():
    left, right = PADDED, bcoo(scattered(3, 4, seed=3))
    arrays = [BCOO((data, jnp.asarray(i)), shape=shape) for data, i, shape in (left, right)]

    def by_sparse(x: Any, y: Any) -> Any:
        x, y = (BCOO((d, m.indices), shape=m.shape) for d, m in zip((x, y), arrays, strict=True))
        return jsparse.todense(x @ y)

    def by_dense(x: Any, y: Any) -> Any:
        x, y = (
            jnp.zeros(m.shape).at[tuple(m.indices.T)].add(d)
            for d, m in zip((x, y), arrays, strict=True)
        )
        return x @ y

    assert_as_dense(by_sparse, by_dense, jnp.asarray(left[0]), jnp.asarray(right[0]))


@pytest.mark.parametrize("format_", [BCOO, BCSR, COO, CSR], ids=lambda f: f.__name__)
def test_todense(format_):
    mat = format_.fromdense(jnp.asarray(MATRIX))
    data, *rest = jax.tree.leaves(mat)
    tree = jax.tree.structure(mat)
    make = lambda data: jax.tree.unflatten(tree, [data, *rest])
    where = np.nonzero(MATRIX)
    assert_as_dense(lambda d: jsparse.todense(make(d)), lambda d: spread(d, *where), data)
    assert_as_dense(lambda x: jsparse.todense(x), lambda x: x, data)


# --- the sparse package's own transforms ----------------------------------------------------------


def ours_inside(fn: Any) -> Any:
    """`fn`, which fails where it is differentiated by JAX."""

    def checked(mat: Any, *rest: Any) -> Any:
        assert type(jax.tree.leaves(mat)[0]).__name__ == "TapeTracer"
        return fn(mat, *rest)

    return checked


@pytest.mark.parametrize("make", [BCOO.fromdense, BCSR.fromdense], ids=["bcoo", "bcsr"])
def test_sparse_grad_is_ours_inside_as_jax_grad(make):
    mat, y = make(jnp.asarray(MATRIX)), jnp.asarray(normal(3))
    fn = lambda mat, y: jnp.sum(jnp.sin(mat @ y))
    many = lambda mat, y: jnp.sin(mat @ y)
    for transform, function in (
        (jsparse.grad, fn),
        (jsparse.value_and_grad, fn),
        (jsparse.jacrev, many),
    ):
        expected = transform(function, argnums=(0, 1))(mat, y)
        with funcgrad.as_jax_grad():
            found = transform(ours_inside(function), argnums=(0, 1))(mat, y)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        assert_close(found, expected, 1e-12, transform.__name__)


def test_sparsified_functions():
    mat, y = BCOO.fromdense(jnp.asarray(MATRIX)), jnp.asarray(normal(4))
    fn = jsparse.sparsify(lambda m, y: jnp.sum(jnp.sin((2 * m.T) @ y)))

    def loss(data: Any, y: Any) -> Any:
        return fn(BCOO((data, mat.indices), shape=mat.shape), y)

    expected = jax.grad(loss, (0, 1))(mat.data, y)
    assert_close(funcgrad.grad(loss, (0, 1))(mat.data, y), expected, 1e-12, "inside")


@pytest.mark.parametrize("use_tracer", [False, True], ids=["jaxpr", "tracer"])
@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_a_sparsified_gradient_of_a_custom_jvp_function(use_tracer, around):
    """Its rule multiplies by a Python number, which becomes an array inside the sparsified function."""
    square = jax.custom_jvp(lambda x: x**2)
    square.defjvp(lambda primals, tangents: (primals[0] ** 2, 3 * tangents[0] * primals[0]))
    mat = BCOO.fromdense(jnp.asarray(MATRIX))
    loss = around(lambda m: square(m).sum())
    found = jsparse.sparsify(funcgrad.grad(loss), use_tracer=use_tracer)(mat)
    assert_close(found.data, 3 * mat.data, 1e-12, "3 x")


def test_who_does_not_use_sparse_arrays_does_not_import_them():
    source = (
        "import sys, funcgrad, jax; funcgrad.grad(jax.numpy.sin)(1.0);"
        "print([m for m in sys.modules if m.startswith(('jax.experimental.sparse',"
        " 'jax.experimental.multihost_utils'))])"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_rules_that_are_imported_late_are_rules_like_others():
    op = sparse.bcoo_todense_p
    assert funcgrad.DEFAULT[op].name == "bcoo_todense_vjp"
    assert op in funcgrad.DEFAULT.strict()
    with pytest.raises(errors.DuplicateRuleError, match="bcoo_todense"):
        funcgrad.DEFAULT.extend(funcgrad.zero(op))

    def doubled_vjp(ct: Any, data: Any, indices: Any, *, out: Any, spinfo: Any) -> Any:
        return 2 * sparse.extract(indices, ct), None

    rules = funcgrad.DEFAULT.override({op: doubled_vjp})
    data, indices = map(jnp.asarray, PARTS[:2])
    fn = lambda data: jnp.sum(jsparse.bcoo_todense(BCOO((data, indices), shape=(4, 3))))
    assert_close(funcgrad.grad(fn, rules=rules)(data), 2 * jnp.ones_like(data), 0, "override")
