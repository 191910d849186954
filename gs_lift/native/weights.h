// Sparse blending weights as kernels see them: some rows of a matrix in compressed rows, and the same by columns.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#include <nanobind/stl/optional.h>

#include "module.h"

// One binary, the widest vectors that the machine has. For plain functions only: what they call must be INLINE.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif
#define INLINE inline __attribute__((always_inline))

// IEEE half precision, as torch.float16 stores it.
struct Half {
    uint16_t bits;
};

namespace nanobind::detail {
template <> struct dtype_traits<Half> {
    static constexpr dlpack::dtype value{uint8_t(dlpack::dtype_code::Float), 16, 1};
    static constexpr auto name = const_name("float16");
};
}  // namespace nanobind::detail

namespace {

template <class T>
using Array1 = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

INLINE float to_float(float value) { return value; }

// Exact for every half that is not negative, infinite or NaN: the exponent's bias is 15 here and 127 there.
INLINE float to_float(Half value) {
    const uint32_t bits = uint32_t(value.bits) << 13;
    float scaled;
    std::memcpy(&scaled, &bits, 4);
    return scaled * 0x1p112f;
}

// Row p is row index[p] of the matrix, or p itself without an index; V: float or Half.
template <class V>
struct Rows {
    const int64_t *__restrict indptr, *__restrict index;
    const int32_t *__restrict ids;
    const V *__restrict values;
    int64_t count;

    int64_t at(int64_t p) const { return index ? index[p] : p; }
    int64_t first(int64_t p) const { return indptr[at(p)]; }
    int64_t last(int64_t p) const { return indptr[at(p) + 1]; }
    // Picked rows lie scattered in memory and are shorter than a processor takes notice of: ask for them ahead.
    INLINE void prefetch(int64_t p) const {
        if (!index) return;
        if (p + 32 < count) __builtin_prefetch(indptr + index[p + 32]);
        if (p + 16 >= count) return;
        const int64_t from = first(p + 16), to = last(p + 16);
        for (int64_t e = from; e < to; e += 16) __builtin_prefetch(ids + e);
        for (int64_t e = from; e < to; e += 64 / int64_t(sizeof(V))) __builtin_prefetch(values + e);
        __builtin_prefetch(ids + to), __builtin_prefetch(values + to);
    }
    int64_t entries() const {
        if (!index) return indptr[count] - indptr[0];
        int64_t sum = 0;
        for (int64_t p = 0; p < count; ++p) sum += last(p) - first(p);
        return sum;
    }
};

using Index = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class V>
Rows<V> rows_of(const Array1<const int64_t> &indptr, const std::optional<Index> &index,
                const Array1<const int32_t> &ids, const Array1<const V> &values) {
    const int64_t count = int64_t(index ? index->shape(0) : indptr.shape(0) - 1);
    return {indptr.data(), index ? index->data() : nullptr, ids.data(), values.data(), count};
}

// A few channels of a row side by side: in vectors of 8 where they are many, which compilers do not find by themselves.
template <class T, int WIDTH>
struct Channels {
    T values[WIDTH] = {};
    INLINE void load(const T *from) {
        for (int k = 0; k < WIDTH; ++k) values[k] = from[k];
    }
    INLINE void store(T *to) const {
        for (int k = 0; k < WIDTH; ++k) to[k] = values[k];
    }
    INLINE void add(T weight, const T *row) {
        for (int k = 0; k < WIDTH; ++k) values[k] += weight * row[k];
    }
    // to += weight * this
    INLINE void add_to(T weight, T *to) const {
        for (int k = 0; k < WIDTH; ++k) to[k] += weight * values[k];
    }
    INLINE void add_to(T weight, Channels &to) const { add_to(weight, to.values); }
};

#if defined(__GNUC__)
typedef float Lanes __attribute__((vector_size(32), aligned(4), may_alias));

template <int COUNT>
struct Vectors {
    Lanes values[COUNT] = {};
    INLINE void load(const float *from) {
        for (int k = 0; k < COUNT; ++k) values[k] = reinterpret_cast<const Lanes *>(from)[k];
    }
    INLINE void store(float *to) const {
        for (int k = 0; k < COUNT; ++k) reinterpret_cast<Lanes *>(to)[k] = values[k];
    }
    INLINE void add(float weight, const float *row) {
        for (int k = 0; k < COUNT; ++k) values[k] += weight * reinterpret_cast<const Lanes *>(row)[k];
    }
    INLINE void add_to(float weight, float *to) const {
        for (int k = 0; k < COUNT; ++k) reinterpret_cast<Lanes *>(to)[k] += weight * values[k];
    }
    INLINE void add_to(float weight, Vectors &to) const {
        for (int k = 0; k < COUNT; ++k) to.values[k] += weight * values[k];
    }
};
template <> struct Channels<float, 8> : Vectors<1> {};
template <> struct Channels<float, 16> : Vectors<2> {};
template <> struct Channels<float, 24> : Vectors<3> {};
template <> struct Channels<float, 32> : Vectors<4> {};
#endif

// Calls sum(Channels(), from) for runs of `channels` channels, of a constant width so that sums stay in registers.
template <class T, class Sum>
INLINE void by_channels(int64_t channels, const Sum &sum) {
    int64_t c = 0;
    if (channels == 24) sum(Channels<T, 24>(), 0), c = 24;
    for (; c + 32 <= channels; c += 32) sum(Channels<T, 32>(), c);
    for (; c + 16 <= channels; c += 16) sum(Channels<T, 16>(), c);
    for (; c + 8 <= channels; c += 8) sum(Channels<T, 8>(), c);
    for (; c + 4 <= channels; c += 4) sum(Channels<T, 4>(), c);
    for (; c < channels; ++c) sum(Channels<T, 1>(), c);
}

// Ask for what the entries of row p will read of `features`, while the rows before it are summed.
template <class T, class V>
INLINE void prefetch_features(const Rows<V> &rows, int64_t p, const T *features, int64_t channels) {
    constexpr int64_t LINE = 64 / int64_t(sizeof(T));
    for (int64_t e = rows.first(p), last = rows.last(p); e < last; ++e)
        for (int64_t c = 0; c < channels; c += LINE) __builtin_prefetch(features + rows.ids[e] * channels + c);
}

// out[p] = row p of W @ features, for p in from..to; an element's sum goes front to back.
template <class T, class V>
INLINE void blend_rows(const Rows<V> &rows, int64_t from, int64_t to, const T *features, int64_t channels, T *out) {
    for (int64_t p = from; p < to; ++p) {
        rows.prefetch(p);
        if (rows.index && p + 2 < to) prefetch_features(rows, p + 2, features, channels);
        const int64_t first = rows.first(p), last = rows.last(p);
        by_channels<T>(channels, [&](auto sum, int64_t c) __attribute__((always_inline)) {
            for (int64_t e = first; e < last; ++e)
                sum.add(to_float(rows.values[e]), features + rows.ids[e] * channels + c);
            sum.store(out + p * channels + c);
        });
    }
}

// out[column] += each entry's weight times row p of `pixels`.
template <class T, class V>
INLINE void scatter_row(const Rows<V> &rows, int64_t p, const T *pixels, int64_t channels, T *out) {
    const int64_t first = rows.first(p), last = rows.last(p);
    by_channels<T>(channels, [&](auto row, int64_t c) __attribute__((always_inline)) {
        row.load(pixels + p * channels + c);
        for (int64_t e = first; e < last; ++e)
            row.add_to(to_float(rows.values[e]), out + rows.ids[e] * channels + c);
    });
}

}  // namespace
