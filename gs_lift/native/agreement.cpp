// Agglomeration by agreement: groups that the segments of most views put together become one.
//
// Notation: n nodes, S segments, V views. X [S n]: how far a node lies in a segment; inside, outside [V n]: how far it
// lies in any segment of a view, and in stuff. The segments from `first_told` on are those of a view that is no image:
// the clusters that another method made; told = what they have part in same. Of two groups A and B, whose columns are
// the sums of their |A| and |B| nodes':
//
//     same = X_A . X_B        apart = inside_A . inside_B + doubt (inside_A . outside_B + outside_A . inside_B)
//     agreement = (told + (same - told) (1 + trust told / (|A| |B|))) / (apart + prior)
//
// The two of the greatest agreement join, until none reaches `least`: average linkage, where an average over few views
// counts less.
//
// Memory grows with the entries of X, inside and outside, not with the pairs that share a segment: those are a square
// of the nodes of an object. A pair's agreement is made from both columns whenever it is asked for, and each group
// keeps only its best partners among those older than itself; when they are all gone, it looks for more.
#include <algorithm>
#include <queue>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "rasterizer_frame.h"

namespace {

using Numbers = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Singles = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct Candidate {
    double agreement;
    int32_t a, b;  // a < b
    bool operator<(const Candidate &other) const {  // of equals the older groups first
        if (agreement != other.agreement) return agreement < other.agreement;
        return a != other.a ? a > other.a : b > other.b;
    }
};

struct Weights {
    double doubt, prior, least, trust;
};

// What a group has, by rising segment and by rising view.
struct Column {
    std::vector<int32_t> segments, views;
    std::vector<double> values;
    std::vector<float> inside, outside;
};

// The sum of two sparse vectors: at(i, j) is told of each place that either has, -1 for the one that lacks it.
template <class At> void merge(const std::vector<int32_t> &left, const std::vector<int32_t> &right, At at) {
    size_t i = 0, j = 0;
    while (i < left.size() || j < right.size()) {
        const bool of_left = j == right.size() || (i < left.size() && left[i] <= right[j]);
        const bool of_right = i == left.size() || (j < right.size() && right[j] <= left[i]);
        at(of_left ? int64_t(i) : -1, of_right ? int64_t(j) : -1);
        i += of_left, j += of_right;
    }
}

Column sum(const Column &a, const Column &b) {
    Column both;
    const size_t segments = a.segments.size() + b.segments.size(), views = a.views.size() + b.views.size();
    both.segments.reserve(segments), both.values.reserve(segments);
    both.views.reserve(views), both.inside.reserve(views), both.outside.reserve(views);
    merge(a.segments, b.segments, [&](int64_t i, int64_t j) {
        both.segments.push_back(i >= 0 ? a.segments[size_t(i)] : b.segments[size_t(j)]);
        both.values.push_back((i >= 0 ? a.values[size_t(i)] : 0) + (j >= 0 ? b.values[size_t(j)] : 0));
    });
    merge(a.views, b.views, [&](int64_t i, int64_t j) {
        both.views.push_back(i >= 0 ? a.views[size_t(i)] : b.views[size_t(j)]);
        both.inside.push_back((i >= 0 ? a.inside[size_t(i)] : 0) + (j >= 0 ? b.inside[size_t(j)] : 0));
        both.outside.push_back((i >= 0 ? a.outside[size_t(i)] : 0) + (j >= 0 ? b.outside[size_t(j)] : 0));
    });
    both.segments.shrink_to_fit(), both.values.shrink_to_fit();
    both.views.shrink_to_fit(), both.inside.shrink_to_fit(), both.outside.shrink_to_fit();
    return both;
}

// Compressed rows that numpy holds.
struct Rows {
    const int64_t *starts;
    const int32_t *nodes;
    size_t count;
};

class Agglomeration {
  public:
    Agglomeration(size_t nodes, Rows segments, const double *values, Rows views, const float *inside, const float *outside,
                  size_t first_told, Weights weights, int threads)
        : count(nodes), view_count(views.count), first_told(first_told), weights(weights), start(segments.starts),
          columns(nodes), size(nodes, 1.0), partners(nodes), more(nodes, 0), room(nodes, KEPT) {
        fill_columns(segments, values, views, inside, outside);
        const int block = 64;  // nodes that a thread takes at once
        std::vector<Scratch> scratch(size_t(std::max(threads, 1)));
        parallel(int((nodes + block - 1) / block), threads, [&](int task, int thread) {
            const size_t end = std::min(nodes, size_t(task + 1) * block);
            for (size_t node = size_t(task) * block; node < end; ++node)
                look_for_partners(int32_t(node), scratch[size_t(thread)]);
        });
        for (size_t node = 0; node < nodes; ++node) queue_best(int32_t(node), scratch[0]);
        mine = std::move(scratch[0]);
    }

