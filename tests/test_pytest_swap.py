"""``pytest -p funcgrad.pytest_swap`` on a library's tests, which know nothing of it."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
from jax import grad
import jax, jax.numpy as jnp

def power(x):  # jax.grad refuses it, so an answer shows whose gradient it is
    return jax.lax.while_loop(lambda c: c[1] < 4, lambda c: (c[0] * x, c[1] + 1), (x, 1))[0]

slope_at_import = grad(power)
jax.config.parse_flags_with_absl()  # makes a flag of each setting
"""

TESTS = """
import multiprocessing, subprocess, sys, threading
import jax, jax.numpy as jnp, pytest
from conftest import power, slope_at_import
from jax import grad, vjp
from jax.test_util import check_grads

def slope_in(found):
    found.put(float(grad(power)(3.0)))

def test_decorated_at_import():
    assert slope_at_import(3.0) == 108.0

def test_imported_names():
    assert grad(power)(3.0) == 108.0
    assert vjp(power, 3.0)[1](1.0) == (108.0,)

def test_imported_lazily():
    import jax._src.api as later
    assert later.grad(power)(3.0) == 108.0

def test_check_grads():
    check_grads(power, (1.5,), order=1, modes=["rev"], rtol=0.01)

def test_thread():
    found = []
    other = threading.Thread(target=lambda: found.append(grad(power)(3.0)))
    other.start()
    other.join()
    assert found == [108.0]

CODE = "from conftest import power; import jax; assert jax.grad(power)(3.0) == 108.0"

def test_process():
    subprocess.run([sys.executable, "-c", CODE], check=True)

def test_spawned():
    spawn = multiprocessing.get_context("spawn")
    found = spawn.Queue()
    child = spawn.Process(target=slope_in, args=(found,))
    child.start()
    assert found.get(timeout=120) == 108.0
    child.join()

def test_without_gradient():
    pass

def test_that_fails():
    assert grad(power)(3.0) == 0
"""

FAILS = """
def test_without_gradient_that_fails():
    assert False
"""

FOREIGN = """
import jax, jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

foreign_p = Primitive("foreign")
foreign_p.def_impl(lambda x: 2 * x)
foreign_p.def_abstract_eval(lambda x: x)
ad.deflinear2(foreign_p, lambda ct, x: [2 * ct])

def test_foreign():
    assert jax.grad(lambda x: foreign_p.bind(x))(jnp.float32(3.0)) == 2.0
"""

TITLE = "*= funcgrad in the place of jax.grad =*"


def run(pytester, *options):
    return pytester.runpytest_subprocess("-p", "funcgrad.pytest_swap", *options, timeout=300)


@pytest.fixture
def library(pytester, monkeypatch):
    """A library's tests."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_ours=TESTS, test_more=FAILS)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    return pytester


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_gradient_is_ours(library, workers):
    result = run(library, "-n", workers)
    result.assert_outcomes(passed=8, failed=2)
    result.stdout.fnmatch_lines(
        [
            TITLE,
            "7 gradients by funcgrad: 5 grad, 2 vjp",
            "2 more in processes that tests started",
            "8 of 10 tests took at least one",
            "of 2 that failed, 1 took at least one",
        ]
    )


def test_strict_refuses_what_only_jax_knows(pytester):
    pytester.makepyfile(FOREIGN)
    run(pytester, "-n", "0").assert_outcomes(passed=1)
    strict = run(pytester, "-n", "0", "--funcgrad-strict")
    strict.assert_outcomes(failed=1)
    strict.stdout.fnmatch_lines(["*MissingRuleError*foreign*", TITLE])


def test_a_variable_that_jax_missed_is_named(pytester):
    pytester.makeconftest("import os; os.environ['JAX_ENABLE_X64'] = '1'")
    pytester.makepyfile("def test(): pass")
    result = run(pytester, "-n", "0")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [TITLE, "0 gradients by funcgrad", "JAX_ENABLE_X64 was set after *"]
    )


def test_without_the_plugin_they_are_jax_s(library):
    library.runpytest_subprocess("-n", "0", "-k", "imported_names").assert_outcomes(failed=1)
