"""What a network looks at, by three ways back: the gradient, the deconvnet, guided backpropagation.

    python examples/guided_backprop.py

The network is a flax module that knows nothing of it. Each way is one call, and the picture is
guided_backprop.png.
"""

import jax
import numpy as np
from digits_cnn import draw, one_of_each, trained

import funcgrad
from funcgrad.surgery.methods import deconvnet, guided_backprop

CLASSES = [0, 2, 3, 5, 6, 9]
WAYS = {"gradient": funcgrad.grad, "deconvnet": deconvnet, "guided": guided_backprop}


def main() -> None:
    """Draw a row for each way, and say how much of it is on the ink."""
    model, params, test = trained()
    images = one_of_each(test, CLASSES)

    def logit(image: jax.Array, label: jax.Array) -> jax.Array:
        return model.apply(params, image)[label]

    rows = {}
    for name, way in WAYS.items():
        rows[name] = np.asarray(jax.jit(jax.vmap(way(logit)))(images, np.array(CLASSES)))
        positive = np.maximum(rows[name], 0)
        share = positive[images > 0.3].sum() / positive.sum()
        print(f"{name:>10}: {share:.0%} of what speaks for the class lies on the ink")
    draw({"image": images, **rows}, "guided_backprop.png")


if __name__ == "__main__":
    main()
