"""Everyday objects, with proportions that a generator draws."""

from collections.abc import Callable

import numpy as np

from gs_lift.synthetic.meshes import Mesh, arc, cuboid, join, moved, normalised, prism, revolved, tube


def box(rng: np.random.Generator) -> Mesh:
    return cuboid([1.0, rng.uniform(0.4, 0.9), rng.uniform(0.25, 0.8)], parts=(0, 0, 0, 0, 1, 1))


def rounded_box(rng: np.random.Generator) -> Mesh:
    return cuboid([1.0, rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.6)], radius=rng.uniform(0.06, 0.13))


def can(rng: np.random.Generator) -> Mesh:
    radius, rim = rng.uniform(0.28, 0.45), 0.04
    return revolved(
        (1, [(0, 0), (radius, 0)]),
        (2, [(radius, 0), (radius, rim)]),
        (0, [(radius, rim), (radius, 1 - rim)]),
        (2, [(radius, 1 - rim), (radius, 1), (radius - rim, 1)]),
        (1, [(radius - rim, 1), (radius - rim, 1 - rim), (0, 1 - rim)]),
    )


def cone(rng: np.random.Generator) -> Mesh:
    foot, tip = rng.uniform(0.3, 0.42), rng.uniform(0.04, 0.12)
    return revolved(
        (1, [(0, 0), (foot + 0.08, 0)]),
        (1, [(foot + 0.08, 0), (foot + 0.08, 0.07)]),
        (1, [(foot + 0.08, 0.07), (foot, 0.07)]),
        (0, [(foot, 0.07), (tip, 1)]),
        (2, [(tip, 1), (0, 1)]),
    )


def bowl(rng: np.random.Generator) -> Mesh:
    height, foot, wall = rng.uniform(0.32, 0.5), 0.2, 0.045
    outside = [(max(r, foot), height + z) for r, z in arc(0.5, height, -90, 0) if r > foot]
    inside = [(r, height + z) for r, z in arc(0.5 - wall, height - wall, 0, -90)]
    return revolved(
        (1, [(0, 0), (foot, 0)]),
        (0, [(foot, 0), *outside]),
        (2, [(0.5, height), (0.5 - wall, height)]),
        (1, inside),
    )


def plate(rng: np.random.Generator) -> Mesh:
    height = rng.uniform(0.08, 0.13)
    return revolved(
        (0, [(0, 0), (0.28, 0)]),
        (0, [(0.28, 0), (0.5, height - 0.02)]),
        (2, [(0.5, height - 0.02), (0.5, height)]),
        (1, [(0.5, height), (0.31, 0.035), (0.27, 0.03)]),
        (0, [(0.27, 0.03), (0, 0.03)]),
    )


def mug(rng: np.random.Generator) -> Mesh:
    radius, wall = rng.uniform(0.36, 0.44), 0.05
    cup = revolved(
        (1, [(0, 0), (radius, 0)]),
        (0, [(radius, 0), (radius, 1)]),
        (2, [(radius, 1), (radius - wall, 1)]),
        (1, [(radius - wall, 1), (radius - wall, wall)]),
        (1, [(radius - wall, wall), (0, wall)]),
    )
    reach = rng.uniform(0.24, 0.32)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 14)
    path = np.stack(
        [radius - wall / 2 + reach * np.cos(angle), 0 * angle, 0.5 + 0.27 * np.sin(angle)], axis=1
    )
    return join(cup, tube(path, 0.05, part=2))


def torus(rng: np.random.Generator) -> Mesh:
    thick = rng.uniform(0.11, 0.17)
    angle = np.linspace(-np.pi, np.pi, 25)
    ring = [(0.5 - thick + thick * np.cos(t), thick * np.sin(t)) for t in angle]
    return revolved((0, ring[:13]), (0, ring[12:]))


def book(rng: np.random.Generator) -> Mesh:
    width, thick, cover = rng.uniform(0.65, 0.8), rng.uniform(0.12, 0.24), 0.025
    board = [width, 1.0, cover]
    return join(
        moved(cuboid(board), [0, 0, (thick - cover) / 2]),
        moved(cuboid(board), [0, 0, (cover - thick) / 2]),
        moved(cuboid([cover, 1.0, thick - 2 * cover], parts=(2,) * 6), [(cover - width) / 2, 0, 0]),
        moved(
            cuboid([width - cover - 0.03, 0.95, thick - 2 * cover], parts=(1,) * 6), [cover / 2 - 0.015, 0, 0]
        ),
    )


