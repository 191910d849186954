// The Gaussians of one image sorted into tiles, the memory that a forward and its backward pass share, and threads.
#pragma once
#include "rasterizer.h"

#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <vector>
#if defined(_OPENMP)
#include <omp.h>
#endif

// The best kernels for this CPU, or those named by the environment variable GS_LIFT_SIMD.
const Kernels &kernels();
// Switches to "avx512", "avx2" or "baseline"; false where this CPU or build does not have it.
bool use_kernels(const char *name);

// body(task, thread) for each task, on up to `threads` threads. What a task computes must not depend on its thread.
template <class Body> void parallel(int tasks, [[maybe_unused]] int threads, Body body) {
#if defined(_OPENMP)
    if (threads > 1 && tasks > 1) {
        std::exception_ptr error;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int task = 0; task < tasks; task++) {
            try {
                body(task, omp_get_thread_num());
            } catch (...) {
#pragma omp critical
                error = std::current_exception();
            }
        }
        if (error) std::rethrow_exception(error);
        return;
    }
#endif
    for (int task = 0; task < tasks; task++) body(task, 0);
}

// body(begin, end) over 0 .. count in ranges of whole vectors.
template <class Body> void parallel_ranges(int count, int threads, Body body) {
    constexpr int RANGE = 2048;
    parallel((count + RANGE - 1) / RANGE, threads, [&](int task, int) {
        const int begin = task * RANGE;
        body(begin, begin + RANGE < count ? begin + RANGE : count);
    });
}

// Memory at cache lines that keeps its size when less is asked of it, and nothing of its content when more.
template <class T> class Buffer {
  public:
    T *reserve(size_t count) {
        if (count > size_) {
            memory_.reset();
            size_ = 0;
            const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
            memory_.reset(static_cast<T *>(std::aligned_alloc(64, bytes)));
            if (!memory_) throw std::bad_alloc();
            size_ = count;
        }
        return memory_.get();
    }
    T *get() const { return memory_.get(); }
    size_t bytes() const { return size_ * sizeof(T); }

  private:
    struct Free {
        void operator()(T *memory) const { std::free(memory); }
    };
    std::unique_ptr<T, Free> memory_;
    size_t size_ = 0;
};

struct KeyedId {
    uint32_t key, id;
};

class Frame {
  public:
    Image image{};
    int count = 0;  // Gaussians
    uint32_t pairs = 0;
    bool blended = false;  // whether image.masks is written

    // Sorts `count` projected Gaussians into the tiles of an image. Throws std::length_error beyond 2^31 pairs.
    void build(const float *means2d, const float *conics, const float *opacities, const float *depths,
               const int32_t *radii, int count, int width, int height, int threads);
    int tiles() const { return image.tiles_x * image.tiles_y; }
    float *scratch(size_t floats, int threads) { return scratch_.reserve(floats * size_t(threads)); }
    float *slots(size_t slot_size) { return slots_.reserve(size_t(pairs) * slot_size); }
    uint8_t *touched();  // zeros
    size_t bytes() const;

  private:
    void sort_by_depth(uint32_t visible);
    void fill_tiles(uint32_t visible, int threads);

    Buffer<Record> records_;
    Buffer<Rect> rects_, sorted_rects_;
    Buffer<uint32_t> first_slot_, entries_, entry_slot_, masks_, tile_start_, cursor_;
    Buffer<int32_t> changes_;
    Buffer<KeyedId> order_, swap_;
    Buffer<float> scratch_, slots_;
    Buffer<uint8_t> touched_;
};

// A frame that goes back to a small store when it is dropped, so that a training loop allocates nothing.
class FrameHandle {
  public:
    FrameHandle();
    ~FrameHandle();
    FrameHandle(FrameHandle &&) = default;
    Frame &operator*() const { return *frame_; }
    Frame *operator->() const { return frame_.get(); }

  private:
    std::unique_ptr<Frame> frame_;
};
