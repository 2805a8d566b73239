"""A small convolution network in flax, trained on the handwritten digits, for images of any size."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from digits_data import Digits, batches, load_split

import funcgrad


class CNN(nn.Module):
    """Three convolutions, a mean over the image, a linear layer; nothing of it knows who looks on."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images[..., None]
        for i, channels in enumerate((16, 32, 32)):
            x = nn.relu(nn.Conv(channels, (3, 3), name=f"conv{i}")(x))
        return nn.Dense(10, name="logits")(x.mean((-3, -2)))


def trained(epochs: int = 20, seed: int = 0) -> tuple[CNN, Any, Digits]:
    """The model, its parameters and the test set."""
    model, (train, test) = CNN(), load_split(seed)
    params = model.init(jax.random.key(seed), train.images[:1])
    optimizer = optax.adam(5e-3)

    def loss(params: Any, images: Any, labels: Any) -> Any:
        logits = model.apply(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params: Any, state: Any, images: Any, labels: Any) -> Any:
        updates, state = optimizer.update(funcgrad.grad(loss)(params, images, labels), state)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in batches(train, 64, rng):
            params, state = step(params, state, *batch)
    predicted = jnp.argmax(jax.jit(model.apply)(params, test.images), -1)
    print(f"test accuracy {np.mean(predicted == test.labels):.3f}")
    return model, params, test


def one_of_each(test: Digits, classes: list[int]) -> np.ndarray:
    """The first image of each class."""
    return np.stack([test.images[test.labels == label][0] for label in classes])


def draw(rows: dict[str, np.ndarray], file: str) -> None:
    """A picture of the images in the row `image`, and below of what speaks for and against a class."""
    columns = len(rows["image"])
    figure, axes = plt.subplots(len(rows), columns, figsize=(columns, len(rows) + 0.4))
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, picture in zip(row, pictures, strict=True):
            bound = np.abs(picture).max()
            colours = "gray_r" if name == "image" else "RdBu_r"
            axis.imshow(picture, cmap=colours, vmin=-bound if name != "image" else 0, vmax=bound)
            axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=150)
    print(file)
