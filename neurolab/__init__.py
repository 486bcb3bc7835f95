"""neurolab: an interpretability lab for the neurons of vision-language models.

The four calls everybody learns::

    model = neurolab.load_model("pocket")
    with neurolab.capture(model, ["layer4.1"]) as acts:
        model.encode_image(images)                       # images: RGB in [0, 1], [batch, 3, height, width]
    pictures = neurolab.render(model, ["layer4.1/89", "layer4.1/177"])
    atlas = neurolab.mine(model, "demo", ["layer4.1"], out="atlas/")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurolab.atlas import Atlas as Atlas
    from neurolab.atlas import open_atlas as open_atlas
    from neurolab.data.sources import open_source as open_source
    from neurolab.featurevis.render import render as render
    from neurolab.mining.miner import mine as mine
    from neurolab.models.capture import capture as capture
    from neurolab.models.sites import find_site as find_site
    from neurolab.models.sites import list_sites as list_sites
    from neurolab.models.zoo import Model as Model
    from neurolab.models.zoo import load_model as load_model
    from neurolab.models.zoo import wrap_model as wrap_model

__version__ = "0.1.0"

# Loaded on first use, so that decode workers and `neurolab --help` do not wait for torch.
_HOMES = {
    "Atlas": "neurolab.atlas",
    "capture": "neurolab.models.capture",
    "find_site": "neurolab.models.sites",
    "list_sites": "neurolab.models.sites",
    "load_model": "neurolab.models.zoo",
    "mine": "neurolab.mining.miner",
    "Model": "neurolab.models.zoo",
    "open_atlas": "neurolab.atlas",
    "open_source": "neurolab.data.sources",
    "render": "neurolab.featurevis.render",
    "wrap_model": "neurolab.models.zoo",
}

__all__ = [
    "Atlas",
    "Model",
    "capture",
    "find_site",
    "list_sites",
    "load_model",
    "mine",
    "open_atlas",
    "open_source",
    "render",
    "wrap_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'neurolab' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
