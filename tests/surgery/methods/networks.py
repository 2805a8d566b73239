"""One small network for the tests of methods: in JAX, in PyTorch, and as matrices for NumPy."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

RNG = np.random.default_rng(5)
SIZE = 6
KERNELS = [(3, 1, 3), (4, 3, 2)]  # channels out and in, height and width
DENSE = [(5, 36), (3, 5)]


def _draw(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:])).astype(
        np.float32
    )


CONVS = [(_draw(out, inside, k, k), 0.3 * _draw(out)) for out, inside, k in KERNELS]
LINEAR = [(_draw(*shape), 0.3 * _draw(shape[0])) for shape in DENSE]
IMAGE = RNG.normal(size=(1, SIZE, SIZE)).astype(np.float32)
BASELINE = 0.3 * RNG.normal(size=IMAGE.shape).astype(np.float32)


def network(image, activation=jax.nn.relu):
    """The logits of an image (channels, height, width)."""
    h = jnp.asarray(image)[None]
    for i, (kernel, bias) in enumerate(CONVS):
        with jax.named_scope(f"conv{i}"):
            h = activation(lax.conv(h, kernel, (1, 1), "VALID") + bias[:, None, None])
    h = h.reshape(-1)
    with jax.named_scope("dense0"):
        h = activation(h @ LINEAR[0][0].T + LINEAR[0][1])
    with jax.named_scope("dense1"):
        return h @ LINEAR[1][0].T + LINEAR[1][1]


TARGET = int(np.argmax(np.asarray(network(IMAGE))))


def logit(image):
    """The largest logit of IMAGE."""
    return network(image)[TARGET]


@cache
def matrices() -> list[tuple[np.ndarray, np.ndarray]]:
    """Each layer as a matrix (outputs, inputs) and a bias, in float64."""
    found, side = [], SIZE
    for kernel, bias in CONVS:
        out, inside, k, _ = kernel.shape
        new = side - k + 1
        matrix = np.zeros((out, new, new, inside, side, side))
        for i in range(new):
            for j in range(new):
                matrix[:, i, j, :, i : i + k, j : j + k] = kernel
        found.append((matrix.reshape(out * new**2, -1), np.repeat(bias, new**2).astype(float)))
        side = new
    return found + [(w.astype(float), b.astype(float)) for w, b in LINEAR]


def forward(x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Input and result of each layer, before its rectifier."""
    x, found = x.reshape(-1).astype(float), []
    for w, b in matrices():
        z = w @ x + b
        found.append((x, z))
        x = np.maximum(z, 0)
    return found


def torch_network():
    """The same network in PyTorch, on a batch of images."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: funcgrad[peers]")
    nn = torch.nn
    convs = [nn.Conv2d(w.shape[1], w.shape[0], w.shape[2]) for w, _ in CONVS]
    dense = [nn.Linear(w.shape[1], w.shape[0]) for w, _ in LINEAR]
    for layer, (w, b) in zip([*convs, *dense], [*CONVS, *LINEAR], strict=True):
        layer.weight.data, layer.bias.data = torch.tensor(w), torch.tensor(b)
    parts = [convs[0], nn.ReLU(), convs[1], nn.ReLU(), nn.Flatten(), dense[0], nn.ReLU(), dense[1]]
    return nn.Sequential(*parts)


def torch_image(image: np.ndarray = IMAGE):
    """An image as a batch of one, of which gradients are wanted."""
    import torch

    return torch.tensor(image[None], requires_grad=True)
