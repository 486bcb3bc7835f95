"""Distil the teacher's image embeddings into the pocket's image tower."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from neurolab.atlas.writing import atomic_path
from neurolab.errors import TrainingError
from neurolab.training.augment import augment
from neurolab.training.dataset import Batches, Prepared, Share, loader
from neurolab.training.optimizer import learning_rate, optimizer_for
from neurolab.training.recipe import Recipe, Stage

log = logging.getLogger(__name__)

# OpenAI's normalization, which the teacher has and the student takes over.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Geometry:
    """Where the teacher's embeddings lie: mean [D], mean of each part [parts, D], whitening [D, D].

    CLIP's embeddings lie in a narrow cone, each kind of picture at a place of its own in it. After
    its part's mean is subtracted, an embedding says what tells its picture from others of the kind.
    """

    mean: Tensor
    part_means: Tensor
    whitening: Tensor

    @classmethod
    def of(cls, data: Prepared, floor: float) -> Geometry:
        """Of the prepared pictures; `floor`, times the mean variance, is added to each variance."""
        centred = (data.embeddings - data.part_means[data.part_of]).double()
        variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
        scale = (variance.clamp(min=0) + floor * variance.mean()) ** -0.5
        return cls(data.mean, data.part_means, ((axes * scale) @ axes.T).float())

    def to(self, device: torch.device) -> Geometry:
        return Geometry(self.mean.to(device), self.part_means.to(device), self.whitening.to(device))


def distillation_loss(
    student: Tensor,
    batch: Tensor,
    parts: Tensor,
    geometry: Geometry,
    weights: dict[str, float],
    *,
    temperature: float,
    own: slice = slice(None),
) -> Tensor:
    """Feature distillation in three geometries and affinity distillation, per image.

    student: [own, D], any norm; batch: [batch, D], the teacher's embeddings of the whole batch, unit norm, of
    which `own` are the student's; parts: [batch], the number of each picture's part; weights: of the terms.

    - raw: 1 - cosine of the embeddings as they are: keeps student and teacher in the same place;
    - centred: 1 - cosine after the part's mean is subtracted: CLIP's cosines are high for any two pictures,
      those of centred embeddings are not (Mu & Viswanath 2018 find the same of word vectors);
    - whitened: the same after whitening: a few directions (people, indoors, ...) hold most of the variance,
      and the many that tell a spoon from a fork hold little, which the cosine alone lets a student ignore;
    - affinity: InfoNCE over the batch with the teacher's whitened embeddings as keys: the student's
      affinities to other pictures are to be the teacher's (CLIP-KD's interactive contrastive learning, Yang
      et al. 2024).
    """
    student, teacher, centres = (
        F.normalize(student.float(), dim=-1),
        batch[own],
        geometry.part_means[parts[own]],
    )
    raw = 1 - (student * teacher).sum(dim=-1)
    centred = 1 - F.cosine_similarity(student - centres, teacher - centres)
    whitened = 1 - F.cosine_similarity(
        (student - centres) @ geometry.whitening, (teacher - centres) @ geometry.whitening
    )
    queries, keys = (F.normalize((x - geometry.mean) @ geometry.whitening, dim=-1) for x in (student, batch))
    target = torch.arange(len(batch), device=batch.device)[own]
    affinity = F.cross_entropy(queries @ keys.T / temperature, target)
    return (
        weights["raw"] * raw.mean()
        + weights["centred"] * centred.mean()
        + weights["whitened"] * whitened.mean()
        + weights["affinity"] * affinity
    )


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """The attention pool's positions [1 + s*s, width] for a side x side map; the mean token's stays."""
    old = math.isqrt(len(positions) - 1)
    grid = positions[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], grid.permute(0, 2, 3, 1).reshape(side * side, -1)])


def build_tower(recipe: Recipe, image_size: int) -> nn.Module:
    """open_clip's ModifiedResNet of the recipe for one image size."""
    from open_clip.modified_resnet import ModifiedResNet

    width = recipe.vision["width"]
    return ModifiedResNet(
        layers=recipe.vision["layers"],
        output_dim=recipe.embed_dim,
        heads=width * 32 // recipe.vision["head_width"],
        image_size=image_size,
        width=width,
    )


