"""The comparison of methods: what is averaged, what is drawn, and where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from neurolab.atlas.pictures import PictureRow
from neurolab.errors import AtlasError
from neurolab.figures.methods import PANELS, method_scores, methods_figure, panels_of, unit_scores
from neurolab.figures.saving import save_figure


def row(unit: int, kind: str, facet: str | None = None, seed: int = 0, **scores: float) -> PictureRow:
    return PictureRow(
        unit=f"layer4/{unit}", kind=kind, facet=facet, seed=seed, scores=scores, settings={},
        settings_hash="", file="", path=Path(), width=8, height=8, history=(),
    )  # fmt: skip


def several(count: int = 30) -> list[PictureRow]:
    rng = np.random.default_rng(0)
    kinds = [("fourier", None), ("maco", None), ("maco", "face")]
    return [
        row(
            unit, kind, facet, selectivity=rng.random(), over_natural_max=rng.normal(i, 1),
            activation_percentile=100 * rng.random(), path_similarity=rng.normal(),
        )
        for unit in range(count)
        for i, (kind, facet) in enumerate(kinds)
    ]  # fmt: skip


def test_a_unit_counts_once_however_many_seeds_it_has() -> None:
    rows = [row(1, "maco", seed=s, selectivity=1.0) for s in range(9)] + [row(2, "maco", selectivity=0.0)]
    assert unit_scores(rows) == {"maco": {"selectivity": {"layer4/1": 1.0, "layer4/2": 0.0}}}
    measure = method_scores(rows)["maco"]["selectivity"]
    assert (measure.value, measure.items) == (0.5, 2)
    assert np.mean([r.scores["selectivity"] for r in rows]) == 0.9  # what pictures would say


def test_a_facet_is_a_method_of_its_own_and_unscored_pictures_are_none() -> None:
    rows = [*several(4), row(9, "pixels"), row(0, "fourier", over_natural_max=5.0, seed=1)]
    assert list(unit_scores(rows)) == ["fourier", "maco", "maco · face"]


def test_intervals_cover_the_mean_and_narrow_with_the_units() -> None:
    few, many = (method_scores(several(count))["maco"]["over_natural_max"] for count in (10, 300))
    for measure in (few, many):
        assert measure.low < measure.value < measure.high  # type: ignore[operator]
    assert many.high - many.low < 0.4 * (few.high - few.low)  # type: ignore[operator]
    assert many.high - many.low == pytest.approx(2 * 1.96 / np.sqrt(300), rel=0.2)  # type: ignore[operator]


def panels(figure: Figure) -> dict[str, object]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_a_panel_for_each_score_shows_every_unit_the_mean_and_its_interval() -> None:
    rows = several()
    figure = methods_figure(rows)
    drawn = panels(figure)
    assert set(drawn) == {"Activation percentile", "Over natural maximum", "Selectivity", "Path similarity"}
    left, axes = drawn["Activation percentile"], drawn["Over natural maximum"]
    labels = [text.get_text() for text in left.get_yticklabels()]  # type: ignore[attr-defined]
    assert labels == ["fourier (30)", "maco (30)", "maco · face (30)"]
    for place, method in enumerate(("fourier", "maco", "maco · face")):
        dots = np.asarray(axes.collections[place].get_offsets())  # type: ignore[attr-defined]
        expected = unit_scores(rows)[method]["over_natural_max"]
        np.testing.assert_allclose(dots[:, 0], list(expected.values()))
        assert np.abs(dots[:, 1] - place).max() < 0.3  # a method's dots stay on its line
        measure = method_scores(rows)[method]["over_natural_max"]
        lines = [line.get_xydata().tolist() for line in axes.lines]  # type: ignore[attr-defined]
        assert [[measure.low, place], [measure.high, place]] in lines and [[measure.value, place]] in lines
    low, high = axes.get_ylim()  # type: ignore[attr-defined]
    assert low > high  # the first method on top


def test_another_networks_judgement_replaces_the_networks_own() -> None:
    both, own = {"transfer": 1, "self_transfer": 1}, {"self_transfer": 1}
    assert [p.score for p in panels_of({"maco": both})] == ["transfer"]
    assert [p.score for p in panels_of({"maco": own})] == ["self_transfer"]
    assert [p.score for p in panels_of({"maco": both, "cppn": own})] == ["transfer", "self_transfer"]


def test_references_are_named() -> None:
    drawn = panels(methods_figure(several()))
    for panel in PANELS:
        if panel.title in drawn:
            axes = drawn[panel.title]
            texts = [text.get_text() for text in axes.texts]  # type: ignore[attr-defined]
            assert {panel.meaning, *(name for _, name in panel.references)} <= set(texts)


def test_one_unit_and_missing_scores_can_be_drawn(tmp_path: Path) -> None:
    rows = [row(1, "fourier", selectivity=0.7), row(1, "maco", over_natural_max=1.5)]
    for ending in ("png", "svg", "pdf"):
        path = save_figure(methods_figure(rows), tmp_path / "new" / f"figure.{ending}")
        assert path.stat().st_size > 1000
    assert Image.open(tmp_path / "new" / "figure.png").width == 1800
    assert sorted(p.suffix for p in (tmp_path / "new").iterdir()) == [".pdf", ".png", ".svg"]


def test_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="neurolab score"):
        methods_figure([row(1, "fourier")])
    with pytest.raises(ValueError, match=r"figure\.txt should end in one of \.png"):
        save_figure(methods_figure(several(2)), tmp_path / "figure.txt")
    assert not list(tmp_path.iterdir())
