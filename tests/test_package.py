"""A wheel and an sdist: what they hold, and a page that holds outside the repository."""

from __future__ import annotations

import email
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def standalone(text: str, source: str | None) -> str:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.standalone(text, source)


def test_links_become_absolute_where_the_address_is_known():
    text = "![a page](docs/page.png) and [rules](docs/rules.md#sine), [JAX](https://jax.dev)"
    address = "https://example.org/us/funcgrad/blob/main"
    assert standalone(text, address) == (
        f"![a page]({address}/docs/page.png?raw=true) and [rules]({address}/docs/rules.md#sine), "
        "[JAX](https://jax.dev)"
    )


def test_links_become_words_where_it_is_not():
    text = "![a page](docs/page.png)Read [the `rules`](docs/rules.md), [JAX](https://jax.dev)."
    assert standalone(text, None) == "Read the `rules`, [JAX](https://jax.dev)."


def relative_links(text: str) -> list[str]:
    return re.findall(r"\]\((?!https://|#)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.S))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def test_a_wheel_holds_the_package_and_a_page_that_holds_anywhere(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        page = email.message_from_bytes(opened.read(metadata)).get_payload()
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "funcgrad").rglob("*.py")}
    assert package <= names
    assert {"funcgrad/py.typed", "funcgrad/inspect/graphs/page/timeline.js"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"funcgrad"}
    assert "Reverse-mode differentiation" in page
    assert relative_links(page) == []


def test_an_sdist_holds_what_its_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "docs/conf.py", "tests/conftest.py"} <= names
    assert not any(name.endswith(".pyc") or "/_build/" in name for name in names)
    assert sdist.stat().st_size < 20_000_000


def test_twine_finds_nothing(built):
    files = [str(file) for file in built.iterdir()]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
