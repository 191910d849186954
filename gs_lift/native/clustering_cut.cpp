// What another cut of a tree needs, fast enough to be dragged by a slider: who is near whom in space, and linkage that
// keeps apart what must be apart.
#include <algorithm>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "arrays.h"
#include "rasterizer_frame.h"
#include "union_find.h"

namespace {

// Of each point, a bit for each of its neighbours [N k], k <= 16, that has it among its own.
auto mutual_bits(Ids neighbours) {
    const size_t count = neighbours.shape(0), width = neighbours.shape(1);
    if (width > 16) throw std::invalid_argument("mutual_bits: at most 16 neighbours wanted");
    const int32_t *ids = neighbours.data();
    std::vector<uint16_t> bits(count, 0);
    for (size_t row = 0; row < count; ++row)
        for (size_t c = 0; c < width; ++c) {
            const int32_t other = ids[row * width + c];
            if (other < 0) continue;
            const int32_t *back = ids + size_t(other) * width;
            if (std::find(back, back + width, int32_t(row)) != back + width) bits[row] |= uint16_t(1u << c);
        }
    return to_numpy(std::move(bits));
}

// Components of mutual neighbours that share a label [N]: the lowest id of each point's component [N]. Points of a
// label below 0 stand alone.
auto mutual_components(Ids neighbours, nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> bits,
                       Ints labels) {
    const size_t count = neighbours.shape(0), width = neighbours.shape(1);
    UnionFind sets(count);
    for (size_t row = 0; row < count; ++row) {
        if (labels.data()[row] < 0) continue;
        const int32_t *ids = neighbours.data() + row * width;
        for (uint32_t rest = bits.data()[row]; rest; rest &= rest - 1) {
            const int32_t other = ids[__builtin_ctz(rest)];
            if (other < int64_t(row) || labels.data()[other] != labels.data()[row]) continue;
            const int32_t a = sets.find(static_cast<int32_t>(row)), b = sets.find(other);
            if (a != b) sets.join(a, b);
        }
    }
    std::vector<int64_t> component(count);
    for (size_t row = 0; row < count; ++row) component[row] = sets.find(static_cast<int32_t>(row));
    return to_numpy(std::move(component));
}

// Share of the weight of the neighbours [N k] of each of `rows` [R] that is of a label: wanted [R].
auto share_of_label(Ids neighbours, Ints labels, Vector weights, Ints rows, Ints wanted, int threads) {
    const size_t count = rows.shape(0), width = neighbours.shape(1);
    std::vector<double> share(count);
    {
        nb::gil_scoped_release release;
        parallel_ranges(int(count), threads, [&](int begin, int end) {
            for (int r = begin; r < end; ++r) {
                const int32_t *ids = neighbours.data() + size_t(rows.data()[r]) * width;
                double own = 0, all = 0;
                for (size_t c = 0; c < width && ids[c] >= 0; ++c) {
                    const double weight = weights.data()[ids[c]];
                    all += weight;
                    if (labels.data()[ids[c]] == wanted.data()[r]) own += weight;
                }
                share[r] = own / std::max(all, 1e-12);
            }
        });
    }
    return to_numpy(std::move(share));
}

// Single linkage that keeps some points apart. edges [N-1 2]: a tree's, by rising weight; labels [N]: only edges within
// a label >= 0 join. groups [N]: points of one group >= 0 are together from the start. conflicts [X 2]: groups that
// must not meet. -> the lowest id of each point's component [N].
auto link_apart(Pairs edges, Ints labels, Ints groups, Pairs conflicts) {
    const size_t count = labels.shape(0);
    UnionFind sets(count);
    std::unordered_map<int64_t, int32_t> first;             // a point of each group
    std::unordered_map<int32_t, std::vector<int64_t>> held;  // the groups in each component that has any
    std::unordered_map<int64_t, std::unordered_set<int64_t>> enemies;
    for (size_t x = 0; x < conflicts.shape(0); ++x) {
        const int64_t a = conflicts.data()[2 * x], b = conflicts.data()[2 * x + 1];
        enemies[a].insert(b);
        enemies[b].insert(a);
    }
    const auto join = [&](int32_t a, int32_t b) {
        const int32_t root = sets.join(a, b), other = root == a ? b : a;
        const auto moved = held.find(other);
        if (moved == held.end()) return;
        std::vector<int64_t> groups_moved = std::move(moved->second);
        held.erase(moved);
        auto &kept = held[root];
        kept.insert(kept.end(), groups_moved.begin(), groups_moved.end());
    };
    for (size_t row = 0; row < count; ++row) {
        const int64_t group = groups.data()[row];
        if (group < 0) continue;
        const auto [at, fresh] = first.emplace(group, static_cast<int32_t>(row));
        const int32_t here = sets.find(static_cast<int32_t>(row)), there = sets.find(at->second);
        if (fresh) held[here].push_back(group);
        else if (here != there) join(here, there);
    }
    const auto hostile = [&](int32_t a, int32_t b) {
        const auto left = held.find(a), right = held.find(b);
        if (left == held.end() || right == held.end()) return false;
        for (const int64_t one : left->second) {
            const auto of_one = enemies.find(one);
            if (of_one == enemies.end()) continue;
            for (const int64_t other : right->second)
                if (of_one->second.count(other)) return true;
        }
        return false;
    };
    for (size_t e = 0; e < edges.shape(0); ++e) {
        const int64_t i = edges.data()[2 * e], j = edges.data()[2 * e + 1];
        if (labels.data()[i] < 0 || labels.data()[i] != labels.data()[j]) continue;
        const int32_t a = sets.find(static_cast<int32_t>(i)), b = sets.find(static_cast<int32_t>(j));
        if (a != b && !hostile(a, b)) join(a, b);
    }
    // A label may hang together by points without one only: its pieces are one all the same.
    std::unordered_map<int64_t, std::vector<int32_t>> pieces;
    for (size_t row = 0; row < count; ++row) {
        if (labels.data()[row] < 0) continue;
        auto &of_label = pieces[labels.data()[row]];
        const int32_t here = sets.find(static_cast<int32_t>(row));
        bool home = false;
        for (int32_t &piece : of_label) {
            piece = sets.find(piece);
            if (piece != here && hostile(piece, here)) continue;
            if (piece != here) join(piece, here);
            home = true;
            break;
        }
        if (!home) of_label.push_back(here);
    }
    std::vector<int64_t> component(count);
    for (size_t row = 0; row < count; ++row) component[row] = sets.find(static_cast<int32_t>(row));
    return to_numpy(std::move(component));
}

}  // namespace

void bind_clustering_cut(nb::module_ &m) {
    m.def("mutual_bits", &mutual_bits, nb::arg("neighbours"));
    m.def("mutual_components", &mutual_components, nb::arg("neighbours"), nb::arg("bits"), nb::arg("labels"));
    m.def("share_of_label", &share_of_label, nb::arg("neighbours"), nb::arg("labels"), nb::arg("weights"),
          nb::arg("rows"), nb::arg("wanted"), nb::arg("threads"));
    m.def("link_apart", &link_apart, nb::arg("edges"), nb::arg("labels"), nb::arg("groups"), nb::arg("conflicts"));
}
