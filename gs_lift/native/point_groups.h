// Nearest neighbours: points in groups of near ones, each query compared with the groups that may hold a neighbour.
//
// Notation: N points of D dimensions in G groups, each with its box and its centre; R queries, each at home in one
// group. Groups are looked at by the distance of their centres from that of the queries' home, and passed over where
// their box is farther than the farthest neighbour so far. Comparisons are made in float32 around the points' mean;
// the best, and some to spare, are measured again in float64 and ordered by (distance, id). A query is the work of one
// thread: the same neighbours for any number of them.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "arrays.h"
#include "neighbours_kernel.h"
#include "rasterizer_frame.h"

namespace {

constexpr size_t SPARE = 8;  // kept beyond those wanted, so that float32's ranking cannot lose one of them
constexpr double INFINITE = std::numeric_limits<double>::infinity();

struct Edge {
    double weight;
    int32_t i, j;
    bool operator<(const Edge &other) const {
        if (weight != other.weight) return weight < other.weight;
        return i != other.i ? i < other.i : j < other.j;
    }
};
constexpr Edge NO_EDGE{INFINITE, std::numeric_limits<int32_t>::max(), 0};

struct Candidate {
    float squared;
    int32_t id;
    bool operator<(const Candidate &other) const {
        return squared != other.squared ? squared < other.squared : id < other.id;
    }
};

// The nearest candidates of one query: up to twice as many as wanted, the best half found when there is no room.
struct Best {
    Candidate *kept;
    size_t count = 0, wanted;
    float limit = std::numeric_limits<float>::infinity();

    void add(float squared, int32_t id) {
        if (!(squared < limit)) return;
        kept[count++] = {squared, id};
        if (count == 2 * wanted) shrink();
    }
    void shrink() {
        if (count < wanted) return;
        std::nth_element(kept, kept + wanted - 1, kept + count);
        count = wanted;
        limit = kept[wanted - 1].squared;
    }
};

// Centres in blocks of NEAR_TILE, each [D NEAR_TILE], to be asked for the one nearest to a vector.
class Centers {
  public:
    Centers() = default;
    Centers(const float *centers, size_t count, size_t dims) : count_(count), dims_(dims) {
        const size_t blocks = (count + NEAR_TILE - 1) / NEAR_TILE;
        blocks_.assign(blocks * NEAR_TILE * dims, std::numeric_limits<float>::quiet_NaN());
        for (size_t c = 0; c < count; ++c)
            for (size_t d = 0; d < dims; ++d)
                blocks_[(c / NEAR_TILE * dims + d) * NEAR_TILE + c % NEAR_TILE] = centers[c * dims + d];
    }
    // The lowest id where several are as near.
    int32_t nearest(const float *q, const Kernels &k) const {
        float limit = std::numeric_limits<float>::infinity(), squared[NEAR_TILE + 16];
        int32_t best = 0, places[NEAR_TILE + 16];
        for (size_t first = 0; first < count_; first += NEAR_TILE) {
            const int found = k.near_points(q, blocks_.data() + first * dims_, NEAR_TILE, int(dims_), limit, squared, places);
            for (int f = 0; f < found; ++f)
                if (squared[f] < limit) limit = squared[f], best = int32_t(first) + places[f];
        }
        return best;
    }

  private:
    size_t count_ = 0, dims_ = 0;
    std::vector<float> blocks_;
};

constexpr int RANGE = 1024;  // vectors that a thread takes at once

// Neighbours that were chosen in float32, measured again: ordered by (distance, id), the first `keep` written.
struct Ranking {
    const double *points, *queries;
    const int64_t *own;  // the point that a query is; -1: none
    size_t dims, keep;
    int32_t *ids;
    double *distances;

