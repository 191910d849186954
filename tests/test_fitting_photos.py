"""Photos as targets: read once while memory lasts, shrunk by area with their cameras."""

import pytest
import torch

from gs_lift.errors import SceneError
from gs_lift.fitting.photos import Photos
from gs_lift.scene import Camera, View

CPU = torch.device("cpu")


class Counted:
    """A view's image function that counts its calls."""

    def __init__(self, image: torch.Tensor):
        self.image, self.calls = image, 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return self.image


def view_of(read: Counted) -> View:
    height, width = read.image.shape[:2]
    K = torch.tensor([[50.0, 0, 3], [0, 60, 2], [0, 0, 1]], dtype=torch.float64)
    return View("photo", Camera(K, torch.eye(4, dtype=torch.float64), width, height), image=read)


def test_eight_bit_photos_come_back_unchanged() -> None:
    image = torch.arange(256).float().reshape(8, 32, 1).repeat(1, 1, 3) / 255
    assert torch.equal(Photos((view_of(Counted(image)),), CPU).image(0), image)


@pytest.mark.parametrize(("memory", "calls"), [(4 * 6 * 3, 1), (4 * 6 * 3 - 1, 3)])
def test_a_photo_is_read_once_if_there_is_memory_for_it(memory: int, calls: int) -> None:
    read = Counted(torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0)))
    photos = Photos((view_of(read),), CPU, memory=memory)
    first = photos.image(0)
    assert torch.equal(photos.image(0), first)
    assert torch.equal(photos.image(0), first)
    assert read.calls == calls


def test_a_shrunk_photo_holds_means_of_blocks_and_its_camera_fits() -> None:
    image = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]]).float()[:, :, None].repeat(1, 1, 3)
    photos = Photos((view_of(Counted(image)),), CPU)
    torch.testing.assert_close(
        photos.image(0, shrink=2)[0, :, 0], torch.tensor([0.5, 0.25]), rtol=0, atol=0.51 / 255
    )
    camera = photos.camera(0, shrink=2)
    assert (camera.width, camera.height) == (2, 1)
    assert camera.K[:2].tolist() == [[25, 0, 1.5], [0, 30, 1]]


def test_odd_sizes_shrink_to_at_least_one_pixel() -> None:
    photos = Photos((view_of(Counted(torch.ones(1, 5, 3))),), CPU)
    assert photos.image(0, shrink=2).shape == (1, 2, 3)


def test_a_photo_with_nan_is_refused_by_name() -> None:
    with pytest.raises(SceneError, match="photo: its image has values that are not finite"):
        Photos((view_of(Counted(torch.full((2, 2, 3), torch.nan))),), CPU).image(0)


def test_the_next_photo_is_read_while_this_one_is_used() -> None:
    reads = [Counted(torch.full((2, 3, 3), shade)) for shade in (0.0, 1.0)]
    with Photos(tuple(view_of(read) for read in reads), CPU, memory=0) as photos:
        for _ in range(3):
            assert bool((photos.image(0, then=(1, 1)) == 0).all())
            assert bool((photos.image(1, then=(0, 1)) == 1).all())
    assert [read.calls for read in reads] in ([3, 3], [4, 3])  # the last one foretold may have begun


def test_small_photos_make_room_for_large_ones() -> None:
    reads = [Counted(torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(i))) for i in range(2)]
    photos = Photos(tuple(view_of(read) for read in reads), CPU, memory=2 * 4 * 6 * 3)
    for shrink in (2, 1, 1):
        for index in range(2):
            photos.image(index, shrink)
    assert [read.calls for read in reads] == [2, 2]
