"""The training programs, which import each other as the scripts beside them."""

import logging
import sys
from pathlib import Path

import jax
import pytest

PROGRAMS = Path(__file__).parents[3] / "examples" / "training"
LIBRARIES = ("orbax.checkpoint", "grain", "flax", "sklearn", "matplotlib", "tqdm")


@pytest.fixture(autouse=True)
def _programs_can_be_imported(monkeypatch):
    for library in LIBRARIES:
        pytest.importorskip(
            library, reason=f"{library} is not installed: pip install 'funcgrad[training]'"
        )
    monkeypatch.syspath_prepend(PROGRAMS)
    level = logging.getLogger("absl").level
    with jax.enable_x64(False):
        yield
    logging.getLogger("absl").setLevel(level)
    for path in PROGRAMS.glob("*.py"):
        sys.modules.pop(path.stem, None)
