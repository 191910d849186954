// Depth order, tile lists, the store of frames, and the choice of an instruction set.
#include "rasterizer_frame.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace {

struct Level {
    const Kernels *kernels;
    bool available;
};

std::vector<Level> levels() {  // the best first
    std::vector<Level> all;
#if defined(GS_LIFT_X86_LEVELS)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    all.push_back({&KERNELS_AVX512, avx512});
    all.push_back({&KERNELS_AVX2, avx2});
#endif
    all.push_back({&KERNELS_BASELINE, true});
    return all;
}

const Kernels *find(const char *name) {
    for (const Level &level : levels())
        if (level.available && (!name || std::strcmp(level.kernels->name, name) == 0)) return level.kernels;
    return nullptr;
}

std::atomic<const Kernels *> chosen{nullptr};

struct Store {
    std::mutex mutex;
    std::vector<std::unique_ptr<Frame>> frames;
};
constexpr size_t STORED = 4, STORED_BYTES = size_t(256) << 20;  // frames, and the largest that is kept

// Never destroyed: Python may drop its last frame after static objects are gone.
Store &store() {
    static Store *const store = new Store;
    return *store;
}

// Floats in ascending order have ascending keys.
uint32_t depth_key(float depth) {
    uint32_t bits;
    std::memcpy(&bits, &depth, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace

const Kernels &kernels() {
    const Kernels *now = chosen.load(std::memory_order_acquire);
    if (!now) {
        const char *name = std::getenv("GS_LIFT_SIMD");
        now = find(name && *name ? name : nullptr);
        if (!now) throw std::invalid_argument("GS_LIFT_SIMD: this CPU or build has no such level; leave it unset");
        chosen.store(now, std::memory_order_release);
    }
    return *now;
}

bool use_kernels(const char *name) {
    const Kernels *found = find(name);
    if (found) chosen.store(found, std::memory_order_release);
    return found != nullptr;
}

FrameHandle::FrameHandle() {
    Store &from = store();
    std::lock_guard<std::mutex> lock(from.mutex);
    if (from.frames.empty()) {
        frame_ = std::make_unique<Frame>();
    } else {
        frame_ = std::move(from.frames.back());
        from.frames.pop_back();
    }
}

FrameHandle::~FrameHandle() {
    if (!frame_ || frame_->bytes() > STORED_BYTES) return;
    Store &to = store();
    std::lock_guard<std::mutex> lock(to.mutex);
    if (to.frames.size() < STORED) to.frames.push_back(std::move(frame_));
}

void Frame::build(const float *means2d, const float *conics, const float *opacities, const float *depths,
                  const int32_t *radii, int n, int width, int height, int threads) {
    count = n;
    image = Image{};
    blended = false;
    image.width = width, image.height = height;
    image.tiles_x = (width + TILE - 1) / TILE, image.tiles_y = (height + TILE - 1) / TILE;
    Record *records = records_.reserve(size_t(n));
    Rect *rects = rects_.reserve(size_t(n));
    const Kernels &k = kernels();
    parallel_ranges(n, threads, [&](int begin, int end) {
        k.prepare(means2d, conics, opacities, radii, width, height, begin, end, records, rects);
    });

    uint32_t *first_slot = first_slot_.reserve(size_t(n) + 1);
    KeyedId *order = order_.reserve(size_t(n));
    uint64_t total = 0;
    uint32_t visible = 0;
    for (int i = 0; i < n; i++) {
        const Rect r = rects[i];
        first_slot[i] = uint32_t(total);
        if (r.x1 == r.x0) continue;
        total += uint64_t(r.x1 - r.x0) * uint64_t(r.y1 - r.y0);
        if (total >> 31) throw std::length_error("more than 2^31 (Gaussian, tile) pairs; render a smaller image");
        order[visible++] = {depth_key(depths[i]), uint32_t(i)};
    }
    first_slot[n] = pairs = uint32_t(total);
    image.records = records, image.rects = rects, image.first_slot = first_slot;
    sort_by_depth(visible);
    fill_tiles(visible, threads);
}

// Stable radix sort, 11 bits at a time; a digit that all keys share is passed over.
void Frame::sort_by_depth(uint32_t visible) {
    constexpr uint32_t RADIX = 2048;
    std::vector<uint32_t> counts(3 * RADIX, 0);
    KeyedId *from = order_.get();
    for (uint32_t i = 0; i < visible; i++)
        for (uint32_t pass = 0; pass < 3; pass++) counts[pass * RADIX + (from[i].key >> (11 * pass)) % RADIX]++;
    for (uint32_t pass = 0; pass < 3 && visible > 0; pass++) {
        uint32_t *count_of = counts.data() + pass * RADIX;
        if (count_of[(from[0].key >> (11 * pass)) % RADIX] == visible) continue;
        uint32_t sum = 0;
        for (uint32_t digit = 0; digit < RADIX; digit++) sum += std::exchange(count_of[digit], sum);
        KeyedId *to = swap_.reserve(size_t(count));
        for (uint32_t i = 0; i < visible; i++) to[count_of[(from[i].key >> (11 * pass)) % RADIX]++] = from[i];
        std::swap(order_, swap_);
        from = order_.get();
    }
}

// Counting sort of the pairs by tile: counts from the corners of the rectangles, then one pass in depth order for each
// band of rows of tiles.
void Frame::fill_tiles(uint32_t visible, int threads) {
    const size_t columns = size_t(image.tiles_x) + 1, rows = size_t(image.tiles_y) + 1, tile_count = size_t(tiles());
    const KeyedId *order = order_.get();
    Rect *rects = sorted_rects_.reserve(visible);  // they lie scattered over the memory: read once
    parallel_ranges(int(visible), threads, [&](int begin, int end) {
        for (int i = begin; i < end; i++) rects[i] = image.rects[order[i].id];
    });
    int32_t *changes = changes_.reserve(columns * rows);
    std::memset(changes, 0, columns * rows * sizeof *changes);
    for (uint32_t i = 0; i < visible; i++) {
        const Rect r = rects[i];
        changes[r.y0 * columns + r.x0]++, changes[r.y1 * columns + r.x1]++;
        changes[r.y0 * columns + r.x1]--, changes[r.y1 * columns + r.x0]--;
    }
    uint32_t *tile_start = tile_start_.reserve(tile_count + 1), *cursor = cursor_.reserve(tile_count);
    uint32_t sum = 0;
    for (size_t y = 0; y < size_t(image.tiles_y); y++) {
        int32_t along = 0;
        for (size_t x = 0; x < size_t(image.tiles_x); x++) {
            along += changes[y * columns + x];
            const int32_t here = along + (y > 0 ? changes[(y - 1) * columns + x] : 0);
            changes[y * columns + x] = here;
            const size_t tile = y * size_t(image.tiles_x) + x;
            tile_start[tile] = cursor[tile] = sum;
            sum += uint32_t(here);
        }
    }
    tile_start[tile_count] = sum;
    uint32_t *entries = entries_.reserve(pairs), *slot = entry_slot_.reserve(pairs);
    const int bands = std::min(threads, image.tiles_y);
    parallel(bands, threads, [&](int band, int) {
        const size_t top = size_t(band) * size_t(image.tiles_y) / size_t(bands);
        const size_t bottom = size_t(band + 1) * size_t(image.tiles_y) / size_t(bands);
        for (uint32_t i = 0; i < visible; i++) {
            const Rect r = rects[i];
            const size_t y0 = std::max(size_t(r.y0), top), y1 = std::min(size_t(r.y1), bottom);
            if (y0 >= y1) continue;
            const uint32_t id = order[i].id;
            uint32_t next = image.first_slot[id] + uint32_t(y0 - r.y0) * uint32_t(r.x1 - r.x0);
            for (size_t y = y0; y < y1; y++)
                for (size_t x = r.x0; x < r.x1; x++) {
                    const uint32_t at = cursor[y * size_t(image.tiles_x) + x]++;
                    entries[at] = id, slot[at] = next++;
                }
        }
    });
    image.entries = entries, image.slot = slot, image.tile_start = tile_start;
    image.masks = masks_.reserve(pairs);
}

uint8_t *Frame::touched() {
    uint8_t *touched = touched_.reserve(pairs);
    if (pairs) std::memset(touched, 0, pairs);
    return touched;
}

size_t Frame::bytes() const {
    return records_.bytes() + rects_.bytes() + sorted_rects_.bytes() + first_slot_.bytes() + entries_.bytes() +
           entry_slot_.bytes() + masks_.bytes() + tile_start_.bytes() + cursor_.bytes() + changes_.bytes() +
           order_.bytes() + swap_.bytes() + scratch_.bytes() + slots_.bytes() + touched_.bytes();
}