    // Pairs of groups in the order in which they join, and their agreement; group n + i is made by the i-th pair.
    std::pair<std::vector<int64_t>, std::vector<double>> run() {
        std::vector<int64_t> pairs;
        std::vector<double> agreements;
        while (!queue.empty()) {
            const Candidate best = queue.top();
            queue.pop();
            if (!stands(best.b)) continue;
            if (!stands(best.a)) {  // what b has now is not better: the queue was in order with this
                queue_best(best.b, mine);
                continue;
            }
            pairs.insert(pairs.end(), {best.a, best.b});
            agreements.push_back(best.agreement);
            join(best.a, best.b);
        }
        return {std::move(pairs), std::move(agreements)};
    }

  private:
    static constexpr size_t KEPT = 16;  // partners of a group; when they are gone, four times as many

    struct Scratch {
        std::vector<double> same, told;       // by group
        std::vector<double> inside, outside;  // by view
        std::vector<int32_t> touched;
        std::vector<Candidate> found;
    };

    const size_t count, view_count, first_told;
    const Weights weights;
    const int64_t *start;              // [S + 1] where each segment's groups begin
    std::vector<int32_t> length;       // [S] how many it has: never more than it had nodes
    std::vector<int32_t> group;        // by rising age; some are part of others by now
    std::vector<double> value;
    std::vector<Column> columns;
    std::vector<double> size;                       // of each group, -1 = it is part of another by now
    std::vector<std::vector<Candidate>> partners;  // of each group the best of the older ones, the very best last
    std::vector<char> more;                        // whether it has others than those
    std::vector<size_t> room;                      // how many are kept when it looks next
    std::priority_queue<Candidate> queue;          // of each group the best
    Scratch mine;

    bool stands(int32_t one) const { return size[size_t(one)] > 0; }

    void fill_columns(Rows segments, const double *values, Rows views, const float *inside, const float *outside) {
        std::vector<int32_t> of_segments(count, 0), of_views(count, 0);
        length.assign(segments.count, 0);
        group.resize(size_t(start[segments.count]));
        value.resize(group.size());
        for (size_t s = 0; s < segments.count; ++s)
            for (int64_t e = start[s]; e < start[s + 1]; ++e) {
                if (!(values[e] > 0)) continue;
                const size_t at = size_t(start[s]) + size_t(length[s]++);
                group[at] = segments.nodes[e], value[at] = values[e];
                ++of_segments[size_t(segments.nodes[e])];
            }
        for (int64_t e = 0; e < views.starts[views.count]; ++e) ++of_views[size_t(views.nodes[e])];
        for (size_t node = 0; node < count; ++node) {
            Column &column = columns[node];
            column.segments.reserve(size_t(of_segments[node])), column.values.reserve(size_t(of_segments[node]));
            for (auto *one : {&column.inside, &column.outside}) one->reserve(size_t(of_views[node]));
            column.views.reserve(size_t(of_views[node]));
        }
        for (size_t s = 0; s < segments.count; ++s)
            for (size_t at = size_t(start[s]); at < size_t(start[s]) + size_t(length[s]); ++at) {
                columns[size_t(group[at])].segments.push_back(int32_t(s));
                columns[size_t(group[at])].values.push_back(value[at]);
            }
        for (size_t v = 0; v < views.count; ++v)
            for (int64_t e = views.starts[v]; e < views.starts[v + 1]; ++e) {
                Column &column = columns[size_t(views.nodes[e])];
                column.views.push_back(int32_t(v));
                column.inside.push_back(inside[e]), column.outside.push_back(outside[e]);
            }
    }

