"""Double precision for every model here."""

from __future__ import annotations

from typing import Any

import jax
import pytest


@pytest.fixture(autouse=True)
def x64() -> Any:
    with jax.enable_x64(True):
        yield
