"""Plain and softly graded backgrounds, and how well one colour can be told from another."""

from __future__ import annotations

from PIL import Image

Colour = tuple[int, int, int]
"""Red, green and blue, each 0 to 255."""

Background = Colour | tuple[Colour, Colour] | Image.Image
"""A colour, two colours (graded from top to bottom), or a picture (resized to fit)."""


def backdrop(size: tuple[int, int], background: Background) -> Image.Image:
    """A new RGB picture of `size` (height, width) that shows `background` only."""
    height, width = size
    if isinstance(background, Image.Image):
        return background.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    if len(background) == 3:
        return Image.new("RGB", (width, height), background)
    top, bottom = (Image.new("RGB", (width, height), colour) for colour in background)
    ramp = Image.linear_gradient("L").resize((width, height), Image.Resampling.BICUBIC)
    return Image.composite(bottom, top, ramp)


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, 0 (black) to 1 (white), by WCAG 2."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: Colour, second: Colour) -> float:
    """Contrast ratio of two colours by WCAG 2: 1 (the same) to 21 (black on white)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