    // The best of the older groups that stand and share a segment with b.
    void look_for_partners(int32_t b, Scratch &scratch) {
        const Column &own = columns[size_t(b)];
        if (scratch.same.size() < size.size()) scratch.same.resize(2 * count, 0), scratch.told.resize(2 * count, 0);
        scratch.inside.resize(view_count, 0), scratch.outside.resize(view_count, 0);
        for (size_t i = 0; i < own.segments.size(); ++i) {
            const auto segment = size_t(own.segments[i]);
            const size_t begin = size_t(start[segment]), end = begin + size_t(length[segment]);
            for (size_t at = begin; at < end && group[at] < b; ++at) {
                const auto other = size_t(group[at]);
                if (!(size[other] > 0)) continue;
                const double product = value[at] * own.values[i];
                if (scratch.same[other] == 0) scratch.touched.push_back(group[at]);
                scratch.same[other] += product;
                if (segment >= first_told) scratch.told[other] += product;
            }
        }
        for (size_t i = 0; i < own.views.size(); ++i) {
            scratch.inside[size_t(own.views[i])] = own.inside[i];
            scratch.outside[size_t(own.views[i])] = own.outside[i];
        }
        for (const int32_t a : scratch.touched) {
            const double agreed = agreement(a, b, scratch);
            if (agreed >= weights.least) scratch.found.push_back({agreed, a, b});
            scratch.same[size_t(a)] = scratch.told[size_t(a)] = 0;
        }
        scratch.touched.clear();
        for (const int32_t view : own.views) scratch.inside[size_t(view)] = scratch.outside[size_t(view)] = 0;
        keep(b, scratch.found);
    }

    // Of group a with b, which scratch is about; -1 where it is certainly too little.
    double agreement(int32_t a, int32_t b, const Scratch &scratch) const {
        const double told = scratch.told[size_t(a)], share = told / (size[size_t(a)] * size[size_t(b)]);
        const double same = told + (scratch.same[size_t(a)] - told) * (1 + weights.trust * share);
        if (same < weights.least * weights.prior) return -1;  // apart is not negative
        return same / (apart(columns[size_t(a)], scratch) + weights.prior);
    }

    double apart(const Column &a, const Scratch &b) const {
        double both = 0, one = 0;
        for (size_t i = 0; i < a.views.size(); ++i) {
            const auto v = size_t(a.views[i]);
            both += double(a.inside[i]) * b.inside[v];
            one += double(a.inside[i]) * b.outside[v] + double(a.outside[i]) * b.inside[v];
        }
        return both + weights.doubt * one;
    }

    void keep(int32_t b, std::vector<Candidate> &found) {
        const auto better = [](const Candidate &left, const Candidate &right) { return right < left; };
        const size_t kept = std::min(room[size_t(b)], found.size());
        room[size_t(b)] *= 4;
        std::partial_sort(found.begin(), found.begin() + int64_t(kept), found.end(), better);
        more[size_t(b)] = found.size() > kept;
        partners[size_t(b)].assign(found.rend() - int64_t(kept), found.rend());
        found.clear();
    }

    // The best partner of b that stands, if there is one, to the queue.
    void queue_best(int32_t b, Scratch &scratch) {
        auto &own = partners[size_t(b)];
        const auto drop_gone = [&] {
            while (!own.empty() && !stands(own.back().a)) own.pop_back();
        };
        drop_gone();
        if (own.empty() && more[size_t(b)]) look_for_partners(b, scratch);
        if (own.empty()) return;
        queue.push(own.back());
    }