    // chosen: count ids; -1 and the query's own point are passed over. sorted: scratch.
    template <class Id>
    void write(size_t query, size_t count, Id id_of, std::vector<std::pair<double, int32_t>> &sorted) const {
        const double *x = queries + query * dims;
        sorted.clear();
        for (size_t c = 0; c < count; ++c) {
            const int64_t id = id_of(c);
            if (id < 0 || id == own[query]) continue;
            const double *y = points + size_t(id) * dims;
            double sum = 0;
            for (size_t d = 0; d < dims; ++d) sum += (x[d] - y[d]) * (x[d] - y[d]);
            sorted.emplace_back(std::sqrt(sum), int32_t(id));
        }
        std::sort(sorted.begin(), sorted.end());
        for (size_t c = 0; c < std::min(keep, sorted.size()); ++c) {
            distances[query * keep + c] = sorted[c].first;
            ids[query * keep + c] = sorted[c].second;
        }
    }
};

class PointGroups {
  public:
    // order [N]: ids, group by group; starts [G + 1]: where each begins. mean [D] and scale bring points to about 1.
    PointGroups(Matrix points, nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> order, Ints starts,
                Vector mean, double scale)
        : dims_(points.shape(1)), groups_(starts.shape(0) - 1), scale_(scale),
          mean_(mean.data(), mean.data() + mean.shape(0)), order_(order.data(), order.data() + order.shape(0)),
          start_(starts.data(), starts.data() + starts.shape(0)) {
        if (order_.size() != points.shape(0) || mean_.size() != dims_ || starts.shape(0) < 2)
            throw std::invalid_argument("PointGroups: points, order, starts and mean do not fit");
        low_.assign(groups_ * dims_, std::numeric_limits<float>::infinity());
        high_.assign(groups_ * dims_, -std::numeric_limits<float>::infinity());
        centers_.assign(groups_ * dims_, 0);
        place_.assign(groups_ + 1, 0);
        for (size_t g = 0; g < groups_; ++g)
            place_[g + 1] = place_[g] + padded(g) * dims_;
        float *blocks = blocks_.reserve(place_[groups_]);
        for (size_t g = 0; g < groups_; ++g) {
            const size_t size = size_of(g), rows = padded(g);
            float *block = blocks + place_[g];
            std::fill(block, block + rows * dims_, std::numeric_limits<float>::quiet_NaN());
            for (size_t v = 0; v < size; ++v) {
                const double *x = points.data() + size_t(order_[start_[g] + v]) * dims_;
                for (size_t d = 0; d < dims_; ++d) {
                    const float value = near_one(x[d], d);
                    block[d * rows + v] = value;
                    low_[g * dims_ + d] = std::min(low_[g * dims_ + d], value);
                    high_[g * dims_ + d] = std::max(high_[g * dims_ + d], value);
                    centers_[g * dims_ + d] += value / float(size);
                }
            }
        }
        nearest_center_ = Centers(centers_.data(), groups_, dims_);
    }

    // Of each query [R D]: the `keep` nearest of points [N D] but for the point own [R] (-1: none), as ids [R keep] and
    // distances [R keep], ascending; -1 and infinity where there are fewer. home [R]: the query's group, or -1. probes:
    // groups looked at; 0: all that may hold one of them, and where float32 cannot tell, float64 does: exact.
    auto nearest(Matrix points, Matrix queries, Ints own, Ints home, size_t keep, size_t probes,
                 int threads) const {
        const size_t count = queries.shape(0);
        if (points.shape(0) != order_.size() || points.shape(1) != dims_ || queries.shape(1) != dims_ ||
            own.shape(0) != count || home.shape(0) != count)
            throw std::invalid_argument("PointGroups.nearest: shapes do not fit");
        std::vector<int32_t> ids(count * keep, -1);
        std::vector<double> distances(count * keep, INFINITE);
        {
            nb::gil_scoped_release release;
            const Task task{{points.data(), queries.data(), own.data(), dims_, keep, ids.data(), distances.data()}, probes};
            std::vector<int32_t> members, first;
            bucket(task, home.data(), count, threads, members, first);
            const Kernels &kernels_now = kernels();
            std::vector<Scratch> scratch(size_t(std::max(threads, 1)));
            parallel(int(groups_), threads, [&](int g, int thread) {
                const size_t begin = size_t(first[g]), end = size_t(first[g + 1]);
                const size_t most = std::clamp(SCRATCH / (keep + SPARE), size_t(16), QUERIES);
                for (size_t at = begin; at < end; at += most)
                    search(task, size_t(g), members.data() + at, std::min(most, end - at), kernels_now,
                           scratch[size_t(thread)]);
            });
        }
        return nb::make_tuple(to_numpy(std::move(ids), {count, keep}), to_numpy(std::move(distances), {count, keep}));
    }

