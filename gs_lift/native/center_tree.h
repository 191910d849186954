// Many centres in a tree of boxes, to be asked for the nearest one from a near one on.
//
// The answer is that of `Centers` in point_groups.h, which compares with all of them: the same float32 arithmetic, and
// of several as near the lowest id. A box is passed over where its distance, less what rounding may have added, is more
// than that of the nearest so far.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "neighbours_kernel.h"
#include "rasterizer_frame.h"

namespace {

class CenterTree {
  public:
    CenterTree(const float *centers, size_t count, size_t dims)
        : dims_(dims), order_(count), leaf_(count), kept_(1 - float(dims + 4) * 2.4e-7f) {
        std::iota(order_.begin(), order_.end(), 0);
        build(centers, 0, count);
    }

    int32_t nearest(const float *q, int32_t start, const Kernels &k) const {
        Best best;
        look(q, leaf_[size_t(start)], best, k);
        int32_t waiting[64];
        float squared[64];
        int depth = 0;
        waiting[0] = 0, squared[0] = 0;
        for (++depth; depth > 0;) {
            --depth;
            if (squared[depth] > best.squared) continue;
            const int32_t box = waiting[depth];
            if (boxes_[size_t(box)].right < 0) {
                if (box != leaf_[size_t(start)]) look(q, box, best, k);
                continue;
            }
            int32_t near = box + 1, far = boxes_[size_t(box)].right;
            float to_near = to_box(q, near), to_far = to_box(q, far);
            if (to_far < to_near) std::swap(near, far), std::swap(to_near, to_far);
            if (to_far <= best.squared) waiting[depth] = far, squared[depth++] = to_far;
            if (to_near <= best.squared) waiting[depth] = near, squared[depth++] = to_near;
        }
        return best.id;
    }

  private:
    struct Box {
        size_t begin, end;  // of the centres in order_
        size_t block;       // of a leaf: where its centres, [D NEAR_TILE], begin in blocks_
        int32_t right;      // the second of the two boxes in this one, the first follows at once; -1: a leaf
    };
    struct Best {
        float squared = std::numeric_limits<float>::infinity();
        int32_t id = 0;
    };

    int32_t build(const float *centers, size_t begin, size_t end) {
        const auto box = int32_t(boxes_.size());
        boxes_.push_back({begin, end, 0, -1});
        const size_t low = bounds_.size(), high = low + dims_;
        bounds_.resize(low + dims_, std::numeric_limits<float>::infinity());
        bounds_.resize(high + dims_, -std::numeric_limits<float>::infinity());
        for (size_t at = begin; at < end; ++at)
            for (size_t d = 0; d < dims_; ++d) {
                const float x = centers[size_t(order_[at]) * dims_ + d];
                bounds_[low + d] = std::min(bounds_[low + d], x), bounds_[high + d] = std::max(bounds_[high + d], x);
            }
        if (end - begin <= NEAR_TILE) {
            make_leaf(centers, box);
            return box;
        }
        size_t axis = 0;
        for (size_t d = 1; d < dims_; ++d)
            if (bounds_[high + d] - bounds_[low + d] > bounds_[high + axis] - bounds_[low + axis]) axis = d;
        const size_t middle = begin + (end - begin) / 2;
        std::nth_element(order_.begin() + int64_t(begin), order_.begin() + int64_t(middle), order_.begin() + int64_t(end),
                         [&](int32_t a, int32_t b) {
                             const float x = centers[size_t(a) * dims_ + axis], y = centers[size_t(b) * dims_ + axis];
                             return x != y ? x < y : a < b;
                         });
        build(centers, begin, middle);
        const int32_t right = build(centers, middle, end);
        boxes_[size_t(box)].right = right;
        return box;
    }

    void make_leaf(const float *centers, int32_t box) {
        Box &leaf = boxes_[size_t(box)];
        leaf.block = blocks_.size();
        blocks_.resize(leaf.block + NEAR_TILE * dims_, std::numeric_limits<float>::quiet_NaN());
        std::sort(order_.begin() + int64_t(leaf.begin), order_.begin() + int64_t(leaf.end));
        for (size_t at = leaf.begin; at < leaf.end; ++at) {
            leaf_[size_t(order_[at])] = box;
            for (size_t d = 0; d < dims_; ++d)
                blocks_[leaf.block + d * NEAR_TILE + at - leaf.begin] = centers[size_t(order_[at]) * dims_ + d];
        }
    }

    // Squared distance from q to a box, less what rounding may have added to it or taken from one inside.
    float to_box(const float *q, int32_t box) const {
        const float *low = bounds_.data() + size_t(box) * 2 * dims_, *high = low + dims_;
        float sum = 0;
        for (size_t d = 0; d < dims_; ++d) {
            const float gap = std::max(std::max(low[d] - q[d], q[d] - high[d]), 0.0f);
            sum += gap * gap;
        }
        return sum * kept_;
    }

    void look(const float *q, int32_t box, Best &best, const Kernels &k) const {
        const Box &leaf = boxes_[size_t(box)];
        float squared[NEAR_TILE + 16];
        int32_t places[NEAR_TILE + 16];
        // Those that are as near as the best are wanted as well: the lowest id is the answer.
        const float limit = std::nextafter(best.squared, std::numeric_limits<float>::infinity());
        const int found = k.near_points(q, blocks_.data() + leaf.block, NEAR_TILE, int(dims_), limit, squared, places);
        for (int f = 0; f < found; ++f) {
            const int32_t id = order_[leaf.begin + size_t(places[f])];
            if (squared[f] < best.squared || (squared[f] == best.squared && id < best.id))
                best.squared = squared[f], best.id = id;
        }
    }

    size_t dims_;
    std::vector<int32_t> order_;  // ids of centres, box by box
    std::vector<int32_t> leaf_;   // the box that each centre lies in
    std::vector<Box> boxes_;      // a box before those in it
    std::vector<float> bounds_;   // [boxes 2 D]: low, high
    std::vector<float> blocks_;   // centres of leaves
    float kept_;
};

}  // namespace
