// Sparse blending weights W (compressed rows: pixels x Gaussians): W @ E and W^T @ G.
//
// Every output element is summed by one thread in a fixed order: the same bytes for any number of threads.
#include "weights.h"

namespace {

// Waking a thread for fewer multiplications than this costs more than it saves, and far more on a busy machine.
constexpr int64_t WORTH_THREADS = 1 << 19;

// Entries of the rows in `pick`, one row after the other; out_indptr is given and says where each starts.
template <class V>
void select_rows(Array1<const int64_t> indptr, Array1<const int32_t> ids, Array1<const V> values, Index pick,
                 Array1<const int64_t> out_indptr, Array1<int32_t> out_ids, Array1<V> out_values) {
    const int64_t *start = indptr.data(), *rows = pick.data(), *out_start = out_indptr.data();
    for (size_t q = 0; q < pick.shape(0); ++q) {
        const int64_t first = start[rows[q]], count = start[rows[q] + 1] - first;
        std::copy_n(ids.data() + first, count, out_ids.data() + out_start[q]);
        std::copy_n(values.data() + first, count, out_values.data() + out_start[q]);
    }
}

#define KERNELS(LEVEL, T, V)                                                                                         \
    LEVEL void blend_rows_of(const Rows<V> &rows, int64_t from, int64_t to, const T *features, int64_t channels,     \
                             T *out) {                                                                               \
        blend_rows(rows, from, to, features, channels, out);                                                         \
    }                                                                                                                \
    LEVEL void scatter_rows_of(const Rows<V> &rows, const T *pixels, int64_t channels, T *out) {                     \
        for (int64_t p = 0; p < rows.count; ++p) scatter_row(rows, p, pixels, channels, out);                        \
    }
KERNELS(WIDEST, float, float)
KERNELS(WIDEST, float, Half)
KERNELS(, double, float)
KERNELS(, double, Half)
#undef KERNELS

// out [P D] = W @ features [N D].
template <class T, class V>
void blend(Array1<const int64_t> indptr, std::optional<Index> index, Array1<const int32_t> ids,
           Array1<const V> values, Array2<const T> features, Array2<T> out, int threads) {
    nb::gil_scoped_release release;
    const Rows<V> rows = rows_of(indptr, index, ids, values);
    const int64_t channels = int64_t(features.shape(1)), parts = (rows.count + 63) / 64;
    const bool worth_it = threads > 1 && rows.entries() * channels > WORTH_THREADS;
#pragma omp parallel for schedule(static) num_threads(threads) if (worth_it)
    for (int64_t part = 0; part < parts; ++part)
        blend_rows_of(rows, part * 64, std::min(part * 64 + 64, rows.count), features.data(), channels, out.data());
}

// out [N D] = W^T @ pixels [P D]. One thread: nothing in a training step needs all of it.
template <class T, class V>
void blend_transposed(Array1<const int64_t> indptr, std::optional<Index> index, Array1<const int32_t> ids,
                      Array1<const V> values, Array2<const T> pixels, Array2<T> out) {
    nb::gil_scoped_release release;
    std::fill_n(out.data(), out.size(), T(0));
    scatter_rows_of(rows_of(indptr, index, ids, values), pixels.data(), int64_t(out.shape(1)), out.data());
}

// out[c] += the values of column c, in entry order.
template <class V>
void add_totals(Array1<const int32_t> ids, Array1<const V> values, Array1<double> out) {
    nb::gil_scoped_release release;
    const int64_t count = int64_t(ids.shape(0));
    for (int64_t e = 0; e < count; ++e) out.data()[ids.data()[e]] += to_float(values.data()[e]);
}

}  // namespace

void bind_weights(nb::module_ &m) {
    m.def("weights_select_rows", &select_rows<float>);
    m.def("weights_select_rows", &select_rows<Half>);
    m.def("weights_add_totals", &add_totals<float>);
    m.def("weights_add_totals", &add_totals<Half>);
    m.def("weights_blend", &blend<float, float>);
    m.def("weights_blend", &blend<float, Half>);
    m.def("weights_blend", &blend<double, float>);
    m.def("weights_blend", &blend<double, Half>);
    m.def("weights_blend_transposed", &blend_transposed<float, float>);
    m.def("weights_blend_transposed", &blend_transposed<float, Half>);
    m.def("weights_blend_transposed", &blend_transposed<double, float>);
    m.def("weights_blend_transposed", &blend_transposed<double, Half>);
}
