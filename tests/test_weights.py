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

    def test_compact_keeps_the_product_and_drops_gaussians_that_no_row_sees(self) -> None:
        weights, dense = random_weights(3, 4, 50, density=0.1)
        seen, local = weights.compact()
        assert torch.equal(seen, torch.nonzero(dense.sum(dim=0))[:, 0])
        features = torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        assert torch.equal(local.blend(features[seen]), weights.blend(features))

    def test_transposed_blend_of_what_is_seen_leaves_out_rows_of_zeros(self) -> None:
        weights, dense = random_weights(3, 4, 50, density=0.1)
        pixels = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        seen, received = weights.blend_transposed_seen(pixels)
        assert torch.equal(seen, torch.nonzero(dense.sum(dim=0))[:, 0])
        assert torch.equal(received, weights.blend_transposed(pixels)[seen])

    @pytest.mark.parametrize("count", [0, 5, 30])
    def test_split_gives_the_first_rows_and_the_others(self, count: int) -> None:
        weights, dense = random_weights(2, 30, 11)
        features = torch.eye(11, dtype=torch.float64)
        first, others = weights.split(count)
        assert torch.equal(first.blend(features), dense[:count])
        assert torch.equal(others.blend(features), dense[count:])

    def test_totals_are_the_sums_of_columns(self) -> None:
        weights, dense = random_weights(4, 30, 11)
        torch.testing.assert_close(weights.totals(), dense.sum(dim=0), atol=1e-12, rtol=0)

    def test_one_and_two_threads_give_the_same_bytes(self) -> None:
        weights, _ = random_weights(5, 300, 80)
        generator = torch.Generator().manual_seed(5)
        features, upstream = (torch.randn(n, 8, generator=generator) for n in (80, 300))
        threads = torch.get_num_threads()
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append((weights.blend(features), weights.blend_transposed(upstream)))
        torch.set_num_threads(threads)
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
