"""Train the text transformer on a mesh of devices: data, fsdp and tensor parallel.

    python train_sharded.py --mesh 2x2x2 --collectives --checkpoint runs/sharded

Parameters, gradients and the optimizer's state are divided among the devices. The devices are eight
virtual ones on the CPU, unless `--virtual 0` takes those that the machine has.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any

import jax
from loop import run
from options import parser
from text_data import python_topics
from text_setup import (
    GRADIENTS,
    State,
    add_options,
    batches,
    loss_of,
    model_of,
    optimizer_of,
    start,
    step_of,
)
from text_sharding import by_rows, collectives, mesh_of, shardings_of, spread

MAY_CHANGE = ("mesh", "virtual", "collectives", "processes", "patience", "worker", "port")
"""Options in which a resumed run may differ: where it runs, not what it computes."""


def read(
    argv: Sequence[str] | None, add_more: Callable[[ArgumentParser], None] | None = None
) -> Namespace:
    """Read the options, from the command line if `argv` is None.

    Args:
      argv: the command line.
      add_more: adds options of another program.
    """
    reader = parser("Train a transformer on a mesh.", steps=500, batch=32)
    add_options(reader)
    if add_more:
        add_more(reader)
    reader.add_argument("--mesh", default="2x2x2", help="devices: data x fsdp x tensor")
    reader.add_argument("--virtual", type=int, default=8, help="virtual CPU devices; 0: real ones")
    reader.add_argument(
        "--collectives", action="store_true", help="count them beside those of jax.grad first"
    )
    return reader.parse_args(argv)


def constrained(step: Callable[..., Any], shardings: Any) -> Callable[..., Any]:
    """The step whose new state is divided as the old one."""

    def divided(state: State, tokens: jax.Array) -> Any:
        state, measured = step(state, tokens)
        return jax.lax.with_sharding_constraint(state, shardings), measured

    return divided


def train(options: Namespace) -> State:
    """Train on the devices that JAX has, in one process or in several."""
    mesh, corpus = mesh_of(options.mesh), python_topics()
    model, optimizer = model_of(options, corpus, around=by_rows(mesh)), optimizer_of(options)

    def begin() -> State:
        return start(model.init(jax.random.key(options.seed)), optimizer)

    shardings = shardings_of(jax.eval_shape(begin), mesh)
    state = jax.jit(begin, out_shardings=shardings)()  # no device ever has all of it
    loss = loss_of(model, options.budget)
    steps = {
        name: constrained(step_of(loss, optimizer, name, shardings.params), shardings)
        for name in GRADIENTS
    }
    tokens = batches(corpus, options)
    if options.collectives:
        for name, step in steps.items():
            program = (
                jax.jit(step, donate_argnums=0).lower(state, spread(tokens(0), mesh)).compile()
            )
            counts = sorted(collectives(program).items())
            print(f"{name}:", ", ".join(f"{count} {kind}" for kind, count in counts) or "none")
    title = f"{options.mesh} devices, gradient by {options.gradient}"
    return run(
        steps[options.gradient],
        state,
        lambda number: spread(tokens(number), mesh),
        options,
        title=title,
        may_change=MAY_CHANGE,
    )


def main(argv: Sequence[str] | None = None) -> State:
    """Train, and say where the parameters lie.

    Args:
      argv: the command line; that of the process if None.
    """
    options = read(argv)
    if options.virtual:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.virtual)  # before JAX looks for devices
    state = train(options)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        part = leaf.addressable_shards[0].data.shape
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        print(f"{name} {leaf.shape}: {part} on each device, {leaf.sharding.spec}")
    return state


if __name__ == "__main__":
    main()
