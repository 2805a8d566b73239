"""``pytest -p funcgrad.pytest_swap``: a test suite with funcgrad in the place of ``jax.grad``, unedited.

From before the first conftest is loaded to the end of the run, every ``jax.grad``, ``value_and_grad``,
``vjp``, ``jacrev``, ``jacobian`` and ``hessian`` is funcgrad's: under whatever name it was imported, as
a decorator at import, in ``jax.test_util.check_grads`` and in JAX's own modules, in other threads, in
the workers of pytest-xdist and in the Python processes that tests start. The summary says how many
gradients were ours, in how many tests, and how many of the failures took any.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from funcgrad import startup
from funcgrad.drop_in import Gradients, in_all_threads

TITLE = "funcgrad in the place of jax.grad"
RESULT = "funcgrad_swap"
"""Where a worker of pytest-xdist leaves its results."""


def _jax_variables() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("JAX_")}


AT_IMPORT = _jax_variables()
"""The environment variables that JAX read when this plugin imported it."""


@dataclass
class Swap:
    """The swap of a run: what it counts, and how it ends.

    Attributes:
      gradients: those of this process.
      counts: a file with a byte for each gradient of the processes that this one's tests started; those
        of other workers are in the same folder.
      by_name: the gradients of the workers, by the function that was asked.
      users: the tests that took at least one, by id.
      lost: how many workers ended without telling.
    """

    stack: contextlib.ExitStack
    gradients: Gradients
    counts: Path
    by_name: Counter[str] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    lost: int = 0

    @classmethod
    def started(cls, strict: bool) -> Swap:
        startup.end()  # a worker was started by a process with the swap
        stack = contextlib.ExitStack()
        worker, given = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get(startup.COUNTS)
        if worker and given:
            counts = Path(given).with_name(worker)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="funcgrad"))
            counts = Path(folder) / "main"
        gradients = InThisProcess(counts)
        stack.enter_context(in_all_threads(strict, gradients))
        stack.enter_context(startup.in_started_processes(strict, counts))
        return cls(stack, gradients, counts)

    def elsewhere(self) -> int:
        """How many gradients the processes took that this one's tests started."""
        return _count(self.counts, startup.TAKEN)

    def in_all(self, byte: bytes) -> int:
        """The same for all workers; or how many processes could take none."""
        return sum(_count(path, byte) for path in self.counts.parent.iterdir())


def _count(path: Path, byte: bytes) -> int:
    return path.read_bytes().count(byte) if path.exists() else 0


class InThisProcess(Gradients):
    """Gradients of this process; those of a fork of it are written to a file."""

    def __init__(self, counts: Path):
        super().__init__()
        self.counts, self.process = counts, os.getpid()

    def add(self, name: str) -> None:
        if os.getpid() == self.process:
            super().add(name)
        else:
            startup.write(str(self.counts), startup.TAKEN)


SWAP = pytest.StashKey[Swap]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("funcgrad").addoption(
        "--funcgrad-strict",
        action="store_true",
        default=False,
        help="refuse primitives of third-party packages that have no rule, instead of asking JAX",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest, which may import the library under test."""
    _start(early_config, early_config.known_args_namespace.funcgrad_strict)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Where the plugin was loaded later than that: in a worker of pytest-xdist, by a conftest."""
    _start(config, _is_strict(config))


def _is_strict(config: pytest.Config) -> bool:
    return bool(config.getoption("funcgrad_strict", default=False))


def _start(config: pytest.Config, strict: bool) -> None:
    if SWAP not in config.stash:
        config.stash[SWAP] = swap = Swap.started(strict)
        config.add_cleanup(swap.stack.close)


def pytest_report_header(config: pytest.Config) -> str:
    strict = ", strict" * _is_strict(config)
    return f"{TITLE}, jax.vjp and their like{strict}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note whether a test, its fixtures included, takes a gradient."""
    swap = item.config.stash[SWAP]
    before = swap.gradients.count, swap.elsewhere()
    result = yield
    if (swap.gradients.count, swap.elsewhere()) != before:
        swap.users.add(item.nodeid)
    return result


# --- workers of pytest-xdist


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        swap = session.config.stash[SWAP]
        output[RESULT] = {
            "by_name": dict(swap.gradients.by_name),
            "users": sorted(swap.users),
        }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    swap = node.config.stash[SWAP]
    result = getattr(node, "workeroutput", {}).get(RESULT)
    if result is None:
        swap.lost += 1
        return
    swap.by_name.update(result["by_name"])
    swap.users.update(result["users"])


# --- the summary


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    swap = config.stash[SWAP]
    terminalreporter.section(TITLE)
    for line in _summary(swap, terminalreporter.stats):
        terminalreporter.write_line(line)


def _summary(swap: Swap, stats: Mapping[str, Any]) -> list[str]:
    """What is said at the end of a run."""
    total = Gradients()
    total.by_name = swap.gradients.by_name + swap.by_name
    elsewhere, missing = swap.in_all(startup.TAKEN), swap.in_all(startup.MISSING)
    lines = [str(total)]
    if elsewhere:
        lines.append(f"{elsewhere:,} more in processes that tests started")
    if missing:
        lines.append(f"{missing} process(es) without: funcgrad cannot be imported there")
    if swap.lost:
        lines.append(f"{swap.lost} worker(s) ended without telling: theirs are not counted")
    ran = {r.nodeid for key in ("passed", "failed", "xfailed", "xpassed") for r in _of(stats, key)}
    failed = {r.nodeid for key in ("failed", "error") for r in _of(stats, key)}
    lines.append(
        f"{len(swap.users & (ran | failed)):,} of {len(ran | failed):,} tests took at least one"
    )
    if failed:
        ours = len(swap.users & failed)
        lines.append(f"of {len(failed)} that failed, {ours} took at least one")
    lines += [
        f"{name} was set after JAX had been imported, so JAX does not know it: set it in the shell"
        for name, value in sorted(_jax_variables().items())
        if AT_IMPORT.get(name) != value
    ]
    return lines


def _of(stats: Mapping[str, Any], key: str) -> list[Any]:
    return [report for report in stats.get(key, ()) if hasattr(report, "nodeid")]
