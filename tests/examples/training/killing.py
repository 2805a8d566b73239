"""Runs training programs in processes of their own, and kills these at random steps."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

PROGRAMS = Path(__file__).parents[3] / "examples" / "training"


class Run:
    """A run of a program of `examples/training`, with its metrics and checkpoints in one folder.

    Runs beside each other share compiled programs, so that a resumed one begins soon.
    """

    def __init__(self, folder: Path, program: str, arguments: Sequence[str]) -> None:
        self.metrics, self.saved = folder / "out" / "metrics.jsonl", folder / "saved"
        self.command = [sys.executable, str(PROGRAMS / program), *arguments]
        self.command += ["--out", str(folder / "out"), "--checkpoint", str(self.saved)]
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }

    def start(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.command, env=self.environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def finish(self) -> str:
        """Run to the end, and return what was printed."""
        process = self.start()
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return printed

    def newest(self) -> int:
        """The step of the newest complete checkpoint; 0 if there is none."""
        names = [path.name for path in self.saved.glob("*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def kill(self, at: int, wait: float) -> int:
        """Run, and kill the process by signal 9 `wait` seconds after its metrics have `at` steps.

        Returns how many steps the metrics have then.
        """
        before = self._inode()  # a run that starts replaces the file
        process = self.start()
        while process.poll() is None:
            if self._inode() not in (None, before) and self._steps() >= at:
                time.sleep(wait)
                process.kill()
                printed, _ = process.communicate()
                assert process.returncode == -9, printed
                return self._steps()
            time.sleep(0.005)
        raise AssertionError(f"the run ended before it was killed: {process.communicate()[0]}")

    def last_state(self) -> dict[str, Any]:
        """The arrays of the newest checkpoint, as NumPy arrays on no device."""
        import orbax.checkpoint as ocp

        folder = self.saved / str(self.newest()) / "state"
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            saved = checkpointer.metadata(folder).item_metadata.tree
            on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            asked = ocp.args.PyTreeRestore(restore_args=on_host)
            return dict(checkpointer.restore(folder, args=asked))

    def _inode(self) -> int | None:
        return self.metrics.stat().st_ino if self.metrics.exists() else None

    def _steps(self) -> int:
        return self.metrics.read_text().count("\n")


def check_that_kills_change_nothing(
    folder: Path, program: str, arguments: Sequence[str], *, steps: int, every: int, kills: int
) -> None:
    """Run a program whole, and again with kills at random steps: state and metrics are the same bits.

    After each kill, no complete checkpoint is lost, and at most `2 * every` steps are: while one
    checkpoint is written the run goes on to the next.
    """
    arguments = [*arguments, "--steps", str(steps), "--every", str(every)]
    unbroken, killed = (Run(folder / x, program, arguments) for x in ("unbroken", "killed"))
    unbroken.finish()
    rng = random.Random(str(folder.parent))  # other steps in each session of pytest
    done = 0
    for left in range(kills, 0, -1):
        at = done + rng.randint(1, max(1, 2 * (steps - 2 - done) // (left + 1)))
        reached = killed.kill(min(at, steps - 2), wait=rng.uniform(0, 0.02))
        assert killed.newest() >= done, f"killed at {reached}: the checkpoint of {done} is gone"
        assert reached - killed.newest() <= 2 * every, f"killed at {reached}: {killed.newest()}"
        done = killed.newest()
    killed.finish()
    assert killed.metrics.read_text() == unbroken.metrics.read_text()
    expected, found = unbroken.last_state(), killed.last_state()
    assert unbroken.newest() == killed.newest() == steps
    assert {*found} == {*expected}
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
        assert found[name].dtype == x.dtype
