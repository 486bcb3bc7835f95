"""Take from the text embeddings the spread that they have taken over from the photos."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from neurolab.training.dataset import Prepared
from neurolab.training.text_pairs import covariance_power, photo_mean


def whitening_map(data: Prepared, share: float) -> Tensor:
    """The linear map [D, D] that `whiten_texts` applies to rows."""
    photos = data.embeddings[data.mirrored]
    along = F.normalize(photo_mean(data), dim=0)
    # A text's part along the photos' mean is its bias towards every photo: it stays as it was fitted.
    kept = torch.outer(along, along)
    across = torch.eye(len(along)) - kept
    whiten = across @ covariance_power(photos, -share / 2) @ across
    length = (photos @ across).norm(dim=1).mean() / (photos @ whiten).norm(dim=1).mean()
    return kept + length * whiten


def whiten_texts(clip: CLIP, data: Prepared, share: float) -> None:
    """Whiten the text embeddings by the photos' covariance, in place: 0 leaves them, 1 does it wholly (ZCA).

    A text that was fitted to image embeddings has their spread: the few directions that all photos differ in
    most (people or none, indoors or out) outweigh what tells two things apart. But a text is used as the
    weights of a linear classifier, and the best ones are the difference of the class's mean from that of all
    photos after whitening (Fisher's discriminant). CLIP's own text embeddings spread more evenly than its
    image embeddings do. Their mean length across the photos' mean is kept, and so is all that lies along it;
    the map is linear and goes into the text projection.
    """
    if share == 0:
        return
    projection = clip.text_projection
    with torch.no_grad():
        projection.copy_(projection @ whitening_map(data, share).to(projection.device))