    // The lightest edge that leaves each component but `skipped`, by (weight, i, j), where it is lighter than `best`,
    // which says from where on there is no need to look. The weight is the mutual reachability of points [N D] with
    // cores [N]; component, best: [N]. Threads have bounds of their own: which of them finds an edge first changes
    // nothing in the minimum.
    void lightest_exits(const double *points, const double *cores, const std::vector<int32_t> &component,
                        int32_t skipped, std::vector<Edge> &best, int threads) const {
        std::vector<int32_t> only(groups_);  // the component of all points of a group, -1: several
        for (size_t g = 0; g < groups_; ++g) {
            only[g] = component[order_[start_[g]]];
            for (int64_t at = start_[g]; at < start_[g + 1]; ++at)
                if (component[order_[at]] != only[g]) only[g] = -1;
        }
        std::vector<std::vector<Edge>> found(size_t(std::max(threads, 1)), best);
        std::vector<Scratch> scratch(found.size());
        const Kernels &k = kernels();
        parallel(int(groups_), threads, [&](int g, int thread) {
            if (only[g] == skipped) return;
            Scratch &mine = scratch[size_t(thread)];
            order_visits(0, size_t(g), mine);
            mine.queries.resize(dims_);
            for (int64_t at = start_[g]; at < start_[g + 1]; ++at) {
                const int32_t i = order_[at], own = component[i];
                Edge &lightest = found[size_t(thread)][size_t(own)];
                if (own == skipped || cores[i] > lightest.weight) continue;
                const double *x = points + size_t(i) * dims_;
                for (size_t d = 0; d < dims_; ++d) mine.queries[d] = near_one(x[d], d);
                for (const auto &visit : mine.visits)
                    if (only[size_t(visit.second)] != own)
                        look_for_exit(points, cores, component, size_t(visit.second), i, lightest, k, mine);
            }
        });
        for (const auto &mine : found)
            for (size_t c = 0; c < best.size(); ++c) best[c] = std::min(best[c], mine[c]);
    }

  private:
    static constexpr size_t QUERIES = 512, SCRATCH = 1 << 16;  // at once: queries, and candidates of all of them

    struct Task {
        Ranking ranking;
        size_t probes;
    };
    struct Scratch {
        std::vector<float> queries, found, low, high;
        std::vector<int32_t> places;
        std::vector<Candidate> kept;
        std::vector<Best> best;
        std::vector<std::pair<float, int32_t>> visits;
        std::vector<std::pair<double, int32_t>> sorted;

        void make_room(size_t rows) {  // for what near_points finds
            if (found.size() < rows + 16) found.resize(rows + 16), places.resize(rows + 16);
        }
    };

    size_t size_of(size_t g) const { return size_t(start_[g + 1] - start_[g]); }
    size_t padded(size_t g) const { return (size_of(g) + NEAR_TILE - 1) / NEAR_TILE * NEAR_TILE; }
    float near_one(double x, size_t d) const { return float((x - mean_[d]) / scale_); }

    // The queries of each group, in the order in which they were given.
    void bucket(const Task &task, const int64_t *home, size_t count, int threads, std::vector<int32_t> &members,
                std::vector<int32_t> &first) const {
        std::vector<int32_t> group(count);
        const Kernels &k = kernels();
        parallel(int((count + RANGE - 1) / RANGE), threads, [&](int block, int) {
            std::vector<float> q(dims_);
            for (size_t i = size_t(block) * RANGE; i < std::min(count, size_t(block + 1) * RANGE); ++i) {
                if (home[i] >= 0 && size_t(home[i]) < groups_) {
                    group[i] = int32_t(home[i]);
                    continue;
                }
                for (size_t d = 0; d < dims_; ++d) q[d] = near_one(task.ranking.queries[i * dims_ + d], d);
                group[i] = nearest_center_.nearest(q.data(), k);
            }
        });
        first.assign(groups_ + 1, 0);
        for (size_t i = 0; i < count; ++i) ++first[group[i] + 1];
        for (size_t g = 0; g < groups_; ++g) first[g + 1] += first[g];
        std::vector<int32_t> cursor(first.begin(), first.end() - 1);
        members.resize(count);
        for (size_t i = 0; i < count; ++i) members[cursor[group[i]]++] = int32_t(i);
    }

