"""ScanNet's 40 classes, reduced to 21 and void as Panoptic Lifting has them (scannet_reduced_things.csv)."""

from gs_lift.segmentation import Classes

_NAMES = (
    "void", "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "counter", "shelves",
    "curtain", "ceiling", "refridgerator", "television", "person", "toilet", "sink", "lamp", "bag", "otherprop",
)  # fmt: skip
_THINGS = (
    "bed", "chair", "sofa", "refridgerator", "television", "person", "toilet", "sink", "bag",
)  # fmt: skip

CLASSES = Classes(names=_NAMES, is_thing=tuple(name in _THINGS for name in _NAMES))
"""The reduced classes of ScanNet, spelt as in the original. No pixel is labelled void."""

NYU40 = {
    name: number
    for number, name in enumerate(
        (
            *(
                "wall",
                "floor",
                "cabinet",
                "bed",
                "chair",
                "sofa",
                "table",
                "door",
                "window",
                "bookshelf",
                "picture",
            ),
            *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat"),
            *(
                "clothes",
                "ceiling",
                "books",
                "refridgerator",
                "television",
                "paper",
                "towel",
                "shower curtain",
            ),
            *("box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
            *("otherstructure", "otherfurniture", "otherprop"),
        ),
        start=1,
    )
}
"""Number of each class in ScanNet's benchmark."""
