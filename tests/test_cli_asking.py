"""neurolab query, units, similar and export say what the library says."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import neurolab
from neurolab.analysis.hits import Hit
from neurolab.analysis.holding import units_of_image
from neurolab.analysis.search import units_excited_by, units_like_text
from neurolab.analysis.similar import similar_units
from neurolab.atlas import Atlas
from neurolab.cli import app, main
from neurolab.mining.relevance import Text, rank_by_relevance
from neurolab.models.zoo import Model

runner = CliRunner()


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else " ".join(result.output.replace("│", " ").split())


def hits(found: list[Hit]) -> list[dict[str, Any]]:
    rows = ({name: value for name, value in asdict(hit).items() if value is not None} for hit in found)
    return json.loads(json.dumps([*rows]))


@pytest.fixture(scope="module")
def model() -> Model:
    return neurolab.load_model("pocket")


@pytest.fixture(scope="module")
def atlas(model: Model, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    out = tmp_path_factory.mktemp("asking") / "atlas"
    sites = ["layer4.1.act1", "layer4.1"]
    return neurolab.mine(model, image_folder, sites, out, k=5, workers=0, progress=False)


def test_help_names_the_commands() -> None:
    printed = run("--help")
    assert all(command in printed for command in ("query", "units", "similar", "export", "relevant"))


def test_query(atlas: Atlas, tmp_path: Path) -> None:
    sql = 'SELECT short, count(*) AS n, avg(max) AS "mean [of] max" FROM units GROUP BY short ORDER BY short'
    expected = atlas.sql(sql).to_pylist()
    assert json.loads(run("query", atlas.path, sql, "--json")) == expected
    table = run("query", atlas.path, sql)
    for text in (
        "layer4.1.act1",
        "mean [of] max",
        str(expected[0]["n"]),
        f"{expected[1]['mean [of] max']:.6g}",
    ):
        assert text in table
    file = tmp_path / "rows.csv"
    assert "2 rows" in run("query", atlas.path, sql, "--csv", file)
    with open(file, newline="", encoding="utf-8") as opened:
        rows = [*csv.DictReader(opened)]
    assert [(row["short"], int(row["n"])) for row in rows] == [(row["short"], row["n"]) for row in expected]
    run("query", atlas.path, "SELECT key FROM images WHERE image = 999", "--csv", file)
    assert file.read_text() == '"key"\n'
    shown = run("query", atlas.path, "SELECT thumbnail, labels FROM images LIMIT 1")
    assert "bytes)" in shown and "even" in shown


def test_units_of_an_image(atlas: Atlas) -> None:
    key = atlas.image(3).key
    expected = hits(units_of_image(atlas, 3, top=5))
    assert len(expected) == 5 and expected[0]["rank"] >= 1
    for name in (key, "3"):
        assert json.loads(run("units", atlas.path, "--image", name, "--top", 5, "--json")) == expected
    table = run("units", atlas.path, "--image", key, "--top", 5)
    assert f"layer4.1{expected[0]['unit'].rpartition('/')[2]}" in table.replace("/", "").replace(".act1", "")
    assert "percentile" in table and "rank" in table


def test_units_by_a_picture_and_by_a_text(atlas: Atlas, model: Model, image_folder: Path) -> None:
    path = image_folder / atlas.image(3).key
    options = ("--site", "layer4.1", "--top", 4, "--json")
    with Image.open(path) as picture:
        expected = hits(units_excited_by(atlas, model, picture, site="layer4.1", top=4))
    found = json.loads(run("units", atlas.path, "--file", path, *options))
    assert [hit["unit"] for hit in found] == [hit["unit"] for hit in expected]
    assert found[0]["score"] == pytest.approx(expected[0]["score"], rel=1e-4)
    expected = hits(units_like_text(atlas, model, "a red square", site="layer4.1", top=4))
    found = json.loads(run("units", atlas.path, "--text", "a red square", *options))
    assert [hit["unit"] for hit in found] == [hit["unit"] for hit in expected]


def test_similar(atlas: Atlas, model: Model) -> None:
    unit = "layer4.1.act1/7"
    for by in ("exemplars", "sets", "embedding", "direction"):
        given = model if by == "direction" else None
        expected = hits(similar_units(atlas, unit, by, given, top=3))
        found = json.loads(run("similar", atlas.path, unit, "--by", by, "--top", 3, "--json"))
        assert [hit["unit"] for hit in found] == [hit["unit"] for hit in expected], by
        assert found[0]["score"] == pytest.approx(expected[0]["score"], rel=1e-5)
    table = run("similar", atlas.path, unit, "--site", "layer4.1", "--top", 1)
    (best,) = similar_units(atlas, unit, site="layer4.1", top=1)
    assert f"layer4.1/{best.unit.rpartition('/')[2]}" in table and f"{best.score:.6g}" in table


def test_export(atlas: Atlas, tmp_path: Path) -> None:
    printed = run("export", atlas.path, tmp_path / "csv", "--format", "csv", "--site", "layer4.1", "--top", 2)
    assert "exemplars.csv" in " ".join(printed.split())
    with open(tmp_path / "csv" / "exemplars.csv", newline="") as opened:
        assert sum(1 for _ in csv.DictReader(opened)) == 2 * 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("units",), "ask by one of --image, --file and --text"),
        (("units", "--image", "3", "--text", "a dog"), "ask by one of --image, --file and --text"),
        (("units", "--file", "no/such/file.png"), "does not exist"),
    ],
)
def test_wrong_options_are_named(atlas: Atlas, options: tuple[str, ...], message: str) -> None:
    assert message in run(options[0], atlas.path, *options[1:], code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("query", "SELEC '[/red]'"), "SELEC '[/red]'"),
        (("query", "DROP TABLE units"), "one SELECT at a time"),
        (("units", "--image", "no [key]"), "has the key 'no [key]'"),
        (("similar", "layer4.1/9999"), "units 0 to 1023"),
        (("similar", "layer4.1/3", "--by", "direction"), "no single layer writes"),
        (("export", "{atlas}"), "a new or an empty folder"),
    ],
)
def test_errors_are_messages(
    atlas: Atlas,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, *rest = (argument.format(atlas=atlas.path) for argument in arguments)
    monkeypatch.setattr(sys, "argv", ["neurolab", command, str(atlas.path), *rest])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    told = " ".join(capsys.readouterr().err.split())
    assert message in told and "error:" in told and "Traceback" not in told


def test_relevant(atlas: Atlas, model: Model, image_folder: Path) -> None:
    found = json.loads(run("relevant", atlas.path, "layer4.1/7", "--text", "a dog", "--top", 6, "--json"))
    ranking = rank_by_relevance(
        model, image_folder, "layer4.1", Text("a dog"), units=[7], k=6, progress=False
    ).exemplars(atlas, 7)
    assert [row["image"] for row in found] == [image.key for image in ranking]
    assert [row["relevance"] for row in found] == pytest.approx([image.value for image in ranking], rel=1e-4)
    strongest = [image.key for image in atlas.unit("layer4.1/7").exemplars]
    for row in found:
        place = row["exemplar"]
        assert row["image"] not in strongest if place is None else strongest[place - 1] == row["image"]
    assert any(row["exemplar"] is None for row in found)  # the atlas keeps 5
    table = run("relevant", atlas.path, "layer4.1/7", "--text", "a dog", "--top", 6, "--source", image_folder)
    assert found[0]["image"] in table and "exemplars" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "relevant to what"),
        (["--text", "a dog", "--logit", 0], "relevant to what"),
        (["--text", "a dog", "--method", "magic"], "one of gradient, integrated"),
    ],
)
def test_relevant_to_what_must_be_said(atlas: Atlas, options: list[object], message: str) -> None:
    assert message in run("relevant", atlas.path, "layer4.1/7", *options, code=2)


def test_relevant_asks_for_no_image_that_the_atlas_has_not(
    model: Model, image_folder: Path, tmp_path: Path
) -> None:
    """An atlas of the first images of a source, and one of several sources."""
    mined = {"sites": ["layer4.1"], "k": 5, "workers": 0, "progress": False}
    first = neurolab.mine(model, image_folder, out=tmp_path / "first", limit=7, **mined)  # type: ignore[arg-type]
    asked = ("layer4.1/7", "--text", "a dog", "--top", 24, "--json")
    found = json.loads(run("relevant", first.path, *asked))
    assert {row["image"] for row in found} == {first.image(number).key for number in range(7)}

    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes((image_folder / "odd" / "01.jpg").read_bytes())
    folders = [str(tmp_path / "one"), str(image_folder)]
    both = neurolab.mine(model, folders, out=tmp_path / "both", **mined)  # type: ignore[arg-type]
    assert "--source" in run("relevant", both.path, *asked, code=2)
    named = [option for folder in folders for option in ("--source", folder)]
    assert len(json.loads(run("relevant", both.path, *asked, *named))) == min(24, len(both))


ROOT = Path(__file__).parents[1]


def test_the_readme_asks_the_demo_atlas_what_it_can_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line under "Ask an atlas" runs as printed on what `make demo` builds, here of a few images."""
    monkeypatch.chdir(tmp_path)
    (build,) = re.findall(r"neurolab (build .*) --out \$\(ATLAS\)", (ROOT / "Makefile").read_text("utf-8"))
    run(*shlex.split(build), "--limit", 24, "--workers", 0, "--out", "atlas/demo")
    Image.new("RGB", (40, 30), "orange").save("cat.jpg")
    asking = (ROOT / "README.md").read_text("utf-8").split("## Ask an atlas")[1].split("```")[1]
    lines = [shlex.split(line, comments=True) for line in asking.splitlines()[1:]]
    commands = {name for _, name, *_ in lines}
    assert commands == {"units", "similar", "relevant", "query", "export", "check"}
    for _, *arguments in lines:
        assert run(*arguments), arguments
