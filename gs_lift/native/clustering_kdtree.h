// Edges, and a kd-tree that finds the lightest one that leaves each component of a forest: Boruvka's inner step.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline double squared_distance(const double *a, const double *b, size_t dims) {
    double sum = 0;
    for (size_t d = 0; d < dims; ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

struct Edge {
    double weight;
    int32_t i, j;
    bool operator<(const Edge &other) const {
        if (weight != other.weight) return weight < other.weight;
        return i != other.i ? i < other.i : j < other.j;
    }
};

// A kd-tree whose nodes know their box, their least core distance and whether they lie in one component.
class KdTree {
  public:
    KdTree(const double *points, const double *cores, size_t count, size_t dims)
        : points_(points), cores_(cores), dims_(dims), order_(count) {
        std::iota(order_.begin(), order_.end(), 0);
        build(0, static_cast<int32_t>(count));
    }

    // The lightest edge that leaves each component but `skipped`, by (weight, i, j). component: [N].
    void lightest_exits(const std::vector<int32_t> &component, int32_t skipped, std::vector<Edge> &best) {
        component_ = &component;
        best_ = &best;
        skipped_ = skipped;
        mark(0);
        visit(0, 0);
    }

  private:
    static constexpr int32_t kLeaf = 16, kMixed = -1;
    struct Node {
        int32_t begin, end, left, right;  // left = -1: a leaf
        int32_t component;
        double core;
    };

    int32_t build(int32_t begin, int32_t end) {
        const int32_t id = static_cast<int32_t>(nodes_.size());
        nodes_.push_back({begin, end, -1, -1, kMixed, kInfinity});
        std::vector<double> low(dims_, kInfinity), high(dims_, -kInfinity);
        for (int32_t at = begin; at < end; ++at) {
            const double *x = points_ + order_[at] * dims_;
            for (size_t d = 0; d < dims_; ++d) {
                low[d] = std::min(low[d], x[d]);
                high[d] = std::max(high[d], x[d]);
            }
            nodes_[id].core = std::min(nodes_[id].core, cores_[order_[at]]);
        }
        size_t axis = 0;
        for (size_t d = 1; d < dims_; ++d)
            if (high[d] - low[d] > high[axis] - low[axis]) axis = d;
        low_.insert(low_.end(), low.begin(), low.end());
        high_.insert(high_.end(), high.begin(), high.end());
        if (end - begin <= kLeaf) return id;
        const int32_t middle = begin + (end - begin) / 2;
        std::nth_element(order_.begin() + begin, order_.begin() + middle, order_.begin() + end,
                         [&](int32_t a, int32_t b) {
                             const double x = points_[a * dims_ + axis], y = points_[b * dims_ + axis];
                             return x != y ? x < y : a < b;
                         });
        const int32_t left = build(begin, middle), right = build(middle, end);
        nodes_[id].left = left;
        nodes_[id].right = right;
        return id;
    }

    void mark(int32_t id) {
        Node &node = nodes_[id];
        if (node.left < 0) {
            node.component = (*component_)[order_[node.begin]];
            for (int32_t at = node.begin; at < node.end; ++at)
                if ((*component_)[order_[at]] != node.component) node.component = kMixed;
            return;
        }
        mark(node.left);
        mark(node.right);
        const int32_t left = nodes_[node.left].component;
        node.component = left == nodes_[node.right].component ? left : kMixed;
    }

    // No edge between the two nodes is lighter than this.
    double bound(int32_t a, int32_t b) const {
        double sum = 0;
        for (size_t d = 0; d < dims_; ++d) {
            const double gap = std::max({0.0, low_[a * dims_ + d] - high_[b * dims_ + d],
                                         low_[b * dims_ + d] - high_[a * dims_ + d]});
            sum += gap * gap;
        }
        // The box distance rounds differently from a point's distance: stay below it.
        return std::max({std::sqrt(sum) * (1 - 1e-12), nodes_[a].core, nodes_[b].core});
    }

    bool useless(int32_t a, int32_t b, double least) const {
        const int32_t component = nodes_[a].component;
        if (component == kMixed) return false;
        if (component == skipped_ || component == nodes_[b].component) return true;
        return least > (*best_)[component].weight;
    }

    // Exits of the points in node a towards the points in node b.
    void visit(int32_t a, int32_t b) {
        if (useless(a, b, bound(a, b))) return;
        const Node &from = nodes_[a], &to = nodes_[b];
        if (from.left < 0 && to.left < 0) return compare(from, to);
        const bool split_from = to.left < 0 || (from.left >= 0 && from.end - from.begin > to.end - to.begin);
        if (split_from) {
            visit(from.left, b);
            visit(from.right, b);
        } else {
            const bool right_first = bound(a, to.right) < bound(a, to.left);
            visit(a, right_first ? to.right : to.left);
            visit(a, right_first ? to.left : to.right);
        }
    }

    void compare(const Node &from, const Node &to) {
        for (int32_t s = from.begin; s < from.end; ++s) {
            const int32_t i = order_[s], component = (*component_)[i];
            if (component == skipped_) continue;
            Edge &best = (*best_)[component];
            if (cores_[i] > best.weight) continue;
            for (int32_t t = to.begin; t < to.end; ++t) {
                const int32_t j = order_[t];
                if ((*component_)[j] == component || cores_[j] > best.weight) continue;
                const double distance = std::sqrt(squared_distance(points_ + i * dims_, points_ + j * dims_, dims_));
                const Edge edge{std::max({distance, cores_[i], cores_[j]}), std::min(i, j), std::max(i, j)};
                if (edge < best) best = edge;
            }
        }
    }

    const double *points_, *cores_;
    const size_t dims_;
    std::vector<int32_t> order_;
    std::vector<Node> nodes_;
    std::vector<double> low_, high_;
    const std::vector<int32_t> *component_ = nullptr;
    std::vector<Edge> *best_ = nullptr;
    int32_t skipped_ = -1;
};

}  // namespace
