from __future__ import annotations

import torch

from neurolab.training.augment import augment


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_words_are_never_mirrored() -> None:
    images = torch.zeros(64, 32, 32, 3, dtype=torch.uint8)
    images[:, :, 16:] = 255  # dark left, bright right
    views = augment(images, 32, torch.arange(64) < 32, seeded())
    mirrored = views[..., :8].mean(dim=(1, 2, 3)) > views[..., -8:].mean(dim=(1, 2, 3))
    assert mirrored[:32].any() and not mirrored[:32].all()
    assert not mirrored[32:].any()


def test_views_are_seeded_and_differ_within_a_batch() -> None:
    image = torch.randint(0, 256, (1, 48, 48, 3), generator=seeded(), dtype=torch.uint8).expand(4, -1, -1, -1)
    first, again = (augment(image, 32, torch.ones(4, dtype=torch.bool), seeded(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])
    assert first.shape == (4, 3, 32, 32) and first.min() >= 0 and first.max() <= 1


def test_a_share_of_a_batch_gets_the_views_of_the_whole() -> None:
    images = torch.randint(0, 256, (8, 32, 32, 3), generator=seeded(), dtype=torch.uint8)
    mirrored = torch.ones(8, dtype=torch.bool)
    whole = augment(images, 24, mirrored, seeded(1))
    own = slice(4, 8)
    assert torch.equal(augment(images[own], 24, mirrored, seeded(1), own=own), whole[own])


def test_no_crop_is_smaller_than_the_least() -> None:
    """On a ramp from left to right, the span of a view is the share of the side that it shows."""
    ramp = torch.linspace(60, 190, 64).to(torch.uint8)[None, None, :, None].expand(256, 64, 64, 3)
    views = augment(ramp, 64, torch.zeros(256, dtype=torch.bool), seeded(), least=0.5)
    # The contrast (0.8 to 1.2) is known from neither end, so it bounds the share from both sides.
    spans = (views[:, 0, 32].amax(dim=1) - views[:, 0, 32].amin(dim=1)) * 255 / 130
    assert spans.min() >= 0.8 * 0.5 - 0.03 and spans.max() <= 1.2 + 0.03
    assert spans.min() < 0.55 and spans.max() > 1.0