    float apart(const float *a, const float *b) const {
        float sum = 0;
        for (size_t d = 0; d < dims_; ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
        return sum;
    }
    // Squared distance from the box low..high to the box of group h, less what rounding may have added.
    float to_box(const float *low, const float *high, size_t h) const {
        const float *there_low = low_.data() + h * dims_, *there_high = high_.data() + h * dims_;
        float sum = 0;
        for (size_t d = 0; d < dims_; ++d) {
            const float gap = std::max(std::max(there_low[d] - high[d], low[d] - there_high[d]), 0.0f);
            sum += gap * gap;
        }
        return sum * (1 - float(dims_ + 4) * 2.4e-7f);
    }

    void search(const Task &task, size_t g, const int32_t *members, size_t count, const Kernels &k,
                Scratch &scratch) const {
        const size_t wanted = task.ranking.keep + SPARE + 1;  // one more for the query itself
        scratch.queries.resize(count * dims_);
        scratch.kept.resize(count * 2 * wanted);
        scratch.best.assign(count, Best{});
        scratch.low.assign(dims_, std::numeric_limits<float>::infinity());
        scratch.high.assign(dims_, -std::numeric_limits<float>::infinity());
        for (size_t i = 0; i < count; ++i) {
            scratch.best[i].kept = scratch.kept.data() + i * 2 * wanted;
            scratch.best[i].wanted = wanted;
            for (size_t d = 0; d < dims_; ++d) {
                const float value = near_one(task.ranking.queries[size_t(members[i]) * dims_ + d], d);
                scratch.queries[i * dims_ + d] = value;
                scratch.low[d] = std::min(scratch.low[d], value);
                scratch.high[d] = std::max(scratch.high[d], value);
            }
        }
        order_visits(task.probes, g, scratch);
        float farthest = std::numeric_limits<float>::infinity();  // of all queries' limits
        for (const auto &visit : scratch.visits) {
            const size_t h = size_t(visit.second), rows = padded(h);
            if (to_box(scratch.low.data(), scratch.high.data(), h) > farthest) continue;
            scratch.make_room(rows);
            const float *block = blocks_.get() + place_[h];
            const int32_t *ids = order_.data() + start_[h];
            farthest = 0;
            for (size_t i = 0; i < count; ++i) {
                Best &best = scratch.best[i];
                const float *q = scratch.queries.data() + i * dims_;
                if (to_box(q, q, h) <= best.limit) {
                    const int found = k.near_points(q, block, int(rows), int(dims_), best.limit, scratch.found.data(),
                                                    scratch.places.data());
                    for (int f = 0; f < found; ++f) best.add(scratch.found[f], ids[scratch.places[f]]);
                    best.shrink();
                }
                farthest = std::max(farthest, best.limit);
            }
        }
        for (size_t i = 0; i < count; ++i) {
            Best &best = scratch.best[i];
            const size_t query = size_t(members[i]);
            best.shrink();
            task.ranking.write(query, best.count, [&](size_t c) { return best.kept[c].id; }, scratch.sorted);
            if (task.probes == 0 && best.count == wanted && scratch.sorted.size() > task.ranking.keep &&
                !certain(scratch.queries.data() + i * dims_, best.limit, scratch.sorted[task.ranking.keep - 1].first))
                search_in_double(task, query, scratch.queries.data() + i * dims_, scratch);
        }
    }

    // Most by which float32 misjudges a distance (both in units of scale_) from a query at q.
    double misjudged(const float *q, double distance) const {
        double norm2 = 0;
        for (size_t d = 0; d < dims_; ++d) norm2 += double(q[d]) * q[d];
        return 1.2e-7 * (2 * std::sqrt(norm2) + distance) + 1.2e-7 * double(dims_ + 2) * distance;
    }

    // Whether what float32 left out, farther than `limit`, is certainly farther than the last neighbour kept.
    bool certain(const float *q, float limit, double last) const {
        const double left_out = std::sqrt(double(limit));
        return left_out - misjudged(q, left_out) > last / scale_;
    }

    void search_in_double(const Task &task, size_t query, const float *q, Scratch &scratch) const {
        const size_t keep = task.ranking.keep, wanted = keep + 1;  // one more for the query itself
        const double *x = task.ranking.queries + query * dims_;
        auto &found = scratch.sorted;
        found.clear();
        double last = INFINITE;
        const auto shrink = [&] {
            if (found.size() < wanted) return;
            std::nth_element(found.begin(), found.begin() + int64_t(wanted - 1), found.end());
            found.resize(wanted);
            last = found[wanted - 1].first;
        };
        for (const auto &visit : scratch.visits) {
            const size_t h = size_t(visit.second);
            const double box = std::sqrt(double(to_box(q, q, h)));
            if ((box - misjudged(q, box)) * scale_ > last) continue;
            for (int64_t at = start_[h]; at < start_[h + 1]; ++at) {
                const double *y = task.ranking.points + size_t(order_[at]) * dims_;
                double sum = 0;
                for (size_t d = 0; d < dims_; ++d) sum += (x[d] - y[d]) * (x[d] - y[d]);
                const double distance = std::sqrt(sum);
                if (distance <= last) found.emplace_back(distance, order_[at]);
                if (found.size() >= 2 * wanted + 64) shrink();
            }
            shrink();
        }
        std::vector<int32_t> ids;
        for (const auto &one : found) ids.push_back(one.second);
        task.ranking.write(query, ids.size(), [&](size_t c) { return ids[c]; }, scratch.sorted);
    }

    // Lighter edges from point i, whose coordinates are scratch.queries, to other components' points in group h.
    void look_for_exit(const double *points, const double *cores, const std::vector<int32_t> &component, size_t h,
                       int32_t i, Edge &lightest, const Kernels &k, Scratch &scratch) const {
        const float *q = scratch.queries.data();
        // Float32 misjudges coordinates of about 1 by less than 1e-6 each.
        const float reach = float(lightest.weight / scale_ * (1 + 1e-6) + 4e-6 * std::sqrt(double(dims_)));
        if (to_box(q, q, h) > reach * reach) return;
        const size_t rows = padded(h);
        scratch.make_room(rows);
        const int count = k.near_points(q, blocks_.get() + place_[h], int(rows), int(dims_), reach * reach,
                                        scratch.found.data(), scratch.places.data());
        const double *x = points + size_t(i) * dims_;
        for (int f = 0; f < count; ++f) {
            const int32_t j = order_[size_t(start_[h]) + size_t(scratch.places[f])];
            if (component[j] == component[i] || cores[j] > lightest.weight) continue;
            const double *y = points + size_t(j) * dims_;
            double sum = 0;
            for (size_t d = 0; d < dims_; ++d) sum += (x[d] - y[d]) * (x[d] - y[d]);
            const Edge edge{std::max({std::sqrt(sum), cores[i], cores[j]}), std::min(i, j), std::max(i, j)};
            if (edge < lightest) lightest = edge;
        }
    }

    // The groups to look at, the nearest first by the distance of their centres from that of group g, ties by number.
    // Where all are looked at, only the first need an order: they set the bounds that the others are held to.
    void order_visits(size_t probes, size_t g, Scratch &scratch) const {
        constexpr size_t ORDERED = 64;
        auto &visits = scratch.visits;
        visits.resize(groups_);
        for (size_t h = 0; h < groups_; ++h)
            visits[h] = {h == g ? -1.0f : apart(centers_.data() + g * dims_, centers_.data() + h * dims_), int32_t(h)};
        const size_t looked_at = probes ? std::min(probes, groups_) : groups_;
        const size_t ordered = probes ? looked_at : std::min(ORDERED, groups_);
        std::partial_sort(visits.begin(), visits.begin() + int64_t(ordered), visits.end());
        visits.resize(looked_at);
    }

    size_t dims_, groups_;
    double scale_;
    std::vector<double> mean_;
    std::vector<int32_t> order_;
    std::vector<int64_t> start_;
    std::vector<size_t> place_;  // where each group's block [D padded] begins
    Buffer<float> blocks_;
    std::vector<float> low_, high_, centers_;  // [G D]
    Centers nearest_center_;
};

}  // namespace
