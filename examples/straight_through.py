"""Train a network of which every weight and every activation is -1 or 1.

    python examples/straight_through.py

The derivative of a sign is zero, so nothing is learned. The straight-through rule of binarized networks
(Hubara et al. 2016) is put in its place from outside; the model calls jnp.sign and is not edited.
"""

import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
from digits_data import load_split
from digits_descent import accuracy, descend
from digits_models import cross_entropy
from jax import Array

import funcgrad
from funcgrad.surgery.methods import straight_through

BOUND = 0.9  # of the test accuracy
SIZES = (64, 256, 256, 10)


def network(params: list, images: Array) -> Array:
    """Layers of signs: inputs, weights, and hidden activations."""
    h = 2 * images.reshape(len(images), -1) - 1
    for w in params:
        h = jnp.sign(h) @ jnp.sign(w) / jnp.sqrt(len(w))
    return h


def loss(params: list, images: Array, labels: Array) -> Array:
    return cross_entropy(jax.nn.log_softmax(3 * network(params, images)), labels)


WAYS = {
    "the rule of jax.grad": funcgrad.DEFAULT,
    "straight through": straight_through(),
}


def picture(w: Array) -> str:
    """A weight's signs as text, one character for each."""
    return "\n".join("   " + "".join("█" if x > 0 else "·" for x in row) for row in w)


def main() -> None:
    train, test = load_split(0)
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    start = [0.1 * jax.random.normal(k, s) for k, s in zip(keys, pairwise(SIZES), strict=False)]
    bits = sum(w.size for w in start)
    print(f"{bits / 8 / 1024:.1f} KiB of weights, one bit each")
    reached = {}
    for name, rules in WAYS.items():
        value_and_gradient = funcgrad.value_and_grad(loss, rules=rules)
        trained = descend(value_and_gradient, start, train, epochs=40)
        reached[name] = accuracy(network, trained, test)
        print(f"{name:22} test accuracy {reached[name]:.3f}")
    print("the weights of the first unit, over the image:")
    print(picture(trained[0][:, 0].reshape(8, 8)))
    if reached["straight through"] < BOUND:
        sys.exit(f"the binary network reached less than {BOUND}")


if __name__ == "__main__":
    main()
