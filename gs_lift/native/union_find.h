// Disjoint sets.
#pragma once
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace {

struct UnionFind {
    std::vector<int32_t> parent;
    explicit UnionFind(size_t count) : parent(count) { std::iota(parent.begin(), parent.end(), 0); }
    int32_t find(int32_t i) {
        while (parent[i] != i) i = parent[i] = parent[parent[i]];
        return i;
    }
    // Join two roots under the lower id.
    int32_t join(int32_t a, int32_t b) {
        if (b < a) std::swap(a, b);
        return parent[b] = a;
    }
};

}  // namespace
