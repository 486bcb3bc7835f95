"""What can go wrong, each error naming what was wrong, where, and what to do."""

from __future__ import annotations


class NeurolabError(Exception):
    """The base of every error that neurolab raises on purpose."""

    def __str__(self) -> str:
        # KeyError shows the repr of its message, which would garble a message of several lines.
        return str(self.args[0]) if self.args else ""


class UnknownModelError(NeurolabError, ValueError):
    """A model cannot be found, or its weights cannot be had."""


class UnknownSiteError(NeurolabError, KeyError):
    """A site or unit does not exist in the model or atlas."""


class DeviceError(NeurolabError, RuntimeError):
    """A device is unknown, or this machine does not have it."""


class MissingTextTowerError(NeurolabError, RuntimeError):
    """Text was given to a model that was loaded without a text tower."""


class BadImageError(NeurolabError, ValueError):
    """An image cannot be decoded; the message is the reason."""


class SourceError(NeurolabError, ValueError):
    """A source of images cannot be opened or read."""


class AtlasError(NeurolabError, ValueError):
    """An atlas is missing, incomplete, of another version, or made from something else."""


class TrainingError(NeurolabError, ValueError):
    """A training run cannot go on as asked."""


class FacetError(NeurolabError, ValueError):
    """A facet is unknown, damaged, or does not fit the model or the unit."""
