"""Learn digits without the transposed weights: backpropagation's rule replaced from outside.

    python examples/feedback_alignment.py

Feedback alignment sends errors back through fixed random matrices (Lillicrap et al. 2016); direct
feedback alignment sends the output's error to each hidden layer at once (Nøkland 2016). The model is
not edited. The angle is that between the first layer's update and the true gradient: the weights come
to agree with the random matrices.
"""

import sys

import jax
import jax.numpy as jnp
from digits_data import load_split
from digits_descent import accuracy, descend
from digits_models import cross_entropy, init_layer, linear
from jax import Array

import funcgrad
from funcgrad.surgery.methods import direct_feedback_alignment, feedback_alignment

BOUND = 0.93  # of the test accuracy


def network(params: list, images: Array) -> Array:
    """Two hidden layers of tanh."""
    h = images.reshape(len(images), -1)
    for layer in params[:-1]:
        h = jnp.tanh(linear(layer, h))
    return linear(params[-1], h)


def loss(params: list, images: Array, labels: Array) -> Array:
    return cross_entropy(jax.nn.log_softmax(network(params, images)), labels)


WAYS = {
    "backpropagation": funcgrad.value_and_grad(loss),
    "feedback alignment": funcgrad.value_and_grad(loss, rules=feedback_alignment()),
    "direct feedback alignment": direct_feedback_alignment(
        loss,
        hidden=[funcgrad.at(op="tanh")[0], funcgrad.at(op="tanh")[1]],
        error=funcgrad.at(op="dot_general")[2],
    ),
}


def degrees(a: Array, b: Array) -> float:
    """The angle between two gradients."""
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    return float(jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1))))


def main() -> None:
    train, test = load_split(0)
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = ((64, 128), (128, 64), (64, 10))
    start = [init_layer(key, *size) for key, size in zip(keys, sizes, strict=True)]
    print(f"{'':27}test accuracy   angle at first   and at last")
    for name, value_and_gradient in WAYS.items():
        trained = descend(value_and_gradient, start, train, epochs=20)
        angles = [
            degrees(way(params, *train)[1][0]["weight"], true(params, *train)[0]["weight"])
            for params in (start, trained)
            for way, true in ((jax.jit(value_and_gradient), jax.jit(funcgrad.grad(loss))),)
        ]
        reached = accuracy(network, trained, test)
        print(f"{name:27}{reached:13.3f}{angles[0]:15.0f}°{angles[1]:13.0f}°")
        if reached < BOUND:
            sys.exit(f"{name} reached {reached:.3f}, less than {BOUND}")


if __name__ == "__main__":
    main()
