"""Processes are started together and end together, whatever happens to one of them."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", textwrap.dedent(code)]


FOREVER = "import time; time.sleep(600)"


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def written(path, parts: int) -> list[int]:
    """The numbers in a file, as soon as there are so many."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        numbers = path.read_text().split() if path.exists() else []
        if len(numbers) == parts and path.read_text().endswith("\n"):
            return [int(number) for number in numbers]
        time.sleep(0.05)
    raise TimeoutError(path)


def test_what_the_first_process_prints_is_shown_and_all_is_kept(tmp_path, capfd):
    from workers import run_together

    commands = [
        python(f"print('[Gloo] Rank 0 is connected\\nprocess {number} says')") for number in (0, 1)
    ]
    run_together(commands, tmp_path, tmp_path / "metrics.jsonl", 60)
    assert capfd.readouterr().out == "process 0 says\n"
    assert "process 1 says" in (tmp_path / "worker_1.log").read_text()


def test_a_process_that_fails_ends_the_others_and_is_named_with_its_last_lines(tmp_path):
    from workers import WorkerError, run_together

    running = f"import os; open('{tmp_path}/pid', 'w').write(f'{{os.getpid()}}\\n'); {FOREVER}"
    failing = f"""
        import os, sys, time
        while not os.path.exists('{tmp_path}/pid'): time.sleep(0.02)
        sys.exit('no such disk')
    """
    with pytest.raises(WorkerError, match=r"Process 1 of 2 ended with exit status 1") as failed:
        run_together([python(running), python(failing)], tmp_path, tmp_path / "none", 60)
    assert str(failed.value).endswith("no such disk")
    assert not alive(written(tmp_path / "pid", 1)[0])


def test_a_killed_process_is_reported_by_its_signal(tmp_path):
    from workers import WorkerError, run_together

    killed = python("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(WorkerError, match=r"Process 1 of 2 ended by signal 9 \(SIGKILL\)"):
        run_together([python(FOREVER), killed], tmp_path, tmp_path / "none", 60)


def test_processes_that_make_no_progress_are_ended(tmp_path):
    from workers import WorkerError, run_together

    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"metrics has not grown for 0\.5 seconds"):
        run_together([python(FOREVER)] * 2, tmp_path, tmp_path / "metrics", 0.5)
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_file_that_grows_is_progress(tmp_path):
    from workers import run_together

    growing = f"""
        import time
        for _ in range(10):
            time.sleep(0.5)
            open('{tmp_path}/metrics', 'a').write('line')
    """
    run_together([python(growing)], tmp_path, tmp_path / "metrics", 4)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    import workers

    worker = [
        sys.executable,
        "-c",
        f"import os, time, workers; workers.end_with_parent()\n"
        f"open('{tmp_path}/pid', 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)",
    ]
    parent = python(f"""
        import sys
        from pathlib import Path
        sys.path.append({os.path.dirname(workers.__file__)!r})
        import workers
        logs = Path({str(tmp_path)!r})
        workers.run_together([{worker!r}] * 2, logs, logs / 'none', 600)
    """)
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(workers.__file__)}
    with subprocess.Popen(parent, env=environment) as process:
        pids = written(tmp_path / "pid", 2)
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)
