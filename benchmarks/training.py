"""Whole training steps: those of examples/training, and how their memory grows with the model.

    python benchmarks/training.py [--small]

prints as JSON what needs eight virtual devices: growth with depth, width, length and devices.
`benchmarks/run.py train` runs it so, and measures the programs themselves in its own process.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
EXAMPLES = ROOT / "examples" / "training"
PICTURE = ROOT / "docs" / "training_growth.png"

# --- the programs of examples/training


@dataclass(frozen=True)
class Program:
    """A training program.

    Attributes:
      name: for the table.
      step_of: from whose gradient (``funcgrad`` or ``jax``) and more of the command line to a step, the
        state before it, and a batch.
      options: of the command line, besides.
    """

    name: str
    step_of: Callable[..., tuple[Any, Any, Any]]
    options: tuple[str, ...] = ()


def image_step(gradient: str, *options: str) -> tuple[Any, Any, Any]:
    train_image = importlib.import_module("train_image")
    read = train_image.options_of(["--gradient", gradient, *options])
    program = train_image.Program(read)
    batch = train_image.batches(program.size, read.batch, read.seed)[0]
    return program.step, program.start(), batch


def text_step(gradient: str, library: str, *options: str) -> tuple[Any, Any, Any]:
    import jax

    setup = importlib.import_module("text_setup")
    corpus = importlib.import_module("text_data").python_topics()
    reader = importlib.import_module("options").parser("", steps=2000, batch=32)
    setup.add_options(reader)
    read = reader.parse_args(options)
    model, optimizer = setup.model_of(read, corpus, library), setup.optimizer_of(read)
    state = setup.start(model.init(jax.random.key(read.seed)), optimizer)
    step = setup.step_of(setup.loss_of(model, read.budget), optimizer, gradient)
    return step, state, setup.batches(corpus, read)(0)


PROGRAMS = (
    Program("image, resnet", image_step, ("--model", "resnet")),
    Program("image, googlenet", image_step, ("--model", "googlenet")),
    Program("text, nnx", text_step, ("nnx",)),
    Program("text, equinox", text_step, ("equinox",)),
    Program("text, bfloat16", text_step, ("nnx", "--dtype", "bfloat16")),
    Program("text, budget of 0.6", text_step, ("nnx", "--budget", "0.6")),
)


@contextmanager
def examples_importable() -> Iterator[None]:
    """The programs import each other as scripts in one folder."""
    before = set(sys.modules)
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in set(sys.modules) - before:
            if (EXAMPLES / f"{name}.py").exists():
                del sys.modules[name]


def measure_program(program: Program, small: bool, pairs: int) -> dict[str, Any]:
    """Time and temporary memory of a step of both sides, once they are found equal."""
    import jax
    import numpy as np

    from benchmarks.measure import time_calls

    compiled, found = [], []
    more = ("--small",) if small else ()
    args: tuple[Any, ...] = ()
    for gradient in ("funcgrad", "jax"):
        step, *args = program.step_of(gradient, *program.options, *more)
        compiled.append(jax.jit(step).lower(*args).compile())
        found.append(jax.tree.map(np.asarray, compiled[-1](*args)[1]["loss"]))
    if not np.allclose(*found, rtol=1e-3):
        sys.exit(f"{program.name}: the losses differ, {found}")
    return {
        "time": time_calls(*compiled, tuple(args), pairs),
        "memory": [c.memory_analysis().temp_size_in_bytes for c in compiled],
        "lines": [len(c.as_text().splitlines()) for c in compiled],
    }


# --- growth


def points(small: bool) -> Iterator[tuple[str, int, Any, int]]:
    """What grows, how large it is, the sizes of the transformer, and the devices."""
    from benchmarks.chips import SMALL, Sizes

    base = Sizes(4, 128, 4, 128, 256, rows=4, model_axis=1, checkpointed=False)
    base = dataclasses.replace(SMALL, model_axis=1, checkpointed=False) if small else base
    for layers in (1, 2) if small else (1, 2, 4, 8, 16, 32, 48):
        yield "layers", layers, dataclasses.replace(base, layers=layers), 1
    for width in (32,) if small else (64, 128, 256, 512):
        yield "width", width, dataclasses.replace(base, width=width), 1
    for length in (16,) if small else (64, 128, 256, 512):
        yield "length", length, dataclasses.replace(base, length=length), 1
    for devices in (2,) if small else (1, 2, 4, 8):
        yield "devices", devices, base, devices


def growth(small: bool) -> list[dict[str, Any]]:
    """Of each point what a device keeps and receives, by funcgrad and by `jax.grad`."""
    import jax

    import funcgrad
    from benchmarks.chips import measure

    found = []
    for axis, size, sizes, devices in points(small):
        rows = [measure(by.value_and_grad, sizes, devices) for by in (funcgrad, jax)]
        memory = [row.temporary for row in rows]
        received = [row.collectives.bytes for row in rows]
        found.append({"axis": axis, "size": size, "memory": memory, "received": received})
        print(found[-1], file=sys.stderr, flush=True)
    return found


def growth_on_virtual_devices(small: bool) -> list[dict[str, Any]]:
    """The same, in a process that has eight devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, __file__, *(["--small"] if small else [])]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


