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


def test_two_threads_that_overlap_give_the_number_back() -> None:
    before, first_in, second_in, first_out = torch.get_num_threads(), Barrier(2), Barrier(2), Barrier(2)

    def first() -> None:
        with torch_on_one_thread():
            first_in.wait(10)
            second_in.wait(10)
        first_out.wait(10)

    def second() -> None:
        first_in.wait(10)
        with torch_on_one_thread():
            second_in.wait(10)
            first_out.wait(10)

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.get_num_threads() == before
