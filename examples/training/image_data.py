"""Images for `train_image.py`: scikit-learn's 1,797 handwritten digits, enlarged to 32 by 32 pixels.

They have the size of CIFAR's images and come with a package, so that nothing is downloaded.
"""

import functools
from typing import Any

import grain
import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Example = dict[str, Any]
"""An "image" (height, width, 1), float32 with mean 0 and variance 1, and a "label" from 0 to 9."""


@functools.cache
def digits(size: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Training and test images of `size` by `size` pixels; a fifth of all are test images."""
    raw = load_digits()
    factor = size / 8
    images = ndimage.zoom(raw.images.astype(np.float32), (1, factor, factor), order=1)
    images = ((images - images.mean()) / images.std())[..., None]
    labels = raw.target.astype(np.int32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    train = {"image": train_images, "label": train_labels}
    return train, {"image": test_images, "label": test_labels}


def augmented(example: Example, rng: np.random.Generator) -> Example:
    """The digit turned by up to 10 degrees and moved by up to an eighth of its size.

    A mirrored digit is no digit, so images are not flipped as CIFAR's would be.
    """
    image = example["image"]
    turned = ndimage.rotate(image, rng.uniform(-10, 10), reshape=False, order=1, mode="nearest")
    reach = len(image) // 8
    wide = np.pad(turned, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    row, column = rng.integers(0, 2 * reach + 1, 2)
    return {**example, "image": wide[row:, column:][: len(image), : len(image)]}


def batches(size: int, batch: int, seed: int) -> grain.MapDataset:
    """Batches of training images without end, each by its number; the order differs in each epoch.

    Grain draws the random numbers of an image from `seed` and the image's place, so that batch 1,000
    is the same whether or not batches before it were read.
    """
    train, _ = digits(size)
    examples = [
        {"image": image, "label": label}
        for image, label in zip(train["image"], train["label"], strict=True)
    ]
    source = grain.MapDataset.source(examples).seed(seed)
    return source.shuffle().repeat().random_map(augmented).batch(batch)
