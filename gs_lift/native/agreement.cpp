// Agglomeration by agreement: groups that the segments of most views put together become one.
//
// Notation: n nodes, S segments, V views. X [n S]: how far a node lies in a segment; inside, outside [n V]: how far it
// lies in any segment of a view, and in stuff. The segments from `first_told` on are those of a view that is no image:
// the clusters that another method made; told = what they have part in same. Of two groups A and B, whose rows are the
// sums of their |A| and |B| nodes':
//
//     same = X_A . X_B        apart = inside_A . inside_B + doubt (inside_A . outside_B + outside_A . inside_B)
//     agreement = (told + (same - told) (1 + trust told / (|A| |B|))) / (apart + prior)
//
// The two of the greatest agreement join, until none reaches `least`: average linkage, where an average over few views
// counts less.
#include <algorithm>
#include <queue>
#include <stdexcept>
#include <vector>

#include "arrays.h"

namespace {

using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

struct Candidate {
    double agreement;
    int32_t a, b;  // a < b
    bool operator<(const Candidate &other) const {  // of equals the older groups first
        if (agreement != other.agreement) return agreement < other.agreement;
        return a != other.a ? a > other.a : b > other.b;
    }
};

struct Link {
    int32_t group;
    double same, told;
};

class Agglomeration {
  public:
    Agglomeration(Ints indptr, Ints segments, Vector values, size_t segment_count, size_t first_told, Table inside, Table outside,
                  double doubt, double prior, double least, double trust)
        : first_told(first_told), trust(trust), count(inside.shape(0)), views(inside.shape(1)), doubt(doubt), prior(prior), least(least),
          inside_of(inside.data(), inside.data() + count * views),
          outside_of(outside.data(), outside.data() + count * views), slot(count), size(count, 1.0), links(count) {
        for (size_t node = 0; node < count; ++node) slot[node] = int32_t(node);
        link_nodes(indptr.data(), segments.data(), values.data(), segment_count);
    }

    // Pairs of groups in the order in which they join, and their agreement; group n + i is made by the i-th pair.
    std::pair<std::vector<int64_t>, std::vector<double>> run() {
        std::vector<int64_t> pairs;
        std::vector<double> agreements;
        while (!queue.empty()) {
            const Candidate best = queue.top();
            queue.pop();
            if (slot[best.a] < 0 || slot[best.b] < 0) continue;
            pairs.insert(pairs.end(), {best.a, best.b});
            agreements.push_back(best.agreement);
            join(best.a, best.b);
        }
        return {std::move(pairs), std::move(agreements)};
    }

  private:
    const size_t first_told;
    const double trust;
    const size_t count, views;
    const double doubt, prior, least;
    std::vector<float> inside_of, outside_of;  // [n V] by slot
    std::vector<int32_t> slot;
    std::vector<double> size;                 // of each group, -1 = it is part of another by now
    std::vector<std::vector<Link>> links;      // by rising group; also to groups that are part of another by now
    std::priority_queue<Candidate> queue;

    void link_nodes(const int64_t *indptr, const int64_t *segments, const double *values, size_t segment_count) {
        std::vector<std::vector<std::pair<int32_t, double>>> nodes_in(segment_count);
        std::vector<double> sum(count, 0.0), told(count, 0.0);
        std::vector<int32_t> touched;
        for (size_t node = 0; node < count; ++node) {
            for (int64_t e = indptr[node]; e < indptr[node + 1]; ++e) {
                if (!(values[e] > 0)) continue;
                for (const auto &[other, value] : nodes_in[segments[e]]) {
                    if (sum[other] == 0.0) touched.push_back(other);
                    sum[other] += value * values[e];
                    if (size_t(segments[e]) >= first_told) told[other] += value * values[e];
                }
                nodes_in[segments[e]].emplace_back(int32_t(node), values[e]);
            }
            std::sort(touched.begin(), touched.end());
            for (const int32_t other : touched) {
                links[node].push_back({other, sum[other], told[other]});
                links[other].push_back({int32_t(node), sum[other], told[other]});
                consider(other, int32_t(node), sum[other], told[other]);
                sum[other] = told[other] = 0.0;
            }
            touched.clear();
        }
    }

