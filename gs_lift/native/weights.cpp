// Sparse blending weights W (compressed rows: pixels x Gaussians): row selection, W @ E and W^T @ G.
//
// Every output element is summed by one thread in a fixed order: the same bytes for any number of threads.
#include <algorithm>
#include <vector>

#include "module.h"

namespace {

template <class T>
using Array1 = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Entries of the rows in `pick`, one row after the other; out_indptr is given and says where each starts.
void select_rows(Array1<const int64_t> indptr, Array1<const int32_t> indices, Array1<const float> values,
                 Array1<const int64_t> pick, Array1<const int64_t> out_indptr, Array1<int32_t> out_indices,
                 Array1<float> out_values) {
    const int64_t *start = indptr.data(), *rows = pick.data(), *out_start = out_indptr.data();
    for (size_t q = 0; q < pick.shape(0); ++q) {
        const int64_t first = start[rows[q]], count = start[rows[q] + 1] - first;
        std::copy_n(indices.data() + first, count, out_indices.data() + out_start[q]);
        std::copy_n(values.data() + first, count, out_values.data() + out_start[q]);
    }
}

// Renumber the columns that occur as 0, 1, ... in ascending order. Returns how many; `touched` gets their old ids.
int64_t compact_columns(Array1<const int32_t> indices, int64_t columns, Array1<int32_t> out_indices,
                        Array1<int64_t> touched) {
    std::vector<int32_t> local(columns, 0);
    const int64_t count = indices.shape(0);
    for (int64_t i = 0; i < count; ++i) local[indices.data()[i]] = 1;
    int32_t next = 0;
    for (int64_t c = 0; c < columns; ++c) {
        if (!local[c]) continue;
        touched.data()[next] = c;
        local[c] = next++;
    }
    for (int64_t i = 0; i < count; ++i) out_indices.data()[i] = local[indices.data()[i]];
    return next;
}

// out[c] += the values of column c, in entry order.
void add_totals(Array1<const int32_t> indices, Array1<const float> values, Array1<double> out) {
    nb::gil_scoped_release release;
    const int64_t count = indices.shape(0);
    for (int64_t e = 0; e < count; ++e) out.data()[indices.data()[e]] += values.data()[e];
}

// out[i] = sum over entries e of list of[i] (i itself without `of`) of weight[e] * source[id[e]].
// all_lists: how many `start` tells of. WIDTH 0: any number of channels.
template <class T, int WIDTH>
void sum_lists(const int64_t *start, const int64_t *of, const int32_t *ids, const float *weights, int64_t lists,
               int64_t all_lists, const T *source, int64_t channels, T *out, int threads) {
    const int64_t width = WIDTH ? WIDTH : channels;
    // Waking threads costs more than the sums of one step of lifting, and far more on a busy machine.
    const bool worth_it = (start[all_lists] - start[0]) * width > (1 << 22);
#pragma omp parallel for schedule(static) num_threads(threads) if (worth_it)
    for (int64_t i = 0; i < lists; ++i) {
        T local[WIDTH ? WIDTH : 1];  // in registers where the width is known, else in place
        T *sum = WIDTH ? local : out + i * width;
        const int64_t list = of ? of[i] : i;
        for (int64_t c = 0; c < width; ++c) sum[c] = 0;
        for (int64_t e = start[list]; e < start[list + 1]; ++e) {
            const T weight = weights[e], *row = source + ids[e] * width;
            for (int64_t c = 0; c < width; ++c) sum[c] += weight * row[c];
        }
        if (WIDTH) std::copy_n(sum, width, out + i * width);
    }
}

template <class T>
void weighted_sums(const int64_t *start, const int64_t *of, const int32_t *ids, const float *weights, int64_t lists,
                   int64_t all_lists, const T *source, int64_t channels, T *out, int threads) {
    auto *run = channels == 2    ? sum_lists<T, 2>
                : channels == 4  ? sum_lists<T, 4>
                : channels == 8  ? sum_lists<T, 8>
                : channels == 16 ? sum_lists<T, 16>
                                 : sum_lists<T, 0>;
    run(start, of, ids, weights, lists, all_lists, source, channels, out, threads);
}

// out [P D] = W @ features [N D].
template <class T>
void blend(Array1<const int64_t> indptr, Array1<const int32_t> indices, Array1<const float> values,
           Array2<const T> features, Array2<T> out, int threads) {
    nb::gil_scoped_release release;
    weighted_sums<T>(indptr.data(), nullptr, indices.data(), values.data(), out.shape(0), out.shape(0),
                     features.data(), features.shape(1), out.data(), threads);
}

// W with its entries in column order; stable, so the rows of a column ascend.
struct Columns {
    std::vector<int64_t> start;  // [columns + 1]
    std::vector<int32_t> rows;
    std::vector<float> weights;

