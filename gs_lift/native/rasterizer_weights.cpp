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

// What one thread has found so far: `used` pairs. The vectors are longer, so that few of them are ever cleared.
struct Found {
    std::vector<int32_t> indices;
    std::vector<float> values;
    std::vector<float> columns;
    size_t used = 0;

    void make_room(size_t more) {
        if (used + more <= indices.size()) return;
        const size_t size = std::max(2 * indices.size(), used + more);
        indices.resize(size), values.resize(size);
    }
};

// Where the pairs of a pixel lie until all rows are counted.
struct Row {
    int thread, count;
    size_t at;
};

struct Rows {
    std::vector<int64_t> indptr;
    std::vector<int32_t> indices;
    std::vector<float> values;
};

// Row numbers (places in `pixels`, or the pixels themselves) ordered by tile, and where each tile's begin.
void sort_by_tile(const Image &image, const int64_t *pixels, size_t count, std::vector<uint32_t> &start,
                  std::vector<uint32_t> &rows) {
    const size_t tiles = size_t(image.tiles_x) * size_t(image.tiles_y), width = size_t(image.width);
    auto tile_of = [&](size_t row) {
        const size_t pixel = pixels ? size_t(pixels[row]) : row;
        return pixel / width / TILE * size_t(image.tiles_x) + pixel % width / TILE;
    };
    start.assign(tiles + 1, 0);
    for (size_t row = 0; row < count; row++) start[tile_of(row) + 1]++;
    for (size_t tile = 0; tile < tiles; tile++) start[tile + 1] += start[tile];
    rows.resize(count);
    std::vector<uint32_t> cursor(start.begin(), start.end() - 1);
    for (size_t row = 0; row < count; row++) rows[cursor[tile_of(row)]++] = uint32_t(row);
}

Rows find_weights(const Frame &frame, const int64_t *pixels, size_t count, float minimum, int threads) {
    const Image &image = frame.image;
    const Kernels &k = kernels();
    std::vector<uint32_t> start, order;
    sort_by_tile(image, pixels, count, start, order);
    std::vector<Row> rows(count);
    std::vector<Found> found(static_cast<size_t>(threads));
    parallel(frame.tiles(), threads, [&](int tile, int thread) {
        const uint32_t first = image.tile_start[tile], members = image.tile_start[tile + 1] - first;
        Found &mine = found[size_t(thread)];
        const int stride = int((members + 15) / 16 * 16);
        if (start[tile] != start[tile + 1]) {
            mine.columns.resize(size_t(stride) * COLUMNS);
            k.tile_columns(image, tile, stride, mine.columns.data());
        }
        for (uint32_t i = start[tile]; i < start[tile + 1]; i++) {
            const size_t row = order[i], pixel = pixels ? size_t(pixels[row]) : row, at = mine.used;
            const size_t width = size_t(image.width);
            mine.make_room(members);
            const int n = k.pixel_weights(mine.columns.data(), stride, float(pixel % width % TILE) + 0.5f,
                                          float(pixel / width % TILE) + 0.5f, minimum, image.entries + first,
                                          mine.indices.data() + at, mine.values.data() + at);
            mine.used += size_t(n);
            rows[row] = {thread, n, at};
        }
    });
    Rows out;
    out.indptr.resize(count + 1);
    out.indptr[0] = 0;
    for (size_t row = 0; row < count; row++) out.indptr[row + 1] = out.indptr[row] + rows[row].count;
    out.indices.resize(size_t(out.indptr[count])), out.values.resize(size_t(out.indptr[count]));
    for (size_t row = 0; row < count; row++) {
        const size_t n = size_t(rows[row].count), to = size_t(out.indptr[row]);
        const Found &from = found[size_t(rows[row].thread)];
        if (n == 0) continue;
        std::memcpy(out.indices.data() + to, from.indices.data() + rows[row].at, n * sizeof(int32_t));
        std::memcpy(out.values.data() + to, from.values.data() + rows[row].at, n * sizeof(float));
    }
    return out;
}

// A vector handed to Python without a copy.
template <class T> auto to_array(std::vector<T> &&values) {
    auto *kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void *p) noexcept { delete static_cast<std::vector<T> *>(p); });
    return nb::ndarray<nb::pytorch, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner);
}

auto frame_weights(FrameHandle &frame, const std::optional<Longs> &pixels, float minimum, int threads) {
    const size_t area = size_t(frame->image.width) * size_t(frame->image.height);
    const size_t count = pixels ? pixels->size() : area;
    const int64_t *ids = pixels ? pixels->data() : nullptr;
    if (count >> 32) throw std::invalid_argument("fewer than 2^32 pixels wanted");
    for (size_t i = 0; ids && i < count; i++)
        if (ids[i] < 0 || size_t(ids[i]) >= area) throw std::invalid_argument("a pixel lies outside the image");
    Rows rows;
    {
        nb::gil_scoped_release release;
        rows = find_weights(*frame, ids, count, minimum, threads);
    }
    return nb::make_tuple(to_array(std::move(rows.indptr)), to_array(std::move(rows.indices)),
                          to_array(std::move(rows.values)));
}

}  // namespace

void bind_rasterizer_weights(nb::module_ &m) {
    m.def("frame_weights", &frame_weights, nb::arg("frame"), nb::arg("pixels").none(), nb::arg("minimum"),
          nb::arg("threads"), "Weights of pixels: (indptr, indices, values), a row's entries front to back.");
}
