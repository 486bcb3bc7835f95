from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neurolab.data.sources import open_source
from neurolab.errors import AtlasError, SourceError
from neurolab.featurevis.colour import to_rgb
from neurolab.featurevis.spectrum import Spectrum, demo_spectrum, mean_spectrum, near_grey
from tests.featurevis.parametrizations.test_maco import small_spectrum


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_it_is_the_inverse_of_to_rgb_near_grey() -> None:
    numbers = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 100
    shown = to_rgb(numbers).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(near_grey(shown), numbers, atol=1e-4)


def test_it_is_the_mean_over_the_images(photos: Path) -> None:
    found = mean_spectrum(photos, side=16)
    images = [np.asarray(Image.open(path)) / 255 for path in sorted(photos.iterdir())]
    expected = np.mean([np.abs(np.fft.rfft2(near_grey(i[None])[0])) / 16 for i in images], axis=0)
    np.testing.assert_allclose(found.magnitude, expected, rtol=1e-5)
    assert (found.images, found.source) == (5, open_source(photos).content_hash())
    first = mean_spectrum(photos, side=16, limit=1)
    assert first.images == 1
    np.testing.assert_allclose(
        first.magnitude, np.abs(np.fft.rfft2(near_grey(images[0][None])[0])) / 16, rtol=1e-5
    )


def test_a_bad_image_drops_out(photos: Path) -> None:
    whole = mean_spectrum(photos, side=16)
    (photos / "9.png").write_bytes(b"no image")
    assert np.array_equal(mean_spectrum(photos, side=16).magnitude, whole.magnitude)


def test_a_source_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="no image of"):
        mean_spectrum(tmp_path)
    with pytest.raises(ValueError, match="at least 8"):
        mean_spectrum("demo", side=4)


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    spectrum = small_spectrum()
    again = Spectrum.load(spectrum.save(tmp_path / "new" / "spectrum.npz"))
    assert np.array_equal(again.magnitude, spectrum.magnitude)
    assert (again.images, again.source, again.digest) == (5, "made", spectrum.digest)
    with pytest.raises(AtlasError, match="missing"):
        Spectrum.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "arrays", [{"other": np.zeros(3)}, {"magnitude": np.zeros((3, 4, 4)), "images": 1, "source": ""}]
)
def test_a_file_of_something_else_is_an_error(tmp_path: Path, arrays: dict[str, object]) -> None:
    from neurolab.atlas.writing import write_npz

    write_npz(tmp_path / "file.npz", **{name: np.asarray(value) for name, value in arrays.items()})
    with pytest.raises(SourceError, match="no spectrum"):
        Spectrum.load(tmp_path / "file.npz")


@pytest.mark.parametrize("side", [16, 15])
def test_resampled_to_its_own_size_it_stays(side: int) -> None:
    spectrum = small_spectrum(side)
    np.testing.assert_allclose(spectrum.resampled((side, side)), spectrum.magnitude, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (32, 16), (24, 48)])
def test_a_wave_keeps_its_height(size: tuple[int, int]) -> None:
    """The waves along the longer side: so many cycles have the same density of energy in a larger picture."""
    spectrum, longer = small_spectrum(), max(size)
    found = spectrum.resampled(size).numpy()
    known = slice(0, min(8, longer // 2))
    own = found[:, known, 0] if size[0] == longer else found[:, 0, known]
    wanted = spectrum.magnitude[:, known, 0] if size[0] == longer else spectrum.magnitude[:, 0, known]
    np.testing.assert_allclose(own, wanted * longer / 16, rtol=1e-5)


def test_beyond_its_frequencies_it_goes_on_falling() -> None:
    """A spectrum of 1 / f stays one in a picture four times as large."""
    side = 64
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    f = np.maximum(np.hypot(rows, columns), 1 / side)
    found = Spectrum(np.stack([1 / f] * 3).astype(np.float32), 1, "made").resampled((256, 256))[0].numpy()
    f = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
    inner = f > 0.03
    slope, height = np.polyfit(np.log(f[inner]), np.log(found[inner]), 1)
    assert slope == pytest.approx(-1, abs=0.05) and height == pytest.approx(0, abs=0.15)


def test_plain_images_give_no_waves(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "white").save(tmp_path / "white.png")
    found = mean_spectrum(tmp_path, side=16).resampled((32, 32)).numpy()
    assert np.isfinite(found).all() and found[:, 0, 0].max() > 1
    np.testing.assert_allclose(found[:, 2:-2, 2:], 0, atol=1e-5)


def test_the_one_that_ships_is_that_of_the_demo_set() -> None:
    shipped = demo_spectrum()
    demo = open_source("demo")
    assert shipped.source == demo.content_hash() and shipped.images == len(demo)
    assert shipped.magnitude[:, 1, 1].min() > 10 * shipped.magnitude[:, 60, 60].max()