    Columns(const int64_t *indptr, int64_t row_count, const int32_t *indices, const float *values, int64_t columns)
        : start(columns + 1, 0), rows(indptr[row_count]), weights(indptr[row_count]) {
        const int64_t count = indptr[row_count];
        for (int64_t e = 0; e < count; ++e) ++start[indices[e] + 1];
        for (int64_t c = 0; c < columns; ++c) start[c + 1] += start[c];
        std::vector<int64_t> next(start.begin(), start.end() - 1);
        for (int64_t row = 0; row < row_count; ++row) {
            for (int64_t e = indptr[row]; e < indptr[row + 1]; ++e) {
                const int64_t slot = next[indices[e]]++;
                rows[slot] = static_cast<int32_t>(row);
                weights[slot] = values[e];
            }
        }
    }
};

// out [N D] = W^T @ pixels [P D].
template <class T>
void blend_transposed(Array1<const int64_t> indptr, Array1<const int32_t> indices, Array1<const float> values,
                      Array2<const T> pixels, Array2<T> out, int threads) {
    nb::gil_scoped_release release;
    const Columns columns(indptr.data(), pixels.shape(0), indices.data(), values.data(), out.shape(0));
    weighted_sums<T>(columns.start.data(), nullptr, columns.rows.data(), columns.weights.data(), out.shape(0),
                     out.shape(0), pixels.data(), pixels.shape(1), out.data(), threads);
}

// The same for the columns that have entries only, ascending. Returns how many; their ids go to `seen`, and their
// sums to the first rows of `out`.
template <class T>
int64_t blend_transposed_seen(Array1<const int64_t> indptr, Array1<const int32_t> indices,
                              Array1<const float> values, int64_t column_count, Array2<const T> pixels,
                              Array1<int64_t> seen, Array2<T> out, int threads) {
    nb::gil_scoped_release release;
    const Columns columns(indptr.data(), pixels.shape(0), indices.data(), values.data(), column_count);
    int64_t count = 0;
    for (int64_t c = 0; c < column_count; ++c)
        if (columns.start[c + 1] > columns.start[c]) seen.data()[count++] = c;
    weighted_sums<T>(columns.start.data(), seen.data(), columns.rows.data(), columns.weights.data(), count,
                     column_count, pixels.data(), pixels.shape(1), out.data(), threads);
    return count;
}

}  // namespace

void bind_weights(nb::module_ &m) {
    m.def("weights_select_rows", &select_rows);
    m.def("weights_compact_columns", &compact_columns);
    m.def("weights_add_totals", &add_totals);
    m.def("weights_blend", &blend<float>);
    m.def("weights_blend", &blend<double>);
    m.def("weights_blend_transposed", &blend_transposed<float>);
    m.def("weights_blend_transposed", &blend_transposed<double>);
    m.def("weights_blend_transposed_seen", &blend_transposed_seen<float>);
    m.def("weights_blend_transposed_seen", &blend_transposed_seen<double>);
}
