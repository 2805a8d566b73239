"""The quick part of the tests is a part of all of them that leaves out no file and no table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.slow import SLOW, is_slow

TESTS = Path(__file__).parent


def collected() -> list[tuple[str, str, str]]:
    """File, test and row of every test."""
    command = (sys.executable, "-m", "pytest", "-n", "0", "-m", "", "--collect-only", str(TESTS))
    printed = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent).stdout
    found = re.findall(r"^tests/(\S+?)::(\w+)(?:\[(.*)\])?$", printed, re.MULTILINE)
    assert len(found) > 3000, printed[-2000:]
    return found


def test_the_table_of_slow_tests_is_right():
    tests = collected()
    for file, table in SLOW.items():
        for name, kept in table.items():
            rows = [row for f, test, row in tests if (f, test) == (file, name)]
            assert rows, f"{file} has no {name}"
            assert any(is_slow(file, name, row) for row in rows), f"{file}: {name} is not slow"
            for word in kept:
                quick = [row for row in rows if f"-{word}-" in f"-{row}-"]
                assert quick, f"{file}: {name} has no row {word}"
    all_slow = {file for file, _, _ in tests} - {test[0] for test in tests if not is_slow(*test)}
    slow_files = {"docs/test_methods.py", "examples/test_gradient_flow.py"}
    assert all_slow == {Path(__file__).name, *slow_files}