def at_size(weights: dict[str, Tensor], recipe: Recipe, size: int) -> nn.Module:
    """A tower of these weights for another image size: only the attention pool's positions differ."""
    tower = build_tower(recipe, size)
    key = "attnpool.positional_embedding"
    side = math.isqrt(len(tower.state_dict()[key]) - 1)
    tower.load_state_dict({**weights, key: resize_positions(weights[key], side)})
    return tower


class Epoch(NamedTuple):
    """One epoch of a run: its stage, the pictures that it shows, and where in which cycle its steps lie."""

    stage: Stage
    rows: Tensor
    first_step: int
    cycle_steps: int
    peak: float

    def settings(self) -> str:
        """What decides the epoch, with the data and the epochs before it."""
        stage = dataclasses.asdict(dataclasses.replace(self.stage, epochs=1, learning_rate=None))
        return json.dumps([stage, self.first_step, self.cycle_steps, self.peak], sort_keys=True)


def planned_epochs(recipe: Recipe, data: Prepared) -> list[Epoch]:
    """The epochs of all stages. Raises TrainingError where an epoch would not fill one batch."""
    cycles: list[list[tuple[Stage, Tensor, int]]] = []
    peaks: list[float] = []
    for stage in recipe.stages:
        rows = data.rows(stage.repeats)
        steps = len(rows) // recipe.batch_size
        if not steps:
            raise TrainingError(f"{len(rows)} images do not fill one batch of {recipe.batch_size}")
        if not cycles or stage.learning_rate is not None:
            cycles.append([])
            peaks.append(stage.learning_rate or recipe.learning_rate)
        cycles[-1] += [(stage, rows, steps)] * stage.epochs
    planned = []
    for cycle, peak in zip(cycles, peaks, strict=True):
        first, total = 0, sum(steps for _, _, steps in cycle)
        for stage, rows, steps in cycle:
            planned.append(Epoch(stage, rows, first, total, peak))
            first += steps
    return planned


