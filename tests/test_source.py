"""The promises about the source itself: our own reverse mode, and one file that knows JAX."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import funcgrad

PACKAGE = Path(funcgrad.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
REFERENCE = {"testing", "third_party.py"}
JAX_AD = {
    "grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacrev", "jacfwd",
    "jacobian", "hessian", "checkpoint_grad", "fwd_and_bwd",
}  # fmt: skip

JAX_TABLES = {
    "primitive_jvps", "primitive_linearizations", "primitive_transposes", "custom_lin_p",
    "NullAccum", "ValAccum", "JVPTrace", "LinearizeTrace",
}  # fmt: skip
"""What may be read of JAX's interpreters: which primitives they know, the one they define, the
accumulators that a user's backward rule is given, and the traces, which are watched."""


def names(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def jax_ad_uses(source: str) -> list[str]:
    """Uses of JAX's own differentiation: ``jax.grad`` and the like, and its AD interpreters."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in {"jax", "api"} and node.attr in JAX_AD:
                found.append(f"{node.value.id}.{node.attr}")
            if node.value.id == "ad" or node.attr == "ad":
                found.append(f"{node.value.id}.{node.attr}")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            internal = "interpreters.ad" in (node.module or "")
            names = {a.name for a in node.names}
            bad = names - JAX_TABLES if internal else names & (JAX_AD | {"ad"})
            found += [f"{node.module}.{name}" for name in bad]
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.endswith("interpreters.ad")]
    return found


def internal_imports(source: str) -> list[str]:
    """Imports, or attribute uses, of JAX outside its documented API."""
    internal = ("jax._src", "jax.extend", "jax.core", "jax.interpreters", "jaxlib")
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith(internal)]
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            full = [f"{module}.{a.name}" for a in node.names]
            found += [name for name in full if name.startswith(internal)]
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(internal):
            found.append(ast.unparse(node))
    return found


def internals_by_string(source: str) -> list[str]:
    """Strings from which a call imports JAX's internals: ``import_module("jax._src.core")``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            texts = [ast.unparse(a).strip("f'\"") for a in node.args]
            if called in {"_jax.primitive", "_jax.internal"}:
                found.append(called)
            found += [text for text in texts if text.startswith(("jax._src", "jax.extend"))]
    return found


@pytest.mark.parametrize("path", FILES, ids=names)
def test_no_differentiation_by_jax(path):
    if REFERENCE.isdisjoint(path.relative_to(PACKAGE).parts):
        assert jax_ad_uses(path.read_text()) == []


@pytest.mark.parametrize("path", FILES, ids=names)
def test_only_one_file_imports_jax_internals(path):
    if "_jax" not in path.relative_to(PACKAGE).parts:
        assert internal_imports(path.read_text()) == []
        assert internals_by_string(path.read_text()) == []


FLOORS = [
    {"messages"},
    {"errors", "stack", "_jax"},
    {"keys", "masks", "printing", "choices"},
    {"entries"},
    {"registry", "broadcasting", "fusion"},
    {"rules"},
    {"rule_program"},
    {"tape"},
    {"tangents", "backward", "functions", "nodes"},
    {"called", "catching"},
    {"unused"},
    {"nested"},
    {"op"},
    {"partition"},
    {"calls"},
    {"default"},
    {"by_name"},
    {"pickling"},
    {"arguments", "accumulation"},
    {"places"},
    {"recording"},
    {"surface", "faults", "pullbacks", "rows"},
    {"transforms"},
    {"jacobians"},
    {"drop_in"},
    {"startup"},
    {"pytest_swap"},
    {"surgery", "testing"},
    {"inspect"},
    {"extend"},
    {"__init__"},
    {"__main__"},
]
"""Modules at the root and folders, from the ground up: each imports from below itself alone."""

FLOOR_OF = {name: i for i, floor in enumerate(FLOORS) for name in floor}


def imported(path: Path) -> set[str]:
    """The root modules and folders of funcgrad that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "funcgrad":
            inside = (node.module or "").split(".")[1:]
            found |= {inside[0]} if inside else {a.name for a in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=names)
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    others = imported(path) - {own}
    assert {name for name in others if FLOOR_OF[name] >= FLOOR_OF[own]} == set()


def test_rules_know_no_tape():
    files = [path for path in FILES if path.parent.name == "rules"]
    known = set().union(*map(imported, files))
    assert known <= {"registry", "rules", "errors", "_jax", "keys", "choices"}


@pytest.mark.parametrize("path", FILES, ids=names)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize(
    "source",
    ["import jax\njax.vjp(f, x)", "from jax import grad", "from jax.interpreters import ad",
     "from jax._src.interpreters import ad\nad.backward_pass",
     "from jax._src.interpreters.ad import primitive_jvps, backward_pass",
     "import jax\njax.linear_transpose(f, x)"],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(source):
    assert jax_ad_uses(source)


@pytest.mark.parametrize(
    "source",
    ["from jax._src import core", "import jax.extend.core", "import jax\njax.core.Tracer",
     "from jax import core", "from jax.extend import source_info_util"],
)  # fmt: skip
def test_the_import_search_finds_what_it_is_for(source):
    assert internal_imports(source)


@pytest.mark.parametrize(
    "source",
    ['_jax.primitive("pvary_p", "core")', '_jax.internal("shard_alike", "shard_alike")',
     'importlib.import_module("jax._src.core")', 'importlib.import_module(f"jax._src.{name}")'],
)  # fmt: skip
def test_the_search_finds_internals_named_by_strings(source):
    assert internals_by_string(source)
