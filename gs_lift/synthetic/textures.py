"""Textures: small periodic pictures, rich enough in corners for SIFT and too smooth to alias.

A texture is [T, T, 3] in 0..1, its values square roots of reflectance (near what an sRGB file holds).
A texel is about 1 % of an object's size, and nothing is finer than a few texels.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import ndimage

Picture = Float[np.ndarray, "T T 3"]
Field = Float[np.ndarray, "H W"]
Color = Float[np.ndarray, "3"]

BLUR_TEXELS = 0.9
"""Standard deviation of the last blur: at 256 pixels a texel of an object is a third to half a pixel."""


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """Smooth periodic noise in 0..1: random values on `cells`, joined by cubic splines."""
    values = rng.random(cells)
    rows = np.arange(shape[0]) * cells[0] / shape[0]
    columns = np.arange(shape[1]) * cells[1] / shape[1]
    where = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(values, where, order=3, mode="grid-wrap").clip(0, 1)


def cloud(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], octaves: int = 3
) -> Field:
    """Noise of several octaves, stretched to 0..1."""
    total = np.zeros(shape)
    for octave in range(octaves):
        finer = (min(cells[0] << octave, shape[0] // 2), min(cells[1] << octave, shape[1] // 2))
        total += 0.6**octave * noise(rng, shape, finer)
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def mix(low: Color, high: Color, share: Field) -> Float[np.ndarray, "H W 3"]:
    return low + (high - low) * share[..., None]


def coordinates(size: int) -> tuple[Field, Field]:
    """Rows and columns of the texels' centres, in 0..1."""
    axis = (np.arange(size) + 0.5) / size
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    return rows, columns


def random_color(rng: np.random.Generator, *, value: tuple[float, float] = (0.35, 0.95)) -> Color:
    hue, saturation = rng.random(), rng.choice([0.1, 0.4, 0.65]) + rng.uniform(0, 0.15)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, rng.uniform(*value)))


def contrast_pair(rng: np.random.Generator) -> tuple[Color, Color]:
    """Two colours that are told apart in grey as well."""
    dark, light = random_color(rng, value=(0.15, 0.55)), random_color(rng, value=(0.7, 1.0))
    if light.mean() - dark.mean() < 0.25:
        dark = dark * 0.5
    return (dark, light) if rng.random() < 0.5 else (light, dark)


def plain(rng: np.random.Generator, size: int) -> Picture:
    color = random_color(rng)
    return mix(color * 0.8, color, cloud(rng, (size, size), (4, 4)))


def mottled(rng: np.random.Generator, size: int) -> Picture:
    dark, light = contrast_pair(rng)
    return mix(dark, light, cloud(rng, (size, size), (5, 5), octaves=4))


def stripes(rng: np.random.Generator, size: int) -> Picture:
    rows, columns = coordinates(size)
    count, slant = int(rng.integers(4, 9)), int(rng.integers(0, 3))
    wave = np.sin(2 * np.pi * (count * rows + slant * columns))
    return mix(*contrast_pair(rng), (wave > rng.uniform(-0.4, 0.4)).astype(float))


def checks(rng: np.random.Generator, size: int) -> Picture:
    rows, columns = coordinates(size)
    count = 2 * int(rng.integers(2, 5))
    return mix(*contrast_pair(rng), (np.floor(rows * count) + np.floor(columns * count)) % 2)


def plaid(rng: np.random.Generator, size: int) -> Picture:
    rows, columns = coordinates(size)
    dark, light = contrast_pair(rng)
    broad, narrow = int(rng.integers(2, 5)), int(rng.integers(5, 8))
    bands = [(np.sin(2 * np.pi * axis * broad) > 0.2) * 0.35 for axis in (rows, columns)]
    lines = [(np.sin(2 * np.pi * axis * narrow) > 0.75) * 0.3 for axis in (rows, columns)]
    return mix(light, dark, np.minimum(sum(bands) + sum(lines), 1.0))