# --- the report


def section(programs: dict[str, dict[str, Any]], curves: Sequence[dict[str, Any]]) -> str:
    """The tables, under their heading; funcgrad / `jax.grad`."""
    lines = ["|  | steps a second | ratio of time | temporary memory | lines of HLO |"]
    lines.append("|" + " --- |" * 5)
    for name, row in programs.items():
        time = row["time"]
        cells = [
            name,
            f"{1 / time.ours:.3g} / {1 / time.reference:.3g}",
            f"{time.ratio:.2f} ({time.low:.2f} to {time.high:.2f})",
            " / ".join(f"{memory / 2**20:.3g}" for memory in row["memory"]) + " MiB",
            " / ".join(map(str, row["lines"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    grown = ["| what grows | to | temporary memory | ratio | received |", "|" + " --- |" * 5]
    for point in curves:
        ours, reference = point["memory"]
        received = " / ".join(f"{size / 2**20:.3g}" for size in point["received"])
        cells = [
            point["axis"],
            str(point["size"]),
            f"{ours / 2**20:.3g} / {reference / 2**20:.3g} MiB",
        ]
        grown.append(f"| {' | '.join([*cells, f'{ours / reference:.2f}', received + ' MiB'])} |")
    return (
        "## train\n\n"
        "Steps of the programs in `examples/training` with their optimisers, at the programs' own "
        "sizes; first the losses are compared.\n\n"
        + "\n".join(lines)
        + "\n\nHow a device's temporary memory, and what it receives from others, grow: a transformer "
        "with a scan over layers, 4 layers of width 128, 4 pieces of 128 tokens a device, on one device "
        "where no other number is given; parameters are sharded over the devices. Counts, no noise.\n\n"
        + "\n".join(grown)
        + "\n\n![Memory against depth, width, length and devices](../docs/training_growth.png)\n"
    )


def draw(curves: Sequence[dict[str, Any]], path: Path = PICTURE) -> None:
    """Four panels: a device's temporary memory against what grows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(point["axis"] for point in curves))
    figure = Figure(figsize=(11, 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(axes_names), squeeze=False)[0]
    for panel, axis in zip(panels, axes_names, strict=True):
        found = [point for point in curves if point["axis"] == axis]
        sizes = [point["size"] for point in found]
        for i, (label, mark) in enumerate((("funcgrad", "o-"), ("jax.grad", "s--"))):
            panel.plot(sizes, [p["memory"][i] / 2**20 for p in found], mark, label=label)
        panel.set(xlabel=axis, ylabel="temporary memory (MiB)", ylim=(0, None))
        panel.legend(fontsize=8)
    figure.suptitle("Temporary memory of a device in a training step of a transformer")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    reader = ArgumentParser(description=(__doc__ or "").split("\n")[0])
    reader.add_argument("--small", action="store_true", help="sizes of a test")
    print(json.dumps(growth(reader.parse_args().small)))
