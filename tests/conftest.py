"""Settings of the test processes, made before JAX starts; and which tests are slow."""

import gc
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from funcgrad._jax import QUICK_COMPILATION
from tests.slow import is_for_releases, is_slow

# The programs are tiny and many: compiling them is the cost. Optimising them less takes no check away.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        QUICK_COMPILATION,
        "--xla_force_host_platform_device_count=8",
    ]
)

ENOUGH = 2.5e9
"""Bytes of a test process, at which what was compiled for earlier tests is dropped."""


def resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session")
def _limit() -> list[float]:
    return [ENOUGH]


@pytest.fixture(autouse=True)
def _bounded_memory(_limit: list[float]) -> Iterator[None]:
    yield
    if resident_bytes() > _limit[0]:
        import jax

        jax.clear_caches()
        gc.collect()
        _limit[0] = max(ENOUGH, 1.5 * resident_bytes())


# --- what the default command leaves out

TESTS = Path(__file__).parent
LEFT_OUT = pytest.StashKey[int]()
"""How many tests were left out for being slow."""


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and TESTS in item.path.parents:
            row = item.callspec.id if hasattr(item, "callspec") else ""
            if is_slow(item.path.relative_to(TESTS).as_posix(), item.originalname, row):
                item.add_marker("slow")
    tables: dict[tuple[Path, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        slow = item.get_closest_marker("slow")
        if isinstance(item, pytest.Function) and slow and not slow.kwargs.get("landing"):
            tables[item.path, item.originalname].append(item)
    for rows in tables.values():
        for number, item in enumerate(rows):
            if is_for_releases(number, len(rows)):
                item.add_marker("release")


def pytest_deselected(items: list[pytest.Item]) -> None:
    config = items[0].config
    if config.option.markexpr == "not slow" and all(i.get_closest_marker("slow") for i in items):
        config.stash[LEFT_OUT] = config.stash.get(LEFT_OUT, 0) + len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    left_out = getattr(node, "workeroutput", {}).get("left_out", 0)  # each has seen all tests
    node.config.stash[LEFT_OUT] = max(left_out, node.config.stash.get(LEFT_OUT, 0))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_line(f'{left_out} slow tests were left out: pytest -m "" runs all')
