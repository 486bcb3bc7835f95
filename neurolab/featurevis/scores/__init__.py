"""Scores of feature visualizations: a measured claim beside every picture."""

from neurolab.featurevis.scores.heldout import HELD_OUT
from neurolab.featurevis.scores.scoring import score, score_atlas

__all__ = ["HELD_OUT", "score", "score_atlas"]
