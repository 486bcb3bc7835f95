"""What test_distil starts in two processes: distil from the parts in a folder, say what each was shown."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator

from neurolab.training import distil
from neurolab.training.dataset import Batches, Prepared, Share, loader
from tests.training.conftest import TINY

shown: list[list[int]] = []


def watched(data: Prepared, batches: Batches, workers: int) -> Iterator[Share]:
    for share in loader(data, batches, workers):
        shown.append(share.indices[share.own].tolist())
        yield share


def main(folder: Path, run: Path) -> None:
    accelerator = Accelerator(cpu=True)
    data = Prepared([folder / "photos", folder / "words"])
    distil.loader = watched  # type: ignore[assignment]
    state = distil.Distillation(TINY, data, run, accelerator).train()
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if "running_" not in name:  # batch statistics are each process's own
            digest.update(value.numpy().tobytes())
    report = {"weights": digest.hexdigest(), "shown": shown}
    (run / f"{accelerator.process_index}-of-{accelerator.num_processes}").write_text(json.dumps(report))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
