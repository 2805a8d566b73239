"""Grad-CAM against its definition, and against Captum."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from funcgrad import at, errors
from funcgrad.surgery.methods.class_activation import grad_cam
from tests.surgery.methods import networks
from tests.surgery.methods.networks import IMAGE, TARGET, logit

AXES = {"spatial": (-2, -1), "channel": -3}


def by_definition() -> np.ndarray:
    """Of the second convolution, rectified: relu(sum_k mean_ij(dy/dA_k) A_k)."""
    _, _, (w2, _), (w3, _) = networks.matrices()
    _, _, (a, z2), _ = networks.forward(IMAGE)
    ct = w2.T @ ((z2 > 0) * w3[TARGET])
    maps, cts = a.reshape(4, 3, 3), ct.reshape(4, 3, 3)
    return np.maximum(sum(cts[k].mean() * maps[k] for k in range(4)), 0)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_equals_the_definition(around):
    ours = around(grad_cam(around(logit), at("conv1"), **AXES))(IMAGE)
    expected = by_definition()
    assert expected.max() > 0
    np.testing.assert_allclose(ours[0], expected, rtol=1e-5, atol=1e-6)


def test_a_batch_by_vmap():
    images = np.stack([IMAGE, -IMAGE, 2 * IMAGE])
    explain = grad_cam(logit, at("conv1"), **AXES)
    np.testing.assert_allclose(
        jax.vmap(explain)(images), np.stack([explain(x) for x in images]), rtol=1e-5, atol=1e-6
    )


def test_a_flax_model_with_channels_last():
    nn = pytest.importorskip("flax.linen")

    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(3, (3, 3), name="maps")(x))
            return nn.Dense(2)(x.mean((-3, -2)))

    image = IMAGE.reshape(1, 6, 6, 1)
    model = CNN()
    params = model.init(jax.random.key(0), image)
    ours = grad_cam(lambda x: model.apply(params, x)[0, 1], at("maps"))(image)
    kernel, bias = (np.asarray(params["params"]["maps"][name]) for name in ("kernel", "bias"))
    padded = np.pad(image[0, :, :, 0], 1)
    maps = np.array([[np.einsum("ij,ijk->k", padded[i : i + 3, j : j + 3], kernel[:, :, 0]) + bias
                      for j in range(6)] for i in range(6)])  # fmt: skip
    # the mean of relu(A_k) has the derivative [A_k > 0] / 36
    weights = (maps > 0).mean((0, 1)) / 36 * np.asarray(params["params"]["Dense_0"]["kernel"])[:, 1]
    np.testing.assert_allclose(ours[0], np.maximum(maps @ weights, 0), rtol=1e-4, atol=1e-6)


def test_more_than_one_value_is_an_error():
    with pytest.raises(errors.SelectorError, match="selector means 2"):
        grad_cam(logit, at("conv*"), **AXES)(IMAGE)


@pytest.mark.filterwarnings("ignore")
def test_equals_captum():
    network = networks.torch_network()
    attr = pytest.importorskip("captum.attr", reason="Captum is not installed: funcgrad[peers]")
    explain = attr.LayerGradCam(network, network[3])
    theirs = explain.attribute(networks.torch_image(), target=TARGET, relu_attributions=True)
    ours = grad_cam(logit, at("conv1"), **AXES)(IMAGE)
    np.testing.assert_allclose(ours, theirs.detach().numpy()[0], rtol=1e-5, atol=1e-6)