    void join(int32_t a, int32_t b) {
        const auto made = int32_t(size.size());
        columns.push_back(sum(columns[size_t(a)], columns[size_t(b)]));
        size.push_back(size[size_t(a)] + size[size_t(b)]);
        size[size_t(a)] = size[size_t(b)] = -1;
        partners.emplace_back();
        more.push_back(0);
        room.push_back(KEPT);
        for (const int32_t gone : {a, b}) columns[size_t(gone)] = {}, partners[size_t(gone)] = {};
        const Column &own = columns.back();
        for (size_t i = 0; i < own.segments.size(); ++i) replace(size_t(own.segments[i]), made, own.values[i]);
        look_for_partners(made, mine);
        queue_best(made, mine);
    }

    // The newest group takes the place of those that are part of it in a segment's list: there is room.
    void replace(size_t segment, int32_t made, double of_made) {
        const size_t begin = size_t(start[segment]), end = begin + size_t(length[segment]);
        size_t into = begin;
        for (size_t at = begin; at < end; ++at)
            if (stands(group[at])) group[into] = group[at], value[into++] = value[at];
        group[into] = made, value[into++] = of_made;
        length[segment] = int32_t(into - begin);
    }
};

void check(const char *what, size_t nodes, Ints starts, Numbers of, size_t entries) {
    const auto refuse = [&](const char *why) { throw std::invalid_argument(std::string("agglomerate: ") + what + why); };
    if (starts.shape(0) < 1 || of.shape(0) != entries) refuse(": wanted offsets, and as many nodes as values");
    for (size_t s = 0; s < starts.shape(0); ++s)
        if (starts.data()[s] < (s ? starts.data()[s - 1] : 0) || starts.data()[s] > int64_t(entries))
            refuse(": offsets do not rise from 0 to the number of entries");
    if (starts.data()[0] != 0 || starts.data()[starts.shape(0) - 1] != int64_t(entries))
        refuse(": offsets do not rise from 0 to the number of entries");
    for (size_t s = 0; s + 1 < starts.shape(0); ++s)
        for (int64_t e = starts.data()[s]; e < starts.data()[s + 1]; ++e)
            if (of.data()[e] < (e > starts.data()[s] ? of.data()[e - 1] + 1 : 0) || size_t(of.data()[e]) >= nodes)
                refuse(": a node is out of range, or nodes do not rise");
}

// X in compressed rows (segments [S + 1], nodes, values), inside and outside together in others (views [V + 1], seen,
// inside, outside) -> pairs [M 2], agreement [M].
auto agglomerate(size_t count, Ints segments, Numbers nodes, Vector values, size_t first_told, Ints views, Numbers seen,
                 Singles inside, Singles outside, double doubt, double prior, double least, double trust, int threads) {
    check("segments", count, segments, nodes, values.shape(0));
    check("views", count, views, seen, inside.shape(0));
    if (outside.shape(0) != inside.shape(0))
        throw std::invalid_argument("agglomerate: views: wanted as many values outside as inside");
    std::pair<std::vector<int64_t>, std::vector<double>> joined;
    {
        nb::gil_scoped_release release;
        Agglomeration groups(count, {segments.data(), nodes.data(), segments.shape(0) - 1}, values.data(),
                             {views.data(), seen.data(), views.shape(0) - 1}, inside.data(), outside.data(), first_told,
                             {doubt, prior, least, trust}, threads);
        joined = groups.run();
    }
    const size_t made = joined.second.size();
    return nb::make_tuple(to_numpy(std::move(joined.first), {made, 2}), to_numpy(std::move(joined.second)));
}

}  // namespace

void bind_agreement(nb::module_ &m) {
    m.def("agglomerate", &agglomerate, nb::arg("count"), nb::arg("segments"), nb::arg("nodes"), nb::arg("values"),
          nb::arg("first_told"), nb::arg("views"), nb::arg("seen"), nb::arg("inside"), nb::arg("outside"),
          nb::arg("doubt"), nb::arg("prior"), nb::arg("least"), nb::arg("trust"), nb::arg("threads"));
}