def dots(rng: np.random.Generator, size: int) -> Picture:
    rows, columns = coordinates(size)
    count = int(rng.integers(4, 7))
    shift = np.floor(rows * count) % 2 * 0.5 * (count % 2 == 0)
    radius = np.hypot((rows * count) % 1 - 0.5, (columns * count + shift) % 1 - 0.5)
    return mix(*contrast_pair(rng), (radius < rng.uniform(0.25, 0.38)).astype(float))


def zigzag(rng: np.random.Generator, size: int) -> Picture:
    rows, columns = coordinates(size)
    count = int(rng.integers(3, 6))
    wave = rows * count + 0.6 * np.abs((columns * count) % 1 - 0.5)
    return mix(*contrast_pair(rng), ((wave % 1) < 0.5).astype(float))


def wood(rng: np.random.Generator, size: int) -> Picture:
    grain = cloud(rng, (size, size), (3, 3)) * 4 + 3 * cloud(rng, (size, size), (12, 2), octaves=2)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * grain)
    light = np.array(
        colorsys.hsv_to_rgb(rng.uniform(0.05, 0.11), rng.uniform(0.4, 0.65), rng.uniform(0.6, 0.9))
    )
    return mix(light * rng.uniform(0.45, 0.65), light, rings)


def cells(rng: np.random.Generator, size: int) -> Picture:
    """Patches around random points, each of one of four colours."""
    count = int(rng.integers(14, 40))
    rows, columns = coordinates(size)
    points = rng.random((count, 2))
    across = np.abs(rows[..., None] - points[:, 0])
    along = np.abs(columns[..., None] - points[:, 1])
    nearest = np.argmin(np.minimum(across, 1 - across) ** 2 + np.minimum(along, 1 - along) ** 2, axis=-1)
    palette = np.stack([*contrast_pair(rng), *contrast_pair(rng)])
    return palette[rng.integers(0, 4, count)][nearest]


def label(rng: np.random.Generator, size: int) -> Picture:
    """A printed package: bands, a badge and lines of something like text."""
    dark, light = contrast_pair(rng)
    accent = random_color(rng)
    rows, columns = coordinates(size)
    picture = np.broadcast_to(light, (size, size, 3)).copy()
    picture[(rows < 0.16) | (rows > 0.88)] = dark
    for _ in range(2):
        middle, radius = rng.uniform(0.25, 0.75, 2), rng.uniform(0.11, 0.2)
        stretch = rng.uniform(0.7, 1.4)
        distance = np.hypot((rows - middle[0]) * stretch, columns - middle[1])
        picture[distance < radius] = accent
        picture[distance < 0.55 * radius] = dark if rng.random() < 0.5 else light
    for line in np.arange(0.24, 0.84, 0.095):
        letters = np.repeat(rng.random(size) < 0.6, 4)[:size]
        start, end = np.sort(rng.uniform(0.05, 0.95, 2))
        text = (np.abs(rows - line) < 0.022) & (columns > start) & (columns < end) & letters[None, :]
        picture[text] = dark
    return picture


PATTERNS: dict[str, Callable[[np.random.Generator, int], Picture]] = {
    "plain": plain,
    "mottled": mottled,
    "stripes": stripes,
    "checks": checks,
    "plaid": plaid,
    "dots": dots,
    "zigzag": zigzag,
    "wood": wood,
    "cells": cells,
    "label": label,
}


def object_textures(rng: np.random.Generator, size: int) -> Float[np.ndarray, "3 T T 3"]:
    """Textures of an object's body, second surface and accent: mostly a pattern, then calmer ones."""
    names = list(PATTERNS)
    weights = np.array([2, 2, 1, 1, 1, 1, 1, 2, 1.5, 3])
    body = PATTERNS[str(rng.choice(names, p=weights / weights.sum()))]
    second = PATTERNS[str(rng.choice(["plain", "mottled", "wood", "cells", "label"]))]
    return np.stack([_soiled(rng, paint(rng, size)) for paint in (body, second, plain)])


def _soiled(rng: np.random.Generator, picture: Picture) -> Picture:
    """The picture with faint stains, so that no two spots of it are alike, blurred against aliasing."""
    size = len(picture)
    stains = 0.82 + 0.18 * cloud(rng, (size, size), (6, 6))
    return ndimage.gaussian_filter(picture * stains[..., None], (BLUR_TEXELS, BLUR_TEXELS, 0), mode="wrap")


