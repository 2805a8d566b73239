"""Train a transformer to continue Python's help texts, and let it write.

    python train_text.py --model equinox --dtype bfloat16 --budget 0.6 --checkpoint runs/text

The text is `pydoc_data.topics`, the language reference that comes with Python, by characters.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from loop import run
from options import parser
from text_data import Corpus, python_topics, windows
from text_setup import State, add_options, batches, loss_of, model_of, optimizer_of, start, step_of
from text_size import Model


def continued(
    model: Model, params: Any, prompt: jax.Array, count: int, key: jax.Array
) -> jax.Array:
    """A prompt (n,) with `count` tokens more, each drawn by the probabilities that the model gives."""
    length, end = model.length, len(prompt) + count
    text = jnp.zeros(max(end, length), jnp.int32).at[: len(prompt)].set(prompt)

    def write(text: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        start = jnp.maximum(place - length, 0)
        window = jax.lax.dynamic_slice(text, (start,), (length,))
        logits = model.logits(params, window[None])[0, place - start - 1]
        token = jax.random.categorical(jax.random.fold_in(key, place), logits)
        return text.at[place].set(token), None

    return jax.lax.scan(write, text, jnp.arange(len(prompt), end))[0][:end]


def bits(model: Model, params: Any, corpus: Corpus) -> float:
    """Bits a character of text that was held out: the mean over 256 pieces."""
    tokens = windows(corpus.held_out, (0,), 256, model.length)
    losses = jax.lax.map(lambda piece: loss_of(model)(params, piece[None]), jnp.asarray(tokens))
    return float(losses.mean() / np.log(2))


def main(argv: Sequence[str] | None = None) -> State:
    """Train, and print what the model writes.

    Args:
      argv: the command line; that of the process if None.
    """
    reader = parser("Train a transformer on text.", steps=2000, batch=32)
    add_options(reader)
    reader.add_argument(
        "--model", choices=("nnx", "equinox"), default="nnx", help="whose modules the model has"
    )
    reader.add_argument("--prompt", default="The ", help="what the model is to continue")
    reader.add_argument("--write", type=int, default=300, help="characters that it writes")
    options = reader.parse_args(argv)
    corpus = python_topics()
    model = model_of(options, corpus, options.model)
    optimizer = optimizer_of(options)
    state = start(model.init(jax.random.key(options.seed)), optimizer)
    step = step_of(loss_of(model, options.budget), optimizer, options.gradient)
    title = f"{options.model} transformer, gradient by {options.gradient}"
    state = run(step, state, batches(corpus, options), options, title=title)
    print(f"{bits(model, state.params, corpus):.3f} bits a character of text that was held out")
    prompt = jnp.asarray(corpus.encode(options.prompt))
    key = jax.random.key(options.seed)
    written = jax.jit(continued, static_argnums=(0, 3))(
        model, state.params, prompt, options.write, key
    )
    print(corpus.decode(np.asarray(written)))
    return state


if __name__ == "__main__":
    main()
