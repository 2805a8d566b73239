"""Which pixels speak for a digit, and which against: layer-wise relevance propagation.

    python examples/lrp.py

The rules are given to the layers of an unedited flax module from outside, by their names. The picture is
lrp.png, the table says how much of the logit the pixels' relevances sum to.
"""

import jax
import numpy as np
from digits_cnn import draw, one_of_each, trained

import funcgrad
from funcgrad.surgery.methods import relevance
from funcgrad.surgery.methods.relevance import lrp

CLASSES = [0, 2, 3, 5, 6, 9]
COMPOSITE = [
    (funcgrad.at("conv*"), relevance.gamma(0.5)),
    (funcgrad.at("conv0"), relevance.alpha_beta(2, 1)),
]
METHODS = {
    "epsilon": {"rule": relevance.epsilon(0.01)},
    "gamma": {"rule": relevance.gamma(0.5)},
    "z-plus": {"rule": relevance.z_plus()},
    "composite": {"rule": relevance.epsilon(0.01), "composite": COMPOSITE},
}


def main() -> None:
    """Draw a row for each rule, and print the sums of relevances beside the logits."""
    model, params, test = trained()
    images, labels = one_of_each(test, CLASSES), np.array(CLASSES)

    def logit(image: jax.Array, label: jax.Array) -> jax.Array:
        return model.apply(params, image)[label]

    rows = {}
    for name, how in METHODS.items():
        rows[name] = np.asarray(jax.jit(jax.vmap(lrp(logit, **how)))(images, labels))
    print("digit     " + "".join(f"{label:8d}" for label in CLASSES))
    print("logit     " + "".join(f"{y:8.2f}" for y in jax.vmap(logit)(images, labels)))
    for name, pictures in rows.items():
        print(f"{name:10}" + "".join(f"{r:8.2f}" for r in pictures.sum((1, 2))))
    draw({"image": images, **rows}, "lrp.png")


if __name__ == "__main__":
    main()