def planks(rng: np.random.Generator, size: int, metres: float) -> Picture:
    """A wooden floor; a board is 14 to 18 cm wide, with grain, knots and a dark gap."""
    boards = round(metres / rng.uniform(0.14, 0.18))
    rows, columns = coordinates(size)
    board = np.floor(rows * boards).astype(int)
    lengths = rng.uniform(0.9, 1.4)
    shifted = columns * metres / lengths + rng.random(boards)[board]
    piece = (board * 31 + np.floor(shifted).astype(int) * 17) % 101
    tone = rng.uniform(0.7, 1.0, 101)[piece]
    along, across = max(4, round(metres * 3)), max(8, round(metres * 22))
    grain = cloud(rng, (size, size), (across, along)) * 3.0 + rng.uniform(0, 5, 101)[piece]
    streak = 0.5 + 0.5 * np.sin(2 * np.pi * grain)
    blotch = cloud(rng, (size, size), (round(metres * 5), round(metres * 5)))
    light = np.array(
        colorsys.hsv_to_rgb(rng.uniform(0.05, 0.11), rng.uniform(0.25, 0.55), rng.uniform(0.75, 0.9))
    )
    picture = mix(light * 0.62, light, 0.65 * streak + 0.35 * blotch) * tone[..., None]
    gap_m = np.minimum((rows * boards) % 1, 1 - (rows * boards) % 1) * metres / boards
    end_m = np.minimum(shifted % 1, 1 - shifted % 1) * lengths
    picture[(gap_m < 0.006) | (end_m < 0.006)] *= 0.45
    return picture


def tiles(rng: np.random.Generator, size: int, metres: float) -> Picture:
    """A floor of veined stone tiles of 25 to 35 cm in two colours, with joints."""
    count = round(metres / rng.uniform(0.25, 0.35))
    rows, columns = coordinates(size)
    row, column = np.floor(rows * count).astype(int), np.floor(columns * count).astype(int)
    one, two = (
        random_color(rng, value=(0.75, 0.95)) * 0.35 + 0.5,
        random_color(rng, value=(0.4, 0.6)) * 0.5 + 0.2,
    )
    offset = rng.uniform(0, 1, (count, count))[row, column]
    veins = np.abs(np.sin(2 * np.pi * (2 * cloud(rng, (size, size), (round(metres * 6),) * 2, 4) + offset)))
    base = np.where(((row + column) % 2 == 0)[..., None], one, two)
    picture = base * (0.62 + 0.38 * veins[..., None]) * (0.85 + 0.15 * offset[..., None])
    joint_m = np.minimum.reduce(
        [np.minimum((axis * count) % 1, 1 - (axis * count) % 1) for axis in (rows, columns)]
    ) * (metres / count)
    picture[joint_m < 0.006] = 0.3
    return picture


def carpet(rng: np.random.Generator, size: int, metres: float) -> Picture:
    """A woven floor: diamonds and blossoms in four colours over mottled ground."""
    count = round(metres / rng.uniform(0.3, 0.45))
    rows, columns = coordinates(size)
    wobble = (cloud(rng, (size, size), (round(metres * 7),) * 2) - 0.5) * 0.25
    x, y = (columns * count + wobble) % 1 - 0.5, (rows * count + wobble) % 1 - 0.5
    diamond = np.abs(x) + np.abs(y)
    petals = np.hypot(x, y) + 0.06 * np.cos(6 * np.arctan2(y, x))
    light = random_color(rng, value=(0.7, 0.9)) * 0.45 + 0.35
    picture = mix(light * 0.6, light, cloud(rng, (size, size), (round(metres * 9),) * 2, 4))
    tint = rng.uniform(0.75, 1.0, (count, count, 3))[
        np.floor(rows * count).astype(int) % count, np.floor(columns * count).astype(int) % count
    ]
    picture[(diamond > 0.38) & (diamond < 0.46)] = random_color(rng)
    picture[petals < 0.2] = random_color(rng)
    picture[petals < 0.09] = light
    return picture * tint