def bottle(rng: np.random.Generator) -> Mesh:
    radius, shoulder, neck = rng.uniform(0.16, 0.22), rng.uniform(0.5, 0.62), rng.uniform(0.055, 0.08)
    slope = [
        (neck + (radius - neck) * (1 + np.cos(t)) / 2, shoulder + 0.22 * t / np.pi)
        for t in np.linspace(0, np.pi, 8)
    ]
    return revolved(
        (2, [(0, 0), (radius, 0)]),
        (2, [(radius, 0), (radius, 0.08)]),
        (0, [(radius, 0.08), (radius, shoulder - 0.04)]),
        (2, [(radius, shoulder - 0.04), *slope, (neck, 0.88)]),
        (1, [(neck, 0.88), (neck + 0.02, 0.88), (neck + 0.02, 1.0)]),
        (1, [(neck + 0.02, 1.0), (0, 1.0)]),
    )


def chair(rng: np.random.Generator) -> Mesh:
    side, seat, leg = rng.uniform(0.44, 0.54), rng.uniform(0.42, 0.5), 0.055
    feet = [
        moved(
            cuboid([leg, leg, seat], parts=(2,) * 6), [x * (side - leg) / 2, y * (side - leg) / 2, seat / 2]
        )
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    board = moved(cuboid([side, side, 0.06]), [0, 0, seat + 0.03])
    rest = moved(cuboid([side, 0.05, 0.94 - seat], parts=(1,) * 6), [0, (side - 0.05) / 2, (1.06 + seat) / 2])
    return join(*feet, board, rest)


def stool(rng: np.random.Generator) -> Mesh:
    radius, height, legs = rng.uniform(0.34, 0.44), rng.uniform(0.6, 0.8), int(rng.integers(3, 5))
    seat = revolved(
        (1, [(0, height), (radius, height)]),
        (2, [(radius, height), (radius, height + 0.08)]),
        (0, [(radius, height + 0.08), (0, height + 0.08)]),
    )
    feet = []
    for angle in np.arange(legs) * 2 * np.pi / legs:
        outward = np.array([np.cos(angle), np.sin(angle), 0])
        top, foot = 0.6 * radius * outward + [0, 0, height + 0.04], 0.9 * radius * outward
        path = foot + (top - foot) * np.linspace(0, 1, 16)[:, None]
        feet.append(tube(path, 0.045, part=2, corners=8))
    return join(seat, *feet)


def l_block(rng: np.random.Generator) -> Mesh:
    height, arm = rng.uniform(0.6, 0.9), rng.uniform(0.25, 0.35)
    outline = [(0, 0), (1, 0), (1, arm), (arm, arm), (arm, height), (0, height)]
    return prism(outline, rng.uniform(0.35, 0.6))


def u_block(rng: np.random.Generator) -> Mesh:
    height, arm = rng.uniform(0.5, 0.7), rng.uniform(0.2, 0.28)
    outline = [
        (0, 0), (1, 0), (1, height), (1 - arm, height), (1 - arm, arm), (arm, arm), (arm, height), (0,
        height),
    ]  # fmt: skip
    return prism(outline, rng.uniform(0.35, 0.6))


def ball(rng: np.random.Generator) -> Mesh:
    squash = rng.uniform(0.85, 1.0)
    return revolved((0, arc(0.5, 0.5 * squash, -90, 90, 25)))


def crate(rng: np.random.Generator) -> Mesh:
    """An open box."""
    width, height, wall = rng.uniform(0.6, 0.85), rng.uniform(0.35, 0.55), 0.05
    floor = moved(cuboid([1.0, width, wall], parts=(1,) * 6), [0, 0, wall / 2])
    long = [cuboid([1.0, wall, height - wall], parts=(0, 0, 0, 0, 2, 2))] * 2
    short = [cuboid([wall, width - 2 * wall, height - wall], parts=(0, 0, 0, 0, 2, 2))] * 2
    z = (height + wall) / 2
    walls = [moved(mesh, [0, y * (width - wall) / 2, z]) for mesh, y in zip(long, (-1, 1), strict=True)]
    walls += [moved(mesh, [x * (1 - wall) / 2, 0, z]) for mesh, x in zip(short, (-1, 1), strict=True)]
    return join(floor, *walls)


def pan(rng: np.random.Generator) -> Mesh:
    radius, height, wall = 0.32, rng.uniform(0.1, 0.16), 0.025
    body = revolved(
        (0, [(0, 0), (radius - 0.04, 0)]),
        (0, [(radius - 0.04, 0), (radius, height)]),
        (2, [(radius, height), (radius - wall, height)]),
        (1, [(radius - wall, height), (radius - wall - 0.03, wall)]),
        (1, [(radius - wall - 0.03, wall), (0, wall)]),
    )
    handle = cuboid([0.42, 0.07, 0.05], radius=0.02, parts=(2,) * 6)
    return join(body, moved(handle, [radius + 0.19, 0, height - 0.05]))


def table(rng: np.random.Generator) -> Mesh:
    width, height = rng.uniform(0.5, 0.64), rng.uniform(0.48, 0.56)
    top, leg, inset = 0.035, 0.05, 0.02
    board = moved(cuboid([1.0, width, top]), [0, 0, height - top / 2])
    post = cuboid([leg, leg, height - top], parts=(2,) * 6)
    corners = [
        (x * (0.5 - leg / 2 - inset), y * (width / 2 - leg / 2 - inset)) for x in (-1, 1) for y in (-1, 1)
    ]
    return join(board, *(moved(post, [x, y, (height - top) / 2]) for x, y in corners))


def bed(rng: np.random.Generator) -> Mesh:
    width, head, frame, mattress = rng.uniform(0.46, 0.8), rng.uniform(0.38, 0.48), 0.13, 0.12
    base = moved(cuboid([1.0, width, frame], parts=(2,) * 6), [0, 0, frame / 2])
    soft = moved(cuboid([0.95, width - 0.03, mattress], radius=0.04), [0.015, 0, frame + mattress / 2])
    board = moved(cuboid([0.03, width, head], parts=(2,) * 6), [-0.485, 0, head / 2])
    pillows = 2 if width > 0.62 else 1
    share = (width - 0.06) / pillows
    pillow = cuboid([0.2, share - 0.04, 0.07], radius=0.033, parts=(1,) * 6)
    places = [(index + 0.5) * share - (width - 0.06) / 2 for index in range(pillows)]
    return join(base, soft, board, *(moved(pillow, [-0.33, y, frame + mattress + 0.025]) for y in places))


def lamp(rng: np.random.Generator) -> Mesh:
    """A standing lamp: a foot, a pole and a shade."""
    foot, pole, wide, narrow = (
        rng.uniform(0.09, 0.12),
        0.014,
        rng.uniform(0.12, 0.15),
        rng.uniform(0.06, 0.11),
    )
    low = rng.uniform(0.76, 0.83)
    return revolved(
        (2, [(0, 0), (foot, 0)]),
        (2, [(foot, 0), (foot, 0.02)]),
        (2, [(foot, 0.02), (pole, 0.02)]),
        (1, [(pole, 0.02), (pole, low)]),
        (0, [(pole, low), (wide, low)]),
        (0, [(wide, low), (narrow, 1)]),
        (1, [(narrow, 1), (0, 1)]),
    )


def bag(rng: np.random.Generator) -> Mesh:
    """A soft bag with a handle."""
    thick, height, reach = rng.uniform(0.36, 0.5), rng.uniform(0.55, 0.7), rng.uniform(0.16, 0.24)
    body = moved(cuboid([1.0, thick, height], radius=0.12), [0, 0, height / 2])
    pocket = cuboid([0.6, 0.1, 0.5 * height], radius=0.045, parts=(1,) * 6)
    angle = np.linspace(0, np.pi, 14)
    arch = np.stack([reach * np.cos(angle), 0 * angle, height - 0.02 + 1.2 * reach * np.sin(angle)], axis=1)
    return join(body, moved(pocket, [0, thick / 2, 0.36 * height]), tube(arch, 0.035, part=2))


SHAPES: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "box": box,
    "rounded_box": rounded_box,
    "can": can,
    "cone": cone,
    "bowl": bowl,
    "plate": plate,
    "mug": mug,
    "torus": torus,
    "book": book,
    "bottle": bottle,
    "chair": chair,
    "stool": stool,
    "l_block": l_block,
    "u_block": u_block,
    "ball": ball,
    "crate": crate,
    "pan": pan,
}
"""What lies about, by name: a generator to its proportions."""


FURNITURE: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "chair": chair,
    "table": table,
    "bed": bed,
    "lamp": lamp,
    "bag": bag,
}
"""What stands in a furnished room."""


def make_shape(name: str, rng: np.random.Generator) -> Mesh:
    """One shape with proportions drawn from `rng`, centred and of size 1."""
    return normalised((SHAPES | FURNITURE)[name](rng))
