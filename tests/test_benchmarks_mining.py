"""The benchmark of mining runs, every engine finds what it should; how fast anything is, no test asserts."""

from __future__ import annotations

import importlib
import json
import math
import mmap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neurolab import open_source
from neurolab.data.loader import load_batches
from neurolab.mining.remembered import Kept
from neurolab.models.sites import list_sites
from neurolab.models.zoo import Model, wrap_model

FOLDER = Path(__file__).parents[1] / "benchmarks"
KEYS = {
    "bare_rate_fraction",
    "pipeline_efficiency",
    "semanticlens_rate_ratio",
    "crp_rate_ratio",
    "save_all_rate_ratio",
    "baseline_memory_ratio",
    "memory_growth",
    "unit_page_ms",
    "image_to_units_ms",
    "gpu_bare_rate_fraction",
    "twelve_sites_extra",
}


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The modules by name, with their folder on the path as it is when the script is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        names = ("mining", "mining_rows", "mining_peers", "mining_memory", "mining_child", "mining_atlas")
        yield {
            name: importlib.import_module(name)
            for name in (
                *names,
                "mining_pictures",
                "mining_speed",
                "mining_plan",
                "mining_state",
                "mining_traffic",
                "peers",
                "report",
            )
        }


@pytest.fixture(scope="module")
def small() -> Model:
    """Two layers of 6 and 20 units on pictures of 24 pixels; what they give is above 0, as after a ReLU."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.Conv2d(6, 20, 3, stride=2), nn.ReLU()]
    return wrap_model(nn.Sequential(*parts), image_size=24, name="small")


@pytest.fixture()
def plan(scripts: dict[str, ModuleType]) -> Any:
    quick = scripts["mining_plan"].QUICK
    size = scripts["mining_atlas"].Size(sites=2, units=9, images=40, k=5, bins=6, buckets=4, drawn=3)
    return replace(
        quick,
        batch=4,
        warm=10,
        pipeline_images=6,
        peer_images=160,
        k=4,
        units=(10, 30),
        pages=3,
        atlas=size,
        sites=(1, 12),
    )


def brute_force(task: Any) -> dict[str, tuple[np.ndarray, list[set[int]]]]:
    """For each layer the k largest values [units, k], and which pictures reach the smallest of them."""
    images = torch.stack([image for image, _ in task.pictures])
    found = {}
    for number, layer in enumerate(task.layers):
        with torch.no_grad():
            maps = task.network[: 2 * (number + 1)](images)
        values = maps.numpy().max(axis=(2, 3)).T
        best = -np.sort(-values, axis=1)[:, : task.k]
        found[layer] = (
            best,
            [set(np.flatnonzero(of >= least)) for of, least in zip(values, best[:, -1], strict=True)],
        )
    return found


@pytest.mark.parametrize("engine", ["ours", "semanticlens", "crp", "crp_run", "save_all"])
def test_every_engine_finds_the_strongest_images(
    scripts: dict[str, ModuleType], small: Model, engine: str
) -> None:
    peers = scripts["mining_peers"]
    if why := peers.missing(peers.PEERS.get(engine, (None, ""))[1]):
        pytest.skip(why)
    torch.manual_seed(0)
    model = small
    if engine == "crp_run":  # takes the gradient of class 0, so there must be a vector of them
        model = wrap_model(nn.Sequential(*small.module, nn.Flatten(), nn.Linear(320, 2)), image_size=24)
    pictures = scripts["mining_pictures"].Pictures(model, 70, held=True)
    task = peers.Task(model, ("1", "3"), pictures, k=5, batch_size=16)
    wanted, found = brute_force(task), peers.ENGINES[engine](task)
    assert list(found) == list(task.layers)
    for layer, (values, images) in found.items():
        best, among = wanted[layer]
        # SemanticLens keeps values as bfloat16, of which neighbours may tie.
        tolerance = 2**-8 if engine == "semanticlens" else 1e-5
        np.testing.assert_allclose(values, best, rtol=tolerance, atol=1e-6)
        if engine != "semanticlens":
            for unit, numbers in enumerate(images):
                assert len(set(numbers)) == task.k and set(numbers) <= among[unit]
    assert not {"name"} & vars(model.module).keys() and not {"name"} & vars(pictures).keys()


def test_an_engine_is_timed_batch_by_batch(scripts: dict[str, ModuleType], small: Model) -> None:
    peers = scripts["mining_peers"]
    pictures = scripts["mining_pictures"].Pictures(small, 10, held=True)
    task = peers.Task(small, ("1",), pictures, k=2, batch_size=4)
    for engine in ("ours", "bare", "save_all"):
        task = replace(task, warm=7 if engine == "ours" else 0)
        seconds = peers.seconds_per_batch(peers.ENGINES[engine], task)
        assert len(seconds) == 3 and min(seconds) > 0
    assert not small.module._forward_pre_hooks and not small.module[1]._forward_hooks


def test_ours_keeps_what_mine_keeps(scripts: dict[str, ModuleType]) -> None:
    assert Kept(k=100, bins=64, bottom=9, buckets=16, bucket_images=16) == scripts["mining_state"].KEPT


def test_pictures_differ_and_cost_no_memory(scripts: dict[str, ModuleType], small: Model) -> None:
    pictures = scripts["mining_pictures"].Pictures(small, 3000, held=False)
    some = [*range(0, 3000, 7), 2999]
    assert len({pictures.pixels(number).tobytes() for number in some}) == len(some)
    batches = list(pictures.batches(1024))
    assert [(batch.start, batch.stop) for batch in batches] == [(0, 1024), (1024, 2048), (2048, 3000)]
    np.testing.assert_array_equal(batches[1].images[5], pictures.pixels(1029))
    tensor, label = pictures[1029]
    expected = small.normalize(torch.from_numpy(pictures.pixels(1029)).permute(2, 0, 1) / 255)
    assert torch.equal(tensor, expected) and label == 0
    with pytest.raises(ValueError, match="can be shifted to 36864, not 36865"):
        scripts["mining_pictures"].Pictures(small, 36865, held=False)


def test_shards_are_read_as_a_source(scripts: dict[str, ModuleType], small: Model, tmp_path: Path) -> None:
    write = scripts["mining_pictures"].write_shards
    folder = write(tmp_path / "shards", 70, (20, 30), per_shard=32, kind="PNG")
    source = open_source(f"{folder}/*.tar")
    assert [shard.size for shard in source.shards()] == [32, 32, 6]
    transform = scripts["mining_speed"].ImageTransform(small.image_size)
    items = [item for batch in load_batches(source, transform, batch_size=32) for item in batch.items]
    assert [(item.key, item.width, item.height) for item in items[63:65]] == [
        ("00001/00000063", 30, 20),
        ("00002/00000064", 30, 20),
    ]
    assert items[64].labels == {"label": "4"}


def test_a_state_is_warmed_with_values_that_spread_as_those_seen(scripts: dict[str, ModuleType]) -> None:
    made = scripts["mining_state"]
    site = made.Site("units", "units", "linear", 3, (), "vector")
    state = made.started([site], 4000, Kept(k=3, bucket_images=2))
    spread = np.array([[0, 10, -1], [2, 14, -1]], np.float32)
    made.warm_up(state, {"units": made.in_the_corner(spread)}, 4000)
    seen = state.sites["units"].statistics()
    assert state.images == 4000 and (seen["count"] == 4000).all()
    np.testing.assert_allclose(seen["mean"], [1, 12, -1], atol=0.15)
    np.testing.assert_allclose(seen["sd"], [1, 2, 0], atol=0.15)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_is_that_of_the_mining_alone(scripts: dict[str, ModuleType]) -> None:
    memory = scripts["mining_memory"]
    ballast = bytearray(b"x") * (64 << 20)

    def take(mb: int) -> None:
        # Of its own: what a process has freed and kept would be had again without asking for more.
        with mmap.mmap(-1, mb << 20) as pages:
            for start in range(0, len(pages), mmap.PAGESIZE):
                pages[start] = 1

    take(100)  # more than what is watched, but before
    used = memory.watched(lambda: take(40)).megabytes
    assert 39 < used < 60
    assert len(ballast) == 64 << 20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_child_measures_itself(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    folder = scripts["mining_pictures"].write_shards(tmp_path / "tiny", 9, (16, 16), per_shard=5, kind="PNG")
    found = scripts["mining_child"].run("mine_shards", pattern=f"{folder}/*.tar", k=3, threads=1)
    assert 1 < found["megabytes"] < 1000 and found["seconds"] > 0


def test_a_child_that_fails_is_an_error(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = scripts["mining_child"]
    monkeypatch.setattr(child.sys, "executable", "false")
    with pytest.raises(RuntimeError, match=r"write_index with .*'images': 5.* failed"):
        child.run("write_index", images=5, threads=1)


def test_a_page_holds_what_was_written(scripts: dict[str, ModuleType], plan: Any, tmp_path: Path) -> None:
    atlases = scripts["mining_atlas"]
    atlas = atlases.build(tmp_path / "atlas", plan.atlas)
    assert len(atlas.sites) == 2 and len(atlas) == 40
    unit, levels = atlases.open_page(atlas, "block1.mlp/7")
    assert len(unit.exemplars) == 5 and len(unit.histogram) == 6 and len(levels) == 4
    assert all(len(level.images) == 3 for level in levels)
    image = unit.exemplars[0].image
    hits = atlases.units_of_image(atlas, image, top=100)
    assert unit.name in {hit.unit for hit in hits}
    holds = sum(int((atlas.site(site).images == image).any(axis=1).sum()) for site in atlas.sites)
    assert len(hits) == holds


@pytest.fixture()
def short(
    scripts: dict[str, ModuleType], plan: Any, small: Model, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """Networks are small and children are none: what takes time is run here, what takes memory made up.

    Gives what children were asked for.
    """
    asked: list[dict[str, Any]] = []
    child, memory = scripts["mining_child"], scripts["mining_memory"]

    def use(megabytes: float) -> dict[str, float]:
        return {"megabytes": megabytes, "seconds": 10.0}

    def run(what: str, *, threads: int | None = None, **settings: Any) -> Any:
        asked.append({"what": what, **settings})
        if what == "mine_engine":
            return use(30.0 if settings["engine"] == "ours" else 120.0)
        if what == "mine_shards":
            return use(50.0 if len(list(Path(settings["pattern"]).parent.glob("*.tar"))) == 4 else 62.0)
        if what == "write_index":
            return use(20.0 if settings["images"] == 1000 else 30.0)
        return json.loads(json.dumps(child.CHILDREN[what](**settings)))

    sites = list_sites(small)
    for module in (child, scripts["mining_rows"]):
        monkeypatch.setattr(
            module, "list_sites", lambda model, pattern=None: sites[:1] * 12 if pattern else sites
        )
    monkeypatch.setattr(child, "run", run)
    monkeypatch.setattr(child, "load", lambda network, device="cpu": small)
    monkeypatch.setattr(child, "resnet", lambda name, pixels: small)
    monkeypatch.setattr(child, "blocks", lambda model: ("1", "3"))
    monkeypatch.setattr(memory, "missing", lambda: "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return asked


def test_every_row_is_there(
    scripts: dict[str, ModuleType], plan: Any, short: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    peers = scripts["mining_peers"]
    some = {key: peer for key, peer in peers.PEERS.items() if key != "crp_run"}  # which needs a vector
    monkeypatch.setattr(peers, "PEERS", some)
    rows = list(scripts["mining"].measure(plan, tmp_path))
    numbers = json.loads(json.dumps(scripts["report"].as_json(rows, scripts["mining"].setting(plan))))
    assert set(numbers) >= KEYS
    assert len({row.key for row in rows}) == len(rows)
    absent = {key for key in KEYS for package in ("semanticlens", "crp") if key.startswith(package)}
    absent = {key for key in absent if peers.missing(key.partition("_")[0])}
    for key in KEYS - absent - {"gpu_bare_rate_fraction"}:
        assert math.isfinite(numbers[key]), key
    for key in absent:
        assert numbers[key] is None
    assert numbers["gpu_bare_rate_fraction"] is None
    assert numbers["baseline_memory_ratio"] == 30 / 120
    assert numbers["memory_growth"] == (62 - (30 - 20)) / 50
    table = scripts["report"].table(rows, numbers["settings"], "value")
    assert table.count("not measured") == sum(row.value is None for row in rows)
    engines = [one["engine"] for one in short if one["what"] == "mine_engine"]
    assert engines[0] == "ours" and "save_all" in engines and engines.count("ours") == 1


def test_peers_that_are_missing_are_named(
    scripts: dict[str, ModuleType], plan: Any, short: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, rows = scripts["mining_peers"], scripts["mining_rows"]
    monkeypatch.setattr(peers, "is_installed", lambda package: False)
    found = {row.key: row for row in (*rows.peers(plan), *rows.long_pass(plan))}
    for key in ("rate", "memory", "long_rate"):
        assert (found[f"semanticlens_{key}_ratio"].value, found[f"crp_{key}_ratio"].value) == (None, None)
        assert found[f"semanticlens_{key}_ratio"].note == "semanticlens is not installed"
        assert found[f"crp_{key}_ratio"].note == "zennit-crp is not installed"
    assert found["crp_run_rate_ratio"].value is None
    assert found["save_all_rate_ratio"].value is not None


def test_memory_that_cannot_be_measured_is_named(
    scripts: dict[str, ModuleType], plan: Any, short: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = scripts["mining_rows"]
    monkeypatch.setattr(scripts["mining_memory"], "missing", lambda: "needs Linux's /proc")
    found = [*rows.long_pass(plan), rows.growth(plan, Path("nowhere"))]
    assert {(row.value, row.note) for row in found} == {(None, "needs Linux's /proc")}
    assert short == []


def test_a_share_of_the_rate_is_the_bare_time_over_ours(scripts: dict[str, ModuleType]) -> None:
    share, row = scripts["mining_rows"].share, scripts["report"].Row("key", "measure")
    seconds = {"bare": [8.0, 12.0], "bare_kept": [6.0, 6.0], "forward": [7.0, 7.0], "start": [5.0, 5.0]}
    times = {name: np.array(of) for name, of in (seconds | {"later": [1.0, 3.0]}).items()}
    for bare, when, expected in (
        ("bare", "later", 20 / 18),
        ("bare", "start", 20 / 24),
        ("bare_kept", "later", 12 / 18),
    ):
        found = share(row, times, bare, when, 18)
        assert found.value == pytest.approx(expected)
        assert found.ours / found.theirs == pytest.approx(expected)
        assert found.low <= found.value <= found.high
    once = {name: of[:1] for name, of in times.items()}
    assert share(row, once, "bare", "later", 18).low is None


def test_a_pass_on_a_gpu_is_timed_to_its_end(
    scripts: dict[str, ModuleType], small: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU the device's side of mining can be had, too."""
    speed = scripts["mining_speed"]
    monkeypatch.setattr(speed.Forward, "runs_ahead", True)
    monkeypatch.setattr(speed, "KEPT", replace(speed.KEPT, sample=10))
    batches = scripts["mining_child"].in_memory(small, 4, 6)
    began = time.perf_counter()
    seconds = speed.mined_ahead(small, list_sites(small), batches)
    assert len(seconds) == 6 and 0 < sum(seconds) < time.perf_counter() - began


