"""Several processes compute what one does, and one command starts and ends them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import funcgrad

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "examples" / "training" / "train_processes.py"
SMALL = ["--small", "--batch", "8", "--mesh", "2x2x2"]


def losses(folder: Path) -> np.ndarray:
    import metrics

    return np.array([line["loss"] for line in metrics.read(folder / "metrics.jsonl")])


def start(out: Path, *options: str, first: str = "") -> subprocess.Popen[str]:
    """Start the program, with a folder in which Python looks first for modules."""
    path = os.pathsep.join([first, str(Path(funcgrad.__file__).parents[1]), *sys.path])
    return subprocess.Popen(
        [sys.executable, PROGRAM, *SMALL, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TQDM_MININTERVAL": "0"},
    )


def worker(parent: int, number: int) -> int:
    """The process id of a worker, by its command line."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if words[words.index("--worker") + 1] == str(number):
            return int(child)
    raise AssertionError(f"no worker {number} among {children}")


def alone(out: Path, steps: int) -> np.ndarray:
    """The losses of one process with eight devices."""
    import train_sharded

    train_sharded.main([*SMALL, "--steps", str(steps), "--virtual", "0", "--out", str(out)])
    return losses(out)


@pytest.mark.slow(landing=True)
def test_two_processes_have_the_losses_of_one(tmp_path):
    with start(tmp_path / "two", "--steps", "6") as program:
        text = program.communicate(timeout=600)[0]
    assert program.returncode == 0, text
    assert "6/6" in text
    assert "Gloo" not in text
    expected = alone(tmp_path / "one", 6)
    np.testing.assert_allclose(losses(tmp_path / "two"), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.skipif(sys.platform != "linux", reason="a worker is found by /proc")
def test_a_killed_process_ends_all_and_the_same_command_goes_on(tmp_path):
    options = ["--steps", "40", "--checkpoint", str(tmp_path / "kept"), "--every", "5"]
    with start(tmp_path / "two", *options) as program:
        end = time.monotonic() + 600
        while len(losses(tmp_path / "two")) < 12:
            assert time.monotonic() < end
            assert program.poll() is None
            time.sleep(0.05)
        os.kill(worker(program.pid, 1), signal.SIGKILL)
        text = program.communicate(timeout=60)[0]
    assert program.returncode == 1
    assert "Process 1 of 2 ended by signal 9 (SIGKILL), and the others were ended with it." in text
    before = losses(tmp_path / "two")
    assert 12 <= len(before) < 40
    with start(tmp_path / "two", *options) as program:
        text = program.communicate(timeout=600)[0]
    assert program.returncode == 0, text
    assert re.search(r"\b(5|10|15|20|25|30|35)/40", text)  # where the bar begins
    after = losses(tmp_path / "two")
    assert len(after) == 40
    np.testing.assert_allclose(after[: len(before)], before, rtol=0, atol=1e-6)


NO_ROOM = """
import resource
from pathlib import Path

words = Path("/proc/self/cmdline").read_text().split("\\0")
if "--worker" in words and words[words.index("--worker") + 1] == "1":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))  # no file of it may be larger
"""


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.skipif(sys.platform != "linux", reason="a worker knows itself by /proc")
def test_a_save_that_fails_in_one_process_ends_all_with_its_reason(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(NO_ROOM)
    options = ["--steps", "12", "--every", "4", "--checkpoint", str(tmp_path / "kept")]
    with start(
        tmp_path / "two", *options, "--patience", "120", first=str(tmp_path / "first")
    ) as program:
        text = program.communicate(timeout=600)[0]
    assert program.returncode == 1, text
    assert "Process 1 of 2 ended with exit status 1" in text
    assert "step 4 could not be saved" in text
    assert "by process 1 of 2. Older checkpoints stay." in text
    assert not list((tmp_path / "kept").glob("[0-9]"))
