"""Mining: speed and memory beside the bare network and peers, in one run (see README.md beside it).

python benchmarks/mining.py [--quick] [--threads N] [--json FILE] [--out TABLE.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mining_rows as rows
import torch
from mining_plan import QUICK, Plan
from mining_state import KEPT
from peers import version
from report import Row, as_json, table

PACKAGES = ("neurolab", "torch", "torchvision", "numpy", "zennit-crp", "semanticlens")


def measure(plan: Plan, folder: Path) -> Iterator[Row]:
    """All rows, each as soon as it is there."""
    yield from rows.beside_bare(plan)
    yield from rows.pipeline(plan, folder)
    yield from rows.peers(plan)
    yield from rows.long_pass(plan)
    yield rows.growth(plan, folder)
    yield from rows.queries(plan, folder)
    yield from rows.gpu()
    yield rows.device_memory()
    yield from rows.cost(plan)


def setting(plan: Plan, only_gpu: bool = False) -> dict[str, Any]:
    """What the numbers were measured on."""
    on_gpu = torch.cuda.is_available()
    return {
        **(rows.GPU_PLAN if only_gpu else asdict(plan)),
        "keeps": asdict(KEPT),
        "weights": "random, seeded",
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a look, with smaller networks and wide spreads")
    parser.add_argument("--gpu", action="store_true", help="only the rows that need a GPU")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--out", type=Path, help="where to write the table")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    plan, found = QUICK if given.quick else Plan(), []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows.gpu() if given.gpu else measure(plan, Path(folder)):
            found.append(row)
            print(f"{row.key:26} {row.value}  {row.note}", flush=True)
    settings = setting(plan, given.gpu)
    text = table(found, settings, "value")
    print(text)
    if given.json:
        given.json.write_text(json.dumps(as_json(found, settings), indent=2) + "\n")
    if given.out:
        given.out.write_text("# Mining beside the bare network and its peers\n\n" + text)


if __name__ == "__main__":
    main()
