"""Processes that compute together: started, watched, and ended together."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

POLL = 0.2
"""Seconds between two looks at the processes."""


class WorkerError(Exception):
    """A process ended early, or all of them have ceased to make progress."""


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def end_with_parent() -> None:
    """Have this process end when the one that started it is gone, even by ``kill -9``.

    The parent holds the other end of the standard input, and the system closes that end for it.
    """

    def wait() -> None:
        os.read(0, 1)  # of `sys.stdin` a lock would be held when Python ends
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run_together(
    commands: Sequence[Sequence[str]], logs: Path, progress: Path, patience: float
) -> None:
    """Run one process for each command until all have ended well.

    What the first process prints is shown as it comes, all of it is in ``logs/worker_<i>.log``.

    Args:
      commands: the command line of each process.
      logs: the folder of the logs. It is made if it is not there.
      progress: a file that grows while the processes make progress.
      patience: how many seconds it may stay as it is.

    Raises:
      WorkerError: if a process ends with an error, or `progress` has not changed for too long. All
        other processes have been killed by then.
    """
    logs.mkdir(parents=True, exist_ok=True)
    files = [(logs / f"worker_{i}.log").open("wb") for i in range(len(commands))]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command, file in zip(commands, files, strict=True):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment
            )
            processes.append(process)
        watch(processes, logs, progress, patience)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdin:
                process.stdin.close()
        for file in files:
            file.close()


def watch(
    processes: Sequence[subprocess.Popen[bytes]], logs: Path, progress: Path, patience: float
) -> None:
    """Return when all processes have ended well; arguments and errors are those of `run_together`."""
    with (logs / "worker_0.log").open("rb") as shown:
        seen, since = None, time.monotonic()
        while True:
            codes = [process.poll() for process in processes]
            show(shown)
            if any(codes):
                time.sleep(5 * POLL)  # what ended one may end others, and each says why
                show(shown)
                raise WorkerError(endings([process.poll() for process in processes], logs))
            if all(code == 0 for code in codes):
                return
            size = progress.stat().st_size if progress.exists() else 0
            if size != seen:
                seen, since = size, time.monotonic()
            elif time.monotonic() - since > patience:
                raise WorkerError(
                    f"{progress} has not grown for {patience:g} seconds, though all processes run. All "
                    f"of them were ended. Their logs are in {logs}. If a step takes longer than that, "
                    "raise --patience."
                )
            time.sleep(POLL)


def show(log: IO[bytes]) -> None:
    """Print what was added to a log, without what gloo says of each group of devices."""
    added = re.sub(r"\[Gloo\] Rank .*\n", "", log.read().decode(errors="replace"))
    if added:
        print(added, end="", flush=True)


def endings(codes: Sequence[int | None], logs: Path) -> str:
    """How processes ended that failed, with the last lines of their logs.

    JAX aborts a process when another is gone. The other one says why.
    """
    failed = {i: code for i, code in enumerate(codes) if code}
    causes = {i: code for i, code in failed.items() if code != -signal.SIGABRT} or failed
    parts = []
    for i, code in causes.items():
        how = f"with exit status {code}"
        if code < 0:
            how = f"by signal {-code} ({signal.Signals(-code).name})"
        log = logs / f"worker_{i}.log"
        last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        parts.append(
            f"Process {i} of {len(codes)} ended {how}, and the others were ended with it. With "
            "--checkpoint the same command goes on from the newest checkpoint. The end of "
            f"{log}:\n{last}"
        )
    return "\n".join(parts)
