"""The handwritten digits that scikit-learn ships, split and cut into batches."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Digits(NamedTuple):
    """Images (n, 8, 8) with pixels from 0 to 1, and labels (n,) from 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


def load_split(seed: int) -> tuple[Digits, Digits]:
    """Return a training and a test set with the classes in the same proportions."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )
    return Digits(train_images, train_labels), Digits(test_images, test_labels)


def batches(digits: Digits, size: int, rng: np.random.Generator) -> Iterator[Digits]:
    """Yield full batches in random order; the few images left over wait for the next epoch."""
    order = rng.permutation(len(digits.labels))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield Digits(digits.images[chosen], digits.labels[chosen])
