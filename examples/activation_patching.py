"""Which attention head looks things up? Activation patching on a transformer trained on the spot.

    python examples/activation_patching.py

Seven letters and a number n are given, and the model answers with the n-th letter. While it reads one
number, one head after the other is given what the head computed for another number: does the answer
become the other one? Attribution patching estimates the same from a single gradient. The model is a
plain function, and its heads are found by their name scope. The picture is activation_patching.png.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from letters_transformer import HEADS, LAYERS, LENGTH, draw, model, trained

import funcgrad
from funcgrad.surgery.methods import activations, attribution_patching, patched

PLACE = funcgrad.at("heads*")


def effects(params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How far each head moves the answer to the other one, 1 for all the way: patched, and estimated."""
    x, other, answers = draw(params, key)

    def gain(x: jax.Array) -> jax.Array:
        logits = model(params, x)
        return logits[answers[1]] - logits[answers[0]]

    values = activations(gain, PLACE)(other).values
    one_head = jnp.eye(LAYERS * HEADS, dtype=bool).reshape(-1, LAYERS, HEADS, 1, 1)
    gains = jax.vmap(lambda masks: patched(gain, PLACE)(x, values, [*masks]))(one_head)
    estimates = jnp.stack([e.sum((1, 2)) for e in attribution_patching(gain, PLACE)(x, other)])
    whole = gain(other) - gain(x)
    return (gains.reshape(LAYERS, HEADS) - gain(x)) / whole, estimates / whole


def attention(params: Any, layer: int, head: int) -> np.ndarray:
    """Where the head looks when it is asked for each of the letters, on one draw."""
    x, _, _ = draw(params, jax.random.key(9))
    weights = funcgrad.at(function=jax.nn.softmax)[layer]

    def looked_at(question: jax.Array) -> jax.Array:
        asked = x.at[-1].set(question + params["place"][-1])
        return activations(lambda x: model(params, x).sum(), weights)(asked).value[head, -1]

    return np.asarray(jax.jit(jax.vmap(looked_at))(params["token"][-LENGTH:]))


def main() -> None:
    """Patch each head on 100 questions, and draw the effects beside what the strongest head looks at."""
    params = trained(300)
    keys = jax.random.split(jax.random.key(7), 100)
    both = jax.jit(jax.vmap(lambda key: effects(params, key)))(keys)
    exact, estimated = (np.asarray(each.mean(0)) for each in both)
    layer, head = np.unravel_index(exact.argmax(), exact.shape)
    print(f"head {head} of layer {layer} moves the answer by {exact.max():.0%}")
    print(f"all others together by {exact.sum() - exact.max():.0%}")
    print(f"attribution patching estimates {estimated[layer, head]:.0%}")
    looks = attention(params, layer, head)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), width_ratios=(1, 1, 1.3))
    names = "activation patching", "attribution patching", f"where head {head} looks"
    for axis, name, values in zip(axes, names, (exact, estimated, looks), strict=True):
        axis.set_title(name, fontsize=10)
        figure.colorbar(axis.imshow(values, vmin=0, vmax=1, cmap="viridis"), shrink=0.6)
    for axis in axes[:2]:
        axis.set(xlabel="head", ylabel="layer", xticks=range(HEADS), yticks=range(LAYERS))
    axes[2].set(xlabel="position", ylabel="letter asked for")
    figure.tight_layout()
    figure.savefig("activation_patching.png", dpi=150)
    print("activation_patching.png")


if __name__ == "__main__":
    main()
