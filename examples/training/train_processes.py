"""Train the text transformer in several processes, each with devices of its own.

    python train_processes.py --processes 2 --mesh 2x2x2 --checkpoint runs/processes

One command starts all processes of this machine. They find each other by `jax.distributed` and add up
gradients by gloo, JAX's collectives on CPUs. On a cluster each host is started by its scheduler
instead, `jax.distributed.initialize()` finds the others, and `train_sharded.train` is the rest.
"""

import os
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import jax
import train_sharded
from options import positive
from workers import WorkerError, end_with_parent, free_port, run_together


def add_options(reader: ArgumentParser) -> None:
    """Add the options of several processes."""
    reader.add_argument("--processes", type=positive, default=2, help="how many are started")
    reader.add_argument(
        "--patience", type=float, default=600, help="seconds without a step until all are ended"
    )
    reader.add_argument("--worker", type=int, help="which process this is; given by the first one")
    reader.add_argument("--port", type=int, help="where process 0 listens; given by the first one")


def work(options: Namespace) -> None:
    """Be one of the processes."""
    end_with_parent()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.virtual // options.processes)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        address = f"localhost:{options.port}"
        jax.distributed.initialize(address, options.processes, options.worker)
        train_sharded.train(options)
        jax.distributed.shutdown()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        if options.worker == 0:
            time.sleep(
                10
            )  # JAX aborts the others when this one is gone: they first say why they end
        os._exit(1)  # JAX would wait for the other processes, which wait for this one


def main(argv: Sequence[str] | None = None) -> None:
    """Start the processes, and wait for them.

    Args:
      argv: the command line; that of the process if None.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    options = train_sharded.read(argv, add_options)
    if options.virtual < 1 or options.virtual % options.processes:
        found = f"--virtual {options.virtual} and --processes {options.processes}"
        raise SystemExit(f"{found}: give a number of devices that the processes can share evenly.")
    if options.worker is not None:
        return work(options)
    port = free_port()
    commands = [
        [sys.executable, __file__, *argv, "--worker", str(worker), "--port", str(port)]
        for worker in range(options.processes)
    ]
    try:
        run_together(commands, options.out, options.out / "metrics.jsonl", options.patience)
    except WorkerError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