def test_what_a_gpu_reaches_is_of_the_end_and_of_the_whole(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = scripts["mining_rows"]
    mined = [0.3] * (rows.GPU_BATCHES - rows.GPU_LAST) + [0.2] * rows.GPU_LAST
    found = {"mined": mined, "bare": [0.1] * rows.GPU_LAST}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(rows.child, "run", lambda what, **settings: {"float32": found, "bfloat16": found})
    values = {row.key: row.value for row in rows.gpu()}
    whole = 0.1 * rows.GPU_BATCHES / sum(mined)
    assert values["gpu_bare_rate_fraction"] == pytest.approx(0.5)
    assert values["gpu_bfloat16_whole_fraction"] == pytest.approx(whole)


def test_the_command_writes_both_files(
    scripts: dict[str, ModuleType], plan: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mining = scripts["mining"]
    monkeypatch.setattr(mining, "QUICK", plan)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    out = [str(tmp_path / name) for name in ("numbers.json", "table.md")]
    mining.main(["--quick", "--gpu", "--json", out[0], "--out", out[1]])
    assert torch.get_num_threads() == threads
    numbers = json.loads(Path(out[0]).read_text())
    assert numbers["gpu_bare_rate_fraction"] is None and numbers["settings"]["images"] == 50_176
    assert "| measure | goal | value |" in Path(out[1]).read_text()


def test_traffic_is_what_operations_read_and_write(scripts: dict[str, ModuleType]) -> None:
    a, b = torch.ones(10, 20), torch.ones(20)
    with scripts["mining_traffic"].Traffic() as traffic:
        a.T.view(20, 10)[:5]
    assert traffic.bytes == 0
    with scripts["mining_traffic"].Traffic() as traffic:
        a + b
        b.expand(10, 20) * 2.0
    assert traffic.bytes == 4 * ((200 + 20 + 200) + (20 + 200))
