"""Find wrong labels by the norm of each example's gradient, without computing the gradients.

    python examples/per_example_norms.py

Labels of the training set are exchanged for wrong ones, and a network is trained on them. The
examples with the largest gradients are those that the network would learn last. Their norms come out
of one backward pass for all examples; jax.vmap(jax.grad) gives the same numbers from as many
gradients as examples.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from digits_data import Digits, load_split
from digits_descent import descend
from digits_models import cross_entropy, init_mlp, mlp
from jax import Array

import funcgrad
from funcgrad.surgery.methods import squared_norms

WRONG = 50
BOUND = 0.7  # of the wrong labels among as many examples with the largest gradients


def loss(params: dict, images: Array, labels: Array) -> Array:
    return cross_entropy(mlp(params, images), labels)


def of_example(params: dict, image: Array, label: Array) -> Array:
    return loss(params, image[None], label[None])


def by_gradients(params: dict, image: Array, label: Array) -> dict:
    return jax.tree.map(lambda g: jnp.sum(g**2), jax.grad(of_example)(params, image, label))


def over_examples(of_one, params: dict, digits: Digits) -> tuple[Array, float]:
    """Each example's norm, and how many MiB the computation needs besides arguments and results."""
    compiled = jax.jit(jax.vmap(of_one, in_axes=(None, 0, 0))).lower(params, *digits).compile()
    norm = jnp.sqrt(sum(jax.tree.leaves(compiled(params, *digits))))
    return norm, compiled.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    (images, labels), _ = load_split(0)
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(labels), WRONG, replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + rng.integers(1, 10, WRONG)) % 10
    digits = Digits(images, given)

    params = descend(funcgrad.value_and_grad(loss), init_mlp(jax.random.key(0)), digits, epochs=12)
    norms, size = over_examples(squared_norms(of_example), params, digits)
    wanted, full_size = over_examples(by_gradients, params, digits)
    print(f"{len(labels)} norms: {size:.1f} MiB, by vmap(grad) {full_size:.1f} MiB")
    if not np.allclose(norms, wanted, rtol=1e-3, atol=1e-5):
        sys.exit("the norms are not those of vmap(grad)")

    largest = np.argsort(-norms)[:WRONG]
    print("norm    label given   label in the data set")
    for i in largest[:10]:
        print(f"{norms[i]:6.2f} {given[i]:8} {labels[i]:14} {'  wrong' if i in wrong else ''}")
    found = np.isin(largest, wrong).mean()
    print(
        f"of the {WRONG} largest, {found:.0%} have a wrong label; of all, {WRONG / len(labels):.0%}"
    )
    if found < BOUND:
        sys.exit(f"fewer than {BOUND:.0%} were found")


if __name__ == "__main__":
    main()