    void consider(int32_t a, int32_t b, double same, double told) {
        const double share = told / (size[a] * size[b]);
        same = told + (same - told) * (1 + trust * share);
        if (same < least * prior) return;  // apart is not negative
        const double agreement = same / (apart(a, b) + prior);
        if (agreement >= least) queue.push({agreement, a, b});
    }

    double apart(int32_t a, int32_t b) const {
        const float *ia = &inside_of[slot[a] * views], *ib = &inside_of[slot[b] * views];
        const float *oa = &outside_of[slot[a] * views], *ob = &outside_of[slot[b] * views];
        double both = 0, one = 0;
        for (size_t v = 0; v < views; ++v) {
            both += double(ia[v]) * ib[v];
            one += double(ia[v]) * ob[v] + double(oa[v]) * ib[v];
        }
        return both + doubt * one;
    }

    void join(int32_t a, int32_t b) {
        const auto group = int32_t(slot.size());
        const size_t into = size_t(slot[a]) * views, from = size_t(slot[b]) * views;
        for (size_t v = 0; v < views; ++v) {
            inside_of[into + v] += inside_of[from + v];
            outside_of[into + v] += outside_of[from + v];
        }
        slot.push_back(slot[a]);
        size.push_back(size[a] + size[b]);
        slot[a] = slot[b] = -1;
        links.push_back(pooled(links[a], links[b]));
        links[a] = {};
        links[b] = {};
        for (const Link &link : links.back()) {
            add_last(links[link.group], {group, link.same, link.told});
            consider(link.group, group, link.same, link.told);
        }
    }

    // The links of both to groups that still stand.
    std::vector<Link> pooled(const std::vector<Link> &left, const std::vector<Link> &right) const {
        std::vector<Link> all;
        all.reserve(left.size() + right.size());
        size_t i = 0, j = 0;
        while (i < left.size() || j < right.size()) {
            const bool take = j == right.size() || (i < left.size() && left[i].group <= right[j].group);
            Link next = take ? left[i++] : right[j++];
            if (take && j < right.size() && right[j].group == next.group) {
                next.told += right[j].told;
                next.same += right[j++].same;
            }
            if (slot[next.group] >= 0) all.push_back(next);
        }
        return all;
    }

    // `link` is to the newest group. Links to what stands no more go when room runs out, so the list stays short.
    void add_last(std::vector<Link> &list, Link link) {
        if (list.size() == list.capacity()) {
            const auto gone = [&](const Link &old) { return slot[old.group] < 0; };
            list.erase(std::remove_if(list.begin(), list.end(), gone), list.end());
            if (2 * list.size() >= list.capacity()) list.reserve(2 * list.capacity() + 1);
        }
        list.push_back(link);
    }
};

// X in compressed rows (indptr [n + 1], segments, values), inside and outside [n V] -> pairs [M 2], agreement [M].
auto agglomerate(Ints indptr, Ints segments, Vector values, int64_t segment_count, int64_t first_told, Table inside,
                 Table outside, double doubt, double prior, double least, double trust) {
    const size_t count = inside.shape(0);
    if (indptr.shape(0) != count + 1 || outside.shape(0) != count || outside.shape(1) != inside.shape(1) ||
        segments.shape(0) != values.shape(0))
        throw std::invalid_argument("agglomerate: wanted n + 1 offsets and [n V] inside and outside");
    for (size_t e = 0; e < segments.shape(0); ++e)
        if (segments.data()[e] < 0 || segments.data()[e] >= segment_count)
            throw std::invalid_argument("agglomerate: a segment is out of range");
    std::pair<std::vector<int64_t>, std::vector<double>> joined;
    {
        nb::gil_scoped_release release;
        Agglomeration groups(indptr, segments, values, size_t(segment_count), size_t(first_told), inside,
                             outside, doubt, prior, least, trust);
        joined = groups.run();
    }
    const size_t made = joined.second.size();
    return nb::make_tuple(to_numpy(std::move(joined.first), {made, 2}), to_numpy(std::move(joined.second)));
}

}  // namespace

void bind_agreement(nb::module_ &m) {
    m.def("agglomerate", &agglomerate, nb::arg("indptr"), nb::arg("segments"), nb::arg("values"),
          nb::arg("segment_count"), nb::arg("first_told"), nb::arg("inside"), nb::arg("outside"), nb::arg("doubt"), nb::arg("prior"),
          nb::arg("least"), nb::arg("trust"));
}
