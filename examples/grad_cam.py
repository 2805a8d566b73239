"""Where is the 3, and where is the 7? Grad-CAM finds digits that nobody told the network to find.

    python examples/grad_cam.py

A network that was trained on single digits looks at two of them side by side. Grad-CAM at its last
convolution says where the evidence for each class lies. The picture is grad_cam.png.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
from digits_cnn import one_of_each, trained

import funcgrad
from funcgrad.surgery.methods import grad_cam

PAIRS = [(3, 7), (0, 4), (6, 1), (5, 2)]


def main() -> None:
    """Draw the maps of both classes on each pair, and print how often the brighter half is right."""
    model, params, test = trained()
    digits = dict(enumerate(one_of_each(test, list(range(10)))))

    def logit(image: jax.Array, label: jax.Array) -> jax.Array:
        return model.apply(params, image)[label]

    explain = jax.jit(grad_cam(logit, funcgrad.at(function=jax.nn.relu)[2]))
    figure, axes = plt.subplots(3, len(PAIRS), figsize=(2 * len(PAIRS), 3.4))
    found = 0
    for column, pair in zip(axes.T, PAIRS, strict=True):
        image = np.concatenate([digits[label] for label in pair], axis=1)
        column[0].imshow(image, cmap="gray_r")
        column[0].set_title(f"{pair[0]} and {pair[1]}")
        for side, (axis, label) in enumerate(zip(column[1:], pair, strict=True)):
            heat = np.asarray(explain(image, label))
            halves = heat[:, :8].sum(), heat[:, 8:].sum()
            found += int(np.argmax(halves) == side)
            axis.imshow(image, cmap="gray_r")
            axis.imshow(heat, cmap="jet", alpha=0.6, interpolation="bilinear")
            axis.set_ylabel(f"where is {label}?", fontsize=7)
        for axis in column:
            axis.set(xticks=[], yticks=[])
    print(f"{found} of {2 * len(PAIRS)} digits found")
    figure.tight_layout(pad=0.3)
    figure.savefig("grad_cam.png", dpi=150)
    print("grad_cam.png")


if __name__ == "__main__":
    main()