FLOORS: dict[str, Callable[[np.random.Generator, int, float], Picture]] = {
    "planks": planks,
    "tiles": tiles,
    "carpet": carpet,
}


def bricks(rng: np.random.Generator, size: int, metres: float) -> Picture:
    """A wall of painted bricks of 24 x 9 cm."""
    courses, across = round(metres / 0.09), round(metres / 0.24)
    rows, columns = coordinates(size)
    course = np.floor(rows * courses).astype(int)
    shifted = columns * across + 0.5 * (course % 2)
    brick = (course * 131 + np.floor(shifted).astype(int) * 57) % 197
    tone = rng.uniform(0.68, 1.0, 197)[brick]
    rough = cloud(rng, (size, size), (round(metres * 10),) * 2, 4)
    picture = mix(*wall_shades(rng), rough) * tone[..., None]
    joint_m = np.minimum(
        np.minimum((rows * courses) % 1, 1 - (rows * courses) % 1) * metres / courses,
        np.minimum(shifted % 1, 1 - shifted % 1) * metres / across,
    )
    picture[joint_m < 0.007] = 0.72
    return picture


def wall_shades(rng: np.random.Generator) -> tuple[Color, Color]:
    """Two near shades of a wall's colour, the darker first."""
    color = random_color(rng, value=(0.75, 0.95)) * 0.3 + 0.58
    return color * 0.72, color


def plaster(rng: np.random.Generator, size: int, metres: float) -> Picture:
    """A rough wall with stains and a few prints hung on it."""
    picture = mix(*wall_shades(rng), cloud(rng, (size, size), (round(metres * 6),) * 2, 4))
    for _ in range(round(2 * metres)):
        width = round(size * rng.uniform(0.25, 0.55) / metres)
        height = round(size * rng.uniform(0.25, 0.5) / metres)
        top, left = rng.integers(0, size - height), rng.integers(0, size - width)
        print_ = PATTERNS[str(rng.choice(["label", "cells", "mottled", "plaid"]))](rng, max(width, height))
        picture[top : top + height, left : left + width] = 0.2
        frame = max(1, round(size * 0.02 / metres))
        picture[top + frame : top + height - frame, left + frame : left + width - frame] = print_[
            frame : height - frame, frame : width - frame
        ]
    return picture


def wallpaper(rng: np.random.Generator, size: int, metres: float) -> Picture:
    """A printed wall: stripes and rosettes over mottled ground."""
    count = round(metres / 0.3)
    rows, columns = coordinates(size)
    dark, light = wall_shades(rng)
    picture = mix(dark, light, cloud(rng, (size, size), (round(metres * 8),) * 2, 4))
    picture[(columns * count * 2) % 1 < 0.25] *= 0.85
    x, y = (columns * count) % 1 - 0.5, (rows * count + 0.5 * (np.floor(columns * count) % 2)) % 1 - 0.5
    petals = np.hypot(x, y) + 0.07 * np.cos(5 * np.arctan2(y, x) + 6 * noise(rng, (size, size), (9, 9)))
    picture[petals < 0.24] = random_color(rng)
    picture[petals < 0.1] = dark * 0.6
    return picture


WALLS: dict[str, Callable[[np.random.Generator, int, float], Picture]] = {
    "bricks": bricks,
    "plaster": plaster,
    "wallpaper": wallpaper,
}


def room_textures(rng: np.random.Generator, size: int, metres: float) -> list[Picture]:
    """The floor's and the four walls' textures, each over `metres` x `metres` with nothing repeated."""
    floor = FLOORS[str(rng.choice(list(FLOORS)))](rng, size, metres)
    paint = WALLS[str(rng.choice(list(WALLS)))]
    walls = [paint(rng, size // 2, metres) for _ in range(4)]
    stained = [floor, *walls]
    return [
        ndimage.gaussian_filter(
            picture * (0.75 + 0.25 * cloud(rng, picture.shape[:2], (round(metres * 3),) * 2))[..., None],
            (BLUR_TEXELS, BLUR_TEXELS, 0),
            mode="wrap",
        )
        for picture in stained
    ]
