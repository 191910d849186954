"""Sparse blending weights: W @ E and its gradient, held to a dense matrix."""

import pytest
import torch

from gs_lift.rendering.weights import Weights


def random_weights(
    seed: int, pixels: int, columns: int, *, density: float = 0.2
) -> tuple[Weights, torch.Tensor]:
    """Random rows, some of them empty, and the same as a dense float64 matrix."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(pixels, columns, generator=generator)
    dense *= torch.rand(pixels, columns, generator=generator) < density
    dense[::7] = 0
    sparse = dense.to_sparse_csr()
    return Weights(
        sparse.crow_indices(), sparse.col_indices().to(torch.int32), sparse.values(), columns
    ), dense.double()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
class TestAgainstADenseMatrix:
    """Shapes on both sides of each specialised width."""

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 16, 24])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_blend_is_the_product_and_its_gradient_the_transposed_product(
        self, channels: int, seed: int
    ) -> None:
        weights, dense = random_weights(seed, 40, 23)
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(23, channels, generator=generator, dtype=torch.float64, requires_grad=True)
        upstream = torch.randn(40, channels, generator=generator, dtype=torch.float64)
        blended = weights.blend(features)
        blended.backward(upstream)
        torch.testing.assert_close(blended, dense @ features, atol=1e-12, rtol=0)
        torch.testing.assert_close(features.grad, dense.T @ upstream, atol=1e-12, rtol=0)

    def test_rows_come_in_the_order_asked_for_also_twice(self) -> None:
        weights, dense = random_weights(2, 30, 11)
        index = torch.tensor([29, 0, 3, 3, 17])
        features = torch.eye(11, dtype=torch.float64)
        assert torch.equal(weights.rows(index).blend(features), dense[index])

    def test_no_rows_blend_to_nothing(self) -> None:
        weights, _ = random_weights(2, 30, 11)
        none = weights.rows(torch.empty(0, dtype=torch.int64))
        assert none.blend(torch.ones(11, 3)).shape == (0, 3)
        assert torch.equal(none.blend_transposed(torch.ones(0, 3)), torch.zeros(11, 3))

    @pytest.mark.parametrize("channels", [3, 8])
    def test_picked_rows_blend_as_copied_ones_do(self, channels: int) -> None:
        weights, _ = random_weights(3, 30, 50)
        index = torch.tensor([29, 0, 3, 3, 17])
        features = torch.randn(50, channels, generator=torch.Generator().manual_seed(3))
        picked = weights.pick(index)
        assert len(picked) == 5
        assert torch.equal(picked.blend(features), weights.rows(index).blend(features))
        assert weights.pick(index[:0]).blend(features).shape == (0, channels)

    def test_what_picked_rows_see_are_the_only_columns_of_their_copy(self) -> None:
        weights, dense = random_weights(3, 30, 50)
        index = torch.tensor([29, 0, 3, 3])
        seen, rows = weights.pick(index).seen()
        assert torch.equal(seen, torch.nonzero((dense[index] != 0).any(dim=0))[:, 0])
        assert rows.columns == len(seen)
        assert torch.equal(rows.blend(torch.eye(len(seen), dtype=torch.float64)), dense[index][:, seen])

    def test_totals_are_the_sums_of_columns(self) -> None:
        weights, dense = random_weights(4, 30, 11)
        torch.testing.assert_close(weights.totals(), dense.sum(dim=0), atol=1e-12, rtol=0)

    def test_one_and_two_threads_give_the_same_bytes(self) -> None:
        weights, _ = random_weights(5, 3000, 200)
        features = torch.randn(200, 8, generator=torch.Generator().manual_seed(5))
        threads = torch.get_num_threads()
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(weights.blend(features))
        torch.set_num_threads(threads)
        assert torch.equal(*results)


class TestHalfPrecision:
    """11 significant bits down to 2^-14 = 6.1e-5; W's weights are 1e-3 or more."""

    def test_every_half_from_0_to_1_is_read_exactly(self) -> None:
        values = torch.arange(0x3C01, dtype=torch.int16).view(torch.float16)
        count = len(values)
        weights = Weights(
            torch.arange(count + 1), torch.arange(count, dtype=torch.int32), values, columns=count
        )
        assert values[-1] == 1
        assert values[1] == 2.0**-24
        assert torch.equal(weights.blend(torch.ones(count, 1))[:, 0], values.float())
        assert torch.equal(weights.blend(torch.ones(count, 1, dtype=torch.float64))[:, 0], values.double())

    def test_rounding_is_to_the_nearest_and_a_tie_goes_to_even(self) -> None:
        below, step = 0.5, 2.0**-11  # neighbours in 0.5..1 lie 2^-11 apart
        values = below + step * torch.tensor([0.25, 0.5, 0.75, 1.5])
        weights = Weights(torch.tensor([0, 4]), torch.arange(4, dtype=torch.int32), values, columns=4)
        assert torch.equal(weights.half().values.float(), below + step * torch.tensor([0.0, 0.0, 1.0, 2.0]))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_blend_is_off_by_2_to_the_minus_11_of_its_terms_at_most(self, seed: int) -> None:
        weights, _ = random_weights(seed, 400, 60)
        weights = Weights(weights.indptr, weights.indices, weights.values.clamp(min=1e-3), weights.columns)
        features = torch.randn(60, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        error = (weights.half().blend(features) - weights.blend(features)).abs()
        bound = 2.0**-11 * weights.blend(features.abs())
        assert (error <= bound).all()
        assert error.max() > 0

    def test_an_entry_takes_6_bytes_instead_of_8(self) -> None:
        weights, _ = random_weights(0, 40, 23)
        entries = len(weights.indices)
        assert weights.nbytes == 8 * 41 + 8 * entries
        assert weights.half().nbytes == 8 * 41 + 6 * entries
