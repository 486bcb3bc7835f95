"""How much the benchmark of mining measures."""

from __future__ import annotations

from dataclasses import dataclass, field

from mining_atlas import Size
from mining_state import KEPT


@dataclass(frozen=True)
class Plan:
    """Sizes and repeats; the defaults are for a machine of two cores.

    resnet, vit: networks of `neurolab.load_model`; peer: of torchvision, as all engines take them. warm:
    images that a state has seen when what a batch costs later in a pass is timed. long_images: of the pass
    whose memory is compared with that of saving everything; many: of the one that must not need more memory
    than a small one. sites, site_repeats, units: of the table of costs.
    """

    resnet: str = "RN50"
    vit: str = "ViT-B-32"
    batch: int = 64
    batches: int = 2
    repeats: int = 2
    warm: int = 1088
    pipeline_images: int = 640
    pipeline_repeats: int = 1
    peer: str = "resnet50"
    peer_pixels: int = 224
    peer_images: int = 192
    peer_repeats: int = 2
    long_pixels: int = 32
    long_images: int = 8000
    many: int = 100_000
    k: int = KEPT.k
    sites: tuple[int, ...] = (1, 4, 12)
    site_repeats: int = 4
    units: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    pages: int = 300
    atlas: Size = field(default_factory=Size)


QUICK = Plan(
    vit="ViT-S-32-alt",
    batch=16,
    batches=1,
    repeats=1,
    warm=320,
    pipeline_images=32,
    pipeline_repeats=1,
    peer="resnet18",
    peer_images=160,
    peer_repeats=1,
    long_images=600,
    many=8000,
    site_repeats=1,
    units=(100, 1000, 10_000),
    pages=100,
)
