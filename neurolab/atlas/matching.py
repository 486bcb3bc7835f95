"""Whether an atlas and a model belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolab.atlas.atlas import Atlas
from neurolab.errors import AtlasError

if TYPE_CHECKING:
    from neurolab.models.zoo import Model


def require_model(atlas: Atlas, model: Model) -> None:
    """AtlasError unless the atlas was made of this model: the weights are compared, not the names."""
    about = atlas.manifest["model"]
    if about["weights_hash"] != model.weights_hash:
        raise AtlasError(
            f"{atlas.path} was made of {about['name']} with the weights {about['weights_hash'][:12]}, not of "
            f"{model.name} with {model.weights_hash[:12]}; load the model that the atlas was made of"
        )
