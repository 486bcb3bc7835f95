"""neurolab score and neurolab sheet, from an atlas of the pocket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import neurolab
from neurolab.atlas import Atlas, open_atlas
from neurolab.cli import app
from neurolab.errors import AtlasError
from neurolab.featurevis.picture import Picture
from tests.conftest import make_clip
from tests.featurevis.test_scores import noise

runner = CliRunner()


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture(scope="module")
def atlas(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "atlas"
    model = neurolab.load_model("pocket")
    mined = neurolab.mine(model, image_folder, ["layer4.1"], out, k=10, workers=0, progress=False)
    kinds: tuple[dict[str, str], ...] = (
        {"kind": "fourier"},
        {"kind": "maco"},
        {"kind": "maco", "facet": "face"},
    )
    drawn = [noise(seed, 3 + seed, **about) for seed in range(2) for about in kinds]
    mined.add_pictures([Picture(p.name.replace("4.0", "4.1"), p.image, p.kind, p.facet) for p in drawn])
    return out


def test_scores_are_stored_and_told(atlas: Path, tmp_path: Path) -> None:
    found = json.loads(run("score", atlas, "--draws", 2, "--json", "--kind", "maco"))
    assert set(found) == {"maco", "maco · face", "white noise"}
    assert found["white noise"]["selectivity"]["units"] == 2
    without = json.loads(run("score", atlas, "--draws", 2, "--json", "--kind", "maco", "--no-noise"))
    assert set(without) == {"maco", "maco · face"} and without["maco"] == found["maco"]
    assert found["maco"]["selectivity"]["units"] == 2
    of_maco = found["maco"]["activation_percentile"]
    assert 0 <= of_maco["low"] <= of_maco["mean"] <= of_maco["high"] <= 100
    kept: Atlas = open_atlas(atlas)
    assert [bool(picture.scores) for picture in kept.pictures("layer4.1/3")] == [False, True, True]

    figure = tmp_path / "new" / "methods.png"
    table = run("score", atlas, "--draws", 2, "--figure", figure)
    for word in ("fourier (2)", "maco · face (2)", "white noise (2)", "selectivity", "similarity", "95 %"):
        assert word in table
    assert Image.open(figure).width > 1000
    assert all(picture.scores for picture in kept.pictures())


def test_another_model_judges(atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(name: str, **about: object) -> neurolab.Model:
        loaded.append((name, about["pretrained"], about["weights"]))
        return second if name == "RN50" else own

    own, second = (
        neurolab.load_model("pocket"),
        make_clip(1, layers=1, width=32, head_width=16, image_size=32),
    )
    monkeypatch.setattr("neurolab.models.zoo.load_model", load)
    weights = tmp_path / "second.safetensors"
    found = json.loads(
        run("score", atlas, "--draws", 1, "--json", "--second", "RN50", "--second-weights", weights)
    )
    assert "transfer" in found["maco"]
    assert loaded == [("pocket", None, None), ("RN50", None, weights)]


def test_a_sheet_is_drawn(atlas: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert str(out) in run("sheet", atlas, "--out", out, "--count", 2).replace("\n", "")
    narrow = tmp_path / "narrow.png"
    run("sheet", atlas, "--out", narrow, "--site", "layer4.1", "--kind", "fourier", "--exemplars", 1)
    assert Image.open(narrow).width < Image.open(out).width


def test_mistakes_are_told_before_any_work(
    atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("neurolab.models.zoo.load_model", lambda *_, **__: pytest.fail("it was loaded"))
        assert "should end in" in run("score", atlas, "--figure", tmp_path / "figure.bmp", code=2)
        assert "--second" in run("score", atlas, "--second-weights", tmp_path / "x", code=2)
        assert "should end in" in run("sheet", atlas, "--out", tmp_path / "sheet.svg", code=2)
    with pytest.raises(AtlasError, match="of the kinds vit"):
        run("score", atlas, "--kind", "vit")
    assert not list(tmp_path.iterdir())
