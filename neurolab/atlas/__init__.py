"""The atlas: the folder that holds everything recorded of one model on one source."""

from neurolab.atlas.atlas import Atlas, open_atlas
from neurolab.atlas.builder import AtlasWriter

__all__ = ["Atlas", "AtlasWriter", "open_atlas"]
