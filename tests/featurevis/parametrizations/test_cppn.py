import numpy as np
import pytest
import torch

from neurolab.featurevis.parametrizations.cppn import CppnImage, composite, coordinates


@pytest.mark.parametrize("size", [(4, 4), (3, 6)])
def test_it_agrees_with_numpy(size: tuple[int, int]) -> None:
    """Pixel by pixel and picture by picture, with weights and biases other than those of the start."""
    image = CppnImage([1, 2], size, hidden=3, layers=3)
    with torch.no_grad():
        for number, parameter in enumerate(image.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    shown = image().detach().numpy()
    longer = max(size)
    for item in range(2):
        layers = [(w[item].detach().numpy(), b[item, 0].detach().numpy()) for w, b in
                  zip(image.weights, image.biases, strict=True)]  # fmt: skip
        for row in range(size[0]):
            for column in range(size[1]):
                x = (column - (size[1] - 1) / 2) / longer * 2 * np.sqrt(3)
                y = (row - (size[0] - 1) / 2) / longer * 2 * np.sqrt(3)
                values = np.array([x, y])
                for weight, bias in layers:
                    angles = np.arctan(values @ weight + bias)
                    values = np.concatenate([angles / 0.67, angles**2 / 0.6])
                last = values @ image.colour_weight[item].detach().numpy()
                expected = 1 / (1 + np.exp(-last - image.colour_bias[item, 0].detach().numpy()))
                np.testing.assert_allclose(shown[item, :, row, column], expected, atol=1e-5)


def test_coordinates_have_variance_1_in_a_large_square() -> None:
    places = coordinates((200, 200))
    torch.testing.assert_close(places.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(places.var(0), torch.ones(2), atol=1e-3, rtol=0)


def test_the_activation_keeps_the_size_of_its_input() -> None:
    values = composite(torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0)))
    assert values.shape == (100_000, 2)
    assert all(0.8 < float(half.square().mean()) < 1.3 for half in values.T)


def test_pictures_start_grey() -> None:
    assert torch.equal(CppnImage([0, 1], (8, 8))(), torch.full((2, 3, 8, 8), 0.5))


def test_it_needs_a_layer() -> None:
    with pytest.raises(ValueError, match="hidden units and layers"):
        CppnImage([0], (4, 4), layers=0)
