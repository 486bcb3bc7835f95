from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import neurolab
from neurolab.cli import app, main

runner = CliRunner()


def run(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_help_names_every_command_without_importing_torch() -> None:
    script = """
import runpy, sys
sys.argv = ["neurolab", "--help"]
try:
    runpy.run_module("neurolab", run_name="__main__")
except SystemExit:
    assert "torch" not in sys.modules
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for command in (
        "sites",
        "build",
        "plan",
        "info",
        "render",
        "spectrum",
        "facet",
        "score",
        "sheet",
        "explore",
        "train",
    ):
        assert command in output


def test_sites_of_the_pocket_and_of_an_architecture_without_weights() -> None:
    rows = json.loads(run("sites", "pocket", "--json"))
    by_short = {row["short"]: row for row in rows}
    assert by_short["layer4.1"]["name"] == "visual.layer4.1.act3:in"
    assert by_short["layer4.1"]["units"] == 1024
    assert any(row["short"] == "layer4.2" for row in json.loads(run("sites", "RN50", "--json")))


def test_a_build_its_summary_and_a_picture(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    build = (
        "build",
        "--source",
        image_folder,
        "--out",
        out,
        "--site",
        "layer4.1",
        "--top",
        "5",
        "--workers",
        "0",
    )
    run(*build)
    summary = json.loads(run("info", out, "--json"))
    assert summary["model"] == "pocket" and summary["images"] == 24 and summary["pictures"] == 0
    assert summary["units"] == 1024 and summary["exemplars"] == 5 * 1024
    assert len(summary["weights_hash"]) == len(summary["source_hash"]) == 64
    run(*build)  # what is built is not built again
    run("render", "pocket", "--atlas", out, "--count", "2", "--steps", "3")
    assert json.loads(run("info", out, "--json"))["pictures"] == 2
    run("render", "pocket", "layer4.1/3", "--steps", "2", "--out", tmp_path / "png")
    (picture,) = (tmp_path / "png").glob("*.png")
    assert Image.open(picture).mode == "RGB"


def test_a_spectrum_and_a_picture_with_it(image_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "spectrum.npz"
    assert "24 images" in run("spectrum", image_folder, "--out", file, "--side", "32")
    drawing = ("render", "pocket", "layer4.1/3", "--steps", "2", "--size", "48")
    run(*drawing, "--method", "maco", "--spectrum", file, "--out", tmp_path / "own")
    run(*drawing, "--method", "maco", "--out", tmp_path / "demo")
    own, demo = (next((tmp_path / name).glob("*.png")).read_bytes() for name in ("own", "demo"))
    assert own != demo


def test_a_facet_is_trained_and_drawn_with(image_folder: Path, tmp_path: Path) -> None:
    facet = tmp_path / "even.npz"
    sides = ["--positive", image_folder / "even", "--negative", image_folder / "odd"]
    trained = run("facet", "train", "even", *sides, "--site", "layer2.1", "--out", facet)
    assert "visual.layer2.1.act3:in" in trained
    assert "12 images of the theme, 12 others, 6 held out" in " ".join(trained.split())
    atlas = tmp_path / "atlas"
    run("build", "--source", image_folder, "--site", "layer4.1", "--out", atlas, "--workers", 0)
    draw = ["render", "pocket", "layer4.1/3", "--steps", 2, "--atlas", atlas]
    run(*draw, "--facet", facet, "--strength", 3)
    run(*draw)
    drawn = neurolab.open_atlas(atlas).pictures("layer4.1/3")
    assert {picture.facet for picture in drawn} == {"even", None}
    (themed,) = [picture for picture in drawn if picture.facet]
    assert "3 * even" in themed.settings["objective"]


def test_a_picture_in_a_lower_precision_is_another(tmp_path: Path) -> None:
    drawing = ("render", "pocket", "layer4.1/3", "--steps", "2", "--no-record")
    run(*drawing, "--out", tmp_path / "float32")
    run(*drawing, "--precision", "bfloat16", "--out", tmp_path / "bfloat16")
    full, half = (next((tmp_path / name).glob("*.png")).read_bytes() for name in ("float32", "bfloat16"))
    assert full != half


def test_pictures_have_files_settings_and_sizes_of_their_own(tmp_path: Path) -> None:
    drawing = ("render", "pocket", "layer4.1/3", "layer4.1/60", "--steps", 2, "--out", tmp_path)
    run(*drawing, "--size", "40x56", "--seed", 1, "--seed", 2)
    run(*drawing, "--method", "maco")
    run(*drawing, "--facet", "text", "--strength", 1, "--strength", 3, "--no-rectified")
    sizes = {
        path.name.removeprefix("visual.layer4.1.act3.in-"): Image.open(path).size
        for path in tmp_path.iterdir()
    }
    named = {"3.fourier.seed1.png": (56, 40), "60.fourier.seed2.png": (56, 40)}
    others = [f"{unit}.{kind}.png" for unit in (3, 60) for kind in ("maco", "fourier.text")]
    assert sizes == named | dict.fromkeys(others, (96, 96))


def test_a_unit_that_an_atlas_lacks_is_not_drawn_for_it(image_folder: Path, tmp_path: Path) -> None:
    atlas = tmp_path / "atlas"
    run("build", "--source", image_folder, "--site", "layer4.1", "--out", atlas, "--workers", 0)
    result = CliRunner().invoke(app, ["render", "pocket", "layer3.1/3", "--atlas", str(atlas)])
    assert result.exit_code and "layer3.1" in str(result.exception)
    assert not neurolab.open_atlas(atlas).pictures()


def test_a_transparent_picture_is_written(tmp_path: Path) -> None:
    run("render", "pocket", "layer4.1/3", "--steps", 2, "--alpha", "--out", tmp_path)
    (path,) = tmp_path.glob("*.png")
    assert Image.open(path).mode == "RGBA"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "oil"), "choose one of fourier, pixels, pyramid, cppn, maco, shared, vit"),
        (("--spectrum", "some.npz"), "only maco draws with a spectrum"),
        (("--precision", "float16"), "precision is one of float32, bfloat16, not 'float16'"),
        (("--size", "64x0"), "HEIGHTxWIDTH as \"200x300\", not '64x0'"),
        (("--seed", "1", "--seed", "2"), "2 times --seed for 1 units: give one, or one for each"),
        (("--steps", "0"), "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named(options: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["render", "pocket", "layer4.1/3", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_an_error_is_one_message_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["neurolab", "info", "no/such/atlas"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "no/such/atlas" in message and "Traceback" not in message


def test_what_is_not_asked_for_is_what_the_library_does() -> None:
    """The options say their defaults themselves: reading them from `mine` would import torch for --help."""
    signature = inspect.signature(neurolab.mine).parameters
    names = {"top": "k", "drawn": "bucket_images"}
    same = ("top", "bottom", "drawn", "coactivation", "reduction", "batch_size", "precision")
    for command in ("build", "plan"):
        options = {option.name: option for option in get_command(app).commands[command].params}  # type: ignore[attr-defined]
        for option in same:
            assert options[option].default == signature[names.get(option, option)].default, option


def test_what_is_built_can_be_planned(image_folder: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    build, plan = ({option.name for option in commands[name].params} for name in ("build", "plan"))
    assert build - plan == {"out", "ray", "actors", "checkpoint_seconds", "overwrite"}
    options = ["--unit", "layer4.1/3", "--unit", "layer4.1/60", "--limit", 12, "--threads", 1, "--workers", 0]
    found = json.loads(
        run("plan", "--source", image_folder, *options, "--concept", "a cat", "--concept", "words", "--json")
    )
    assert (found["sites"], found["units"], found["images"]) == (1, 2, 12)


WRONG = {
    "workers": (["--workers", "-1"], "workers is at least 0, not -1"),
    "threads": (["--threads", "-1"], "threads is at least 1, not -1"),
    "no threads": (["--threads", "0"], "threads is at least 1, not 0"),
    "device": (["--device", "foo"], "nothing can be computed on 'foo'"),
    "a device that is not there": (["--device", "cuda:77"], "nothing can be computed on 'cuda:77'"),
    "source": (["--source", "~nosuchuser/x"], "knows no home of ~nosuchuser"),
    "long source": (["--source", "x" * 300], "cannot be looked up: File name too long"),
    "long out": (["--out", "x" * 300], "cannot be looked up: File name too long; choose another folder"),
}


@pytest.mark.parametrize("command", ["build", "plan"])
@pytest.mark.parametrize("wrong, message", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    image_folder: Path,
    tmp_path: Path,
    command: str,
    wrong: list[str],
    message: str,
) -> None:
    if command == "plan" and "--out" in wrong:
        pytest.skip("a plan has no folder")
    given = [] if "--source" in wrong else ["--source", str(image_folder)]
    out = ["--out", str(tmp_path / "atlas")] if command == "build" and "--out" not in wrong else []
    monkeypatch.setattr(sys, "argv", ["neurolab", command, *given, *out, "--site", "layer4.1", *wrong])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = "".join(capsys.readouterr().err.split())
    assert "".join(message.split()) in said
    assert not (tmp_path / "atlas").exists()
