// Blending weights of pixels as compressed sparse rows.
#include "module.h"
#include "rasterizer_frame.h"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <vector>

namespace {

using Longs = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;

// Memory that is not cleared first.
template <class T> std::unique_ptr<T[]> uninitialised(size_t count) { return std::unique_ptr<T[]>(new T[count]); }

// Pairs that one thread has found so far, and its scratch.
struct Found {
    std::unique_ptr<int32_t[]> ids, places;
    std::unique_ptr<float[]> values;
    std::vector<float> columns;
    size_t used = 0, size = 0;

    void make_room(size_t more, bool with_places) {
        if (used + more <= size) return;
        const size_t larger = std::max(2 * size, used + more);
        grow(ids, larger), grow(values, larger);
        if (with_places) grow(places, larger);
        size = larger;
    }

  private:
    template <class T> void grow(std::unique_ptr<T[]> &memory, size_t larger) {
        auto moved = uninitialised<T>(larger);
        if (used) std::memcpy(moved.get(), memory.get(), used * sizeof(T));
        memory = std::move(moved);
    }
};

// `count` pairs of a tile or of a row, from `at` on in what a thread has found.
struct Span {
    int thread;
    size_t at, count;
};

struct Rows {
    std::unique_ptr<int64_t[]> indptr;  // [count + 1]
    std::unique_ptr<int32_t[]> indices;
    std::unique_ptr<float[]> values;
    size_t count;

