import numpy as np
import torch

from neurolab.featurevis.parametrizations.pixels import BoundedPixels, PixelImage
from tests.featurevis.test_colour import numpy_to_rgb


def test_pixels_agree_with_numpy() -> None:
    image = PixelImage([4], (3, 5), sd=1.0)
    np.testing.assert_allclose(image().detach(), numpy_to_rgb(image.pixels.detach().numpy()), atol=2e-5)


def test_bounded_pixels_are_moved_back_after_a_step() -> None:
    image = BoundedPixels([0, 1], (4, 4))
    inside = image.pixels.detach().clone()
    with torch.no_grad():
        image.pixels[0] += 2
        image.pixels[1] -= 2
    image.settle()
    assert torch.equal(image()[0], torch.ones(3, 4, 4)) and torch.equal(image()[1], torch.zeros(3, 4, 4))
    with torch.no_grad():
        image.pixels.copy_(inside)
    image.settle()
    assert torch.equal(image(), inside)
