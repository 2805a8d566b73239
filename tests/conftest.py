"""Settings of the test processes, made before JAX starts."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from funcgrad._jax import QUICK_COMPILATION

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