class Distillation:
    """The run of an image tower: its state, and one epoch after the other.

    A checkpoint is written to the folder `run` after every epoch by atomic rename. The order of the images
    and their augmentation depend on the seed and the epoch alone, so a run that was stopped ends with the
    same weights (on the CPU to the bit; a GPU adds in no fixed order), and a run that has ended goes on where
    its recipe gets another stage with a learning rate of its own. Raises TrainingError where `run` holds a
    checkpoint of another image side of the recipe, of other epochs, of other data, or of another number of
    processes.
    """

    def __init__(
        self, recipe: Recipe, data: Prepared, run: Path, accelerator: Accelerator, workers: int = 0
    ) -> None:
        self.recipe, self.data, self.accelerator, self.workers = recipe, data, accelerator, workers
        self.checkpoint = run / "image-tower.pt"
        self.epochs = planned_epochs(recipe, data)
        self.origin: dict[str, str | int | list[str]] = {
            "recipe": recipe.image_side(),
            "parts": ",".join(data.names),
            "embeddings": data.digest(),
            # Batch statistics are each process's own.
            "processes": accelerator.num_processes,
        }
        device = accelerator.device
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
        self.embeddings, self.part_of = data.embeddings.to(device), data.part_of.to(device)
        self.geometry = Geometry.of(data, recipe.whitening_floor).to(device)
        torch.manual_seed(recipe.seed)
        self._take(build_tower(recipe, recipe.stages[0].image_size), recipe.stages[0].image_size)

    def train(self) -> dict[str, Tensor]:
        """Run the epochs that are left; the tower's state dict, on the CPU."""
        for number in range(self._resume(), len(self.epochs)):
            size = self.epochs[number].stage.image_size
            if self.size != size:
                self._take(at_size(self._weights(), self.recipe, size), size)
            self._epoch(number)
            self._save(number)
        return {name: value.cpu() for name, value in self._weights().items()}

    def made_of(self, epochs: int) -> dict[str, str | int | list[str]]:
        """What decides the weights after so many epochs."""
        return {**self.origin, "epochs": [epoch.settings() for epoch in self.epochs[:epochs]]}

    def _take(self, tower: nn.Module, size: int) -> None:
        """Go on with this tower, channels last (1.4 times as fast on the CPU), and a new optimizer."""
        tower = tower.to(self.accelerator.device).to(memory_format=torch.channels_last)
        self.size = size
        self.accelerator.free_memory()  # it would keep the tower of the size before
        optimizer = optimizer_for(tower, self.recipe.weight_decay)
        self.tower, self.optimizer = self.accelerator.prepare(tower, optimizer)

    def _weights(self) -> dict[str, Tensor]:
        return self.accelerator.unwrap_model(self.tower).state_dict()

    def _resume(self) -> int:
        """Take up the checkpoint, if there is one; the first epoch that is still to be run."""
        if not self.checkpoint.is_file():
            return 0
        state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        expected = self.made_of(state["epoch"] + 1)
        if changed := [key for key, value in expected.items() if state["made_of"].get(key) != value]:
            raise TrainingError(
                f"{self.checkpoint} belongs to another run (what differs: {', '.join(changed)}): go on with "
                "what it was made of, or choose another folder"
            )
        size = self.epochs[state["epoch"]].stage.image_size
        tower = build_tower(self.recipe, size)
        tower.load_state_dict(state["tower"])
        self._take(tower, size)
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["epoch"]) + 1

    def _save(self, epoch: int) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state = {"tower": self._weights(), "optimizer": self.optimizer.state_dict()}
            with atomic_path(self.checkpoint) as path:
                torch.save({**state, "epoch": epoch, "made_of": self.made_of(epoch + 1)}, path)

    def _epoch(self, number: int) -> None:
        recipe, accelerator, epoch = self.recipe, self.accelerator, self.epochs[number]
        seed = recipe.seed * 1000 + number
        generator = torch.Generator().manual_seed(seed)
        batches = Batches(
            epoch.rows, recipe.batch_size, seed, accelerator.process_index, accelerator.num_processes
        )
        weights = {**recipe.loss_weights, **epoch.stage.loss_weights}
        began, losses = time.perf_counter(), []
        self.tower.train()
        for step, share in enumerate(loader(self.data, batches, self.workers), epoch.first_step):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(step, epoch.cycle_steps, epoch.peak)
            losses.append(self._step(share, generator, weights))
            if len(losses) % 50 == 0:
                rate = len(losses) * recipe.batch_size / (time.perf_counter() - began)
                recent = float(torch.stack(losses[-50:]).mean())
                report = "epoch %d of %d, %d px, step %d of %d, loss %.4f, %.0f images/s"
                log.info(
                    report, number + 1, len(self.epochs), self.size, len(losses), len(batches), recent, rate
                )

    def _step(self, share: Share, generator: torch.Generator, weights: dict[str, float]) -> Tensor:
        device, indices = self.accelerator.device, share.indices
        mirrored = self.data.mirrored[indices]
        images = share.images.to(device, non_blocking=True)
        views = augment(images, self.size, mirrored, generator, least=self.recipe.least_crop, own=share.own)
        views = ((views - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        embedded = self.tower(views)
        rows = indices.to(device)
        loss = distillation_loss(
            embedded,
            self.embeddings[rows],
            self.part_of[rows],
            self.geometry,
            weights,
            temperature=self.recipe.affinity_temperature,
            own=share.own,
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.optimizer.step()
        return loss.detach()
