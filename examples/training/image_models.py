"""A small GoogLeNet and a small ResNet, in flax linen.

Both compute in `dtype`. Their parameters and running statistics are float32.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

CLASSES = 10


class ConvolutionUnit(nn.Module):
    """A convolution without bias, and batch norm."""

    channels: int
    window: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Images (batch, height, width, channels) to images with `channels` channels."""
        window, stride = (self.window, self.window), (self.stride, self.stride)
        x = nn.Conv(self.channels, window, stride, use_bias=False, dtype=self.dtype)(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)


class Inception(nn.Module):
    """Four views of the images, stacked along the channels (C. Szegedy et al., CVPR 2015).

    `channels` are those that the 1x1, 3x3, 5x5 and pooled branches end with. As in the lecture's
    network, a 1x1 convolution before a large window halves them.
    """

    channels: tuple[int, int, int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Images (batch, height, width, channels) to images with the sum of the branches' channels."""

        def unit(channels: int, window: int, x: Array) -> Array:
            return nn.relu(ConvolutionUnit(channels, window, dtype=self.dtype)(x, train))

        one, three, five, pooled = self.channels
        return jnp.concatenate(
            [
                unit(one, 1, x),
                unit(three, 3, unit(three // 2, 1, x)),
                unit(five, 5, unit(five // 2, 1, x)),
                unit(pooled, 1, nn.max_pool(x, (3, 3), padding="SAME")),
            ],
            axis=-1,
        )


class GoogLeNet(nn.Module):
    """A convolution, inception blocks with a max-pool after each, dropout, and a linear layer."""

    blocks: tuple[tuple[int, int, int, int], ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Images (batch, height, width, 1) to logits (batch, 10), in float32."""
        x = nn.relu(ConvolutionUnit(sum(self.blocks[0]) // 2, 3, 2, self.dtype)(x, train))
        for channels in self.blocks:
            x = nn.max_pool(Inception(channels, self.dtype)(x, train), (2, 2), (2, 2))
        x = nn.Dropout(0.2, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(CLASSES)(x.astype(jnp.float32))


class ResNet(nn.Module):
    """Residual blocks of two convolutions (K. He et al., CVPR 2016); each width halves the images."""

    widths: tuple[int, ...]
    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Images (batch, height, width, 1) to logits (batch, 10), in float32."""

        def unit(channels: int, window: int, stride: int, x: Array) -> Array:
            return ConvolutionUnit(channels, window, stride, self.dtype)(x, train)

        x = nn.relu(unit(self.widths[0], 3, 2, x))
        for width in self.widths:
            for block in range(self.depth):
                stride = 2 if block == 0 and width != self.widths[0] else 1
                y = unit(width, 3, 1, nn.relu(unit(width, 3, stride, x)))
                x = nn.relu(y + (x if x.shape == y.shape else unit(width, 1, stride, x)))
        return nn.Dense(CLASSES)(x.mean((1, 2)).astype(jnp.float32))


def model_of(name: str, small: bool, dtype: Any) -> nn.Module:
    """The model of a name, "googlenet" or "resnet", in the size of the program or of a test."""
    if name == "googlenet":
        blocks = ((4, 4, 4, 4),) if small else ((16, 24, 8, 8), (24, 32, 12, 12))
        return GoogLeNet(blocks, dtype)
    return ResNet((4, 8), 1, dtype) if small else ResNet((16, 32, 64), 2, dtype)