    explicit Rows(size_t n) : indptr(uninitialised<int64_t>(n + 1)), count(n) { std::fill_n(indptr.get(), n + 1, 0); }
    // From counts in indptr[row + 1] to offsets, and room for the pairs.
    void allocate() {
        for (size_t row = 0; row < count; row++) indptr[row + 1] += indptr[row];
        indices = uninitialised<int32_t>(size()), values = uninitialised<float>(size());
    }
    size_t size() const { return size_t(indptr[count]); }
};

// Of every pixel in image order. A tile's pairs come mixed; they are dealt out to the rows when those are counted.
Rows weights_of_image(const Frame &frame, float minimum, int threads) {
    const Image &image = frame.image;
    const Kernels &k = kernels();
    Rows rows(size_t(image.width) * size_t(image.height));
    std::vector<Found> found(static_cast<size_t>(threads));
    std::vector<Span> spans(size_t(frame.tiles()));
    auto corner = [&](int tile) {
        return size_t(tile / image.tiles_x * TILE) * size_t(image.width) + size_t(tile % image.tiles_x * TILE);
    };
    auto row_of = [&](size_t first, int32_t place) {
        return first + size_t(place / TILE) * size_t(image.width) + size_t(place % TILE);
    };
    // Weights of a pixel add up to at most 1.
    const size_t most = minimum > 1e-6f ? size_t(1.0f / minimum) + 2 : SIZE_MAX;
    parallel(frame.tiles(), threads, [&](int tile, int thread) {
        Found &mine = found[size_t(thread)];
        const size_t members = image.tile_start[tile + 1] - image.tile_start[tile];
        mine.make_room(TILE * TILE * std::min(members, most) + 64, true);
        const size_t n = k.tile_weights(image, tile, minimum, mine.places.get() + mine.used,
                                        mine.ids.get() + mine.used, mine.values.get() + mine.used);
        for (size_t i = 0; i < n; i++) rows.indptr[row_of(corner(tile), mine.places[mine.used + i]) + 1]++;
        spans[size_t(tile)] = {thread, mine.used, n};
        mine.used += n;
    });
    rows.allocate();
    parallel(frame.tiles(), threads, [&](int tile, int) {
        const Span span = spans[size_t(tile)];
        const Found &from = found[size_t(span.thread)];
        const size_t first = corner(tile);
        int64_t cursor[TILE * TILE];
        for (int32_t place = 0; place < TILE * TILE; place++)
            cursor[place] = rows.indptr[std::min(row_of(first, place), rows.count)];
        for (size_t i = span.at; i < span.at + span.count; i++) {
            const size_t to = size_t(cursor[from.places[i]]++);
            rows.indices[to] = from.ids[i];
            rows.values[to] = from.values[i];
        }
    });
    return rows;
}

// Places in `pixels` ordered by tile, and where each tile's begin.
void sort_by_tile(const Image &image, const int64_t *pixels, size_t count, std::vector<uint32_t> &start,
                  std::vector<uint32_t> &order) {
    const size_t tiles = size_t(image.tiles_x) * size_t(image.tiles_y), width = size_t(image.width);
    auto tile_of = [&](size_t i) {
        const size_t pixel = size_t(pixels[i]);
        return pixel / width / TILE * size_t(image.tiles_x) + pixel % width / TILE;
    };
    start.assign(tiles + 1, 0);
    for (size_t i = 0; i < count; i++) start[tile_of(i) + 1]++;
    for (size_t tile = 0; tile < tiles; tile++) start[tile + 1] += start[tile];
    order.resize(count);
    std::vector<uint32_t> cursor(start.begin(), start.end() - 1);
    for (size_t i = 0; i < count; i++) order[cursor[tile_of(i)]++] = uint32_t(i);
}

Rows weights_of_pixels(const Frame &frame, const int64_t *pixels, size_t count, float minimum, int threads) {
    const Image &image = frame.image;
    const Kernels &k = kernels();
    const size_t width = size_t(image.width);
    std::vector<uint32_t> start, order;
    sort_by_tile(image, pixels, count, start, order);
    std::vector<Span> spans(count);
    std::vector<Found> found(static_cast<size_t>(threads));
    parallel(frame.tiles(), threads, [&](int tile, int thread) {
        if (start[tile] == start[tile + 1]) return;
        const uint32_t first = image.tile_start[tile], members = image.tile_start[tile + 1] - first;
        Found &mine = found[size_t(thread)];
        const int stride = int((members + 15) / 16 * 16);
        mine.columns.resize(size_t(stride) * COLUMNS);
        k.tile_columns(image, tile, stride, mine.columns.data());
        for (uint32_t i = start[tile]; i < start[tile + 1]; i++) {
            const size_t pixel = size_t(pixels[order[i]]);
            mine.make_room(members, false);
            const int n = k.pixel_weights(mine.columns.data(), stride, float(pixel % width % TILE) + 0.5f,
                                          float(pixel / width % TILE) + 0.5f, minimum, image.entries + first,
                                          mine.ids.get() + mine.used, mine.values.get() + mine.used);
            spans[order[i]] = {thread, mine.used, size_t(n)};
            mine.used += size_t(n);
        }
    });
    Rows rows(count);
    for (size_t row = 0; row < count; row++) rows.indptr[row + 1] = int64_t(spans[row].count);
    rows.allocate();
    for (size_t row = 0; row < count; row++) {
        const Span span = spans[row];
        if (span.count == 0) continue;
        const Found &from = found[size_t(span.thread)];
        std::memcpy(rows.indices.get() + rows.indptr[row], from.ids.get() + span.at, span.count * sizeof(int32_t));
        std::memcpy(rows.values.get() + rows.indptr[row], from.values.get() + span.at, span.count * sizeof(float));
    }
    return rows;
}

// Memory handed to Python without a copy.
template <class T> auto to_array(std::unique_ptr<T[]> &&memory, size_t count) {
    T *values = memory.get();
    nb::capsule owner(values, [](void *p) noexcept { delete[] static_cast<T *>(p); });
    memory.release();
    return nb::ndarray<nb::pytorch, T, nb::ndim<1>>(values, {count}, owner);
}

auto frame_weights(FrameHandle &frame, const std::optional<Longs> &pixels, float minimum, int threads) {
    const size_t area = size_t(frame->image.width) * size_t(frame->image.height);
    const size_t count = pixels ? pixels->size() : 0;
    const int64_t *ids = pixels ? pixels->data() : nullptr;
    if (count >> 32) throw std::invalid_argument("fewer than 2^32 pixels wanted");
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || size_t(ids[i]) >= area) throw std::invalid_argument("a pixel lies outside the image");
    Rows rows = [&] {
        nb::gil_scoped_release release;
        return pixels ? weights_of_pixels(*frame, ids, count, minimum, threads)
                      : weights_of_image(*frame, minimum, threads);
    }();
    const size_t pairs = rows.size();
    return nb::make_tuple(to_array(std::move(rows.indptr), rows.count + 1), to_array(std::move(rows.indices), pairs),
                          to_array(std::move(rows.values), pairs));
}

}  // namespace

void bind_rasterizer_weights(nb::module_ &m) {
    m.def("frame_weights", &frame_weights, nb::arg("frame"), nb::arg("pixels").none(), nb::arg("minimum"),
          nb::arg("threads"), "Weights of pixels: (indptr, indices, values), a row's entries front to back.");
}
