"""One thread for torch where bytes matter, and its number given back."""

from threading import Barrier, Thread

import torch

from gs_lift.threads import kernel_threads, torch_on_one_thread


def test_inside_torch_has_one_thread_and_kernels_as_many_as_before() -> None:
    before = torch.get_num_threads()
    with torch_on_one_thread():
        assert (torch.get_num_threads(), kernel_threads()) == (1, before)
        with torch_on_one_thread(kernels=3):
            assert kernel_threads() == 3
        assert kernel_threads() == before
    assert torch.get_num_threads() == before


def test_threads_that_overlap_get_their_numbers_back() -> None:
    before, barriers = torch.get_num_threads(), [Barrier(2) for _ in range(4)]
    after: dict[str, tuple[int, int]] = {}

    def first() -> None:
        with torch_on_one_thread():
            barriers[0].wait(10)
            barriers[1].wait(10)
        after["first"] = torch.get_num_threads(), kernel_threads()
        barriers[2].wait(10)

    def second() -> None:
        barriers[0].wait(10)
        with torch_on_one_thread():  # while the first one is inside
            barriers[1].wait(10)
            barriers[2].wait(10)
        after["second"] = torch.get_num_threads(), kernel_threads()

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert after == {"first": (before, before), "second": (before, before)}
    assert torch.get_num_threads() == before
