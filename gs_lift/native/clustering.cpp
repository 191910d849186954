// The loops of HDBSCAN: equal rows, core distances, spanning tree, condensed tree.
//
// Notation: N points, k neighbours each. core[i]: core distance. The mutual reachability of i and j is
// max(core[i], core[j], |x_i - x_j|) (Campello, Moulavi, Sander 2013). An edge is (weight, i, j) with i < j, and edges
// are ordered by all three, so that ties are settled the same way on every run and for any number of threads.
// Nodes of the merge tree: leaves 0..N-1, merge m is node N + m; a merge's node is greater than its children.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <unordered_map>
#include <vector>

#include "arrays.h"
#include "point_groups.h"
#include "union_find.h"

namespace {

// ---------------------------------------------------------------------------------------------- rows and neighbours

// Number equal rows alike, in order of first appearance: [N] row -> group.
auto group_equal_rows(Matrix points) {
    const size_t count = points.shape(0), dims = points.shape(1);
    std::vector<int64_t> group(count), first;
    std::unordered_multimap<uint64_t, int64_t> seen;
    seen.reserve(count);
    for (size_t row = 0; row < count; ++row) {
        const double *x = points.data() + row * dims;
        uint64_t hash = 1469598103934665603ull;
        for (size_t d = 0; d < dims; ++d) {
            const double value = x[d] + 0.0;  // -0 and 0 are equal
            uint64_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            hash = (hash ^ bits) * 1099511628211ull;
            hash ^= hash >> 29;
        }
        int64_t found = -1;
        const auto range = seen.equal_range(hash);
        for (auto it = range.first; it != range.second && found < 0; ++it) {
            const double *y = points.data() + first[it->second] * dims;
            if (std::equal(x, x + dims, y)) found = it->second;
        }
        if (found < 0) {
            found = static_cast<int64_t>(first.size());
            first.push_back(static_cast<int64_t>(row));
            seen.emplace(hash, found);
        }
        group[row] = found;
    }
    return nb::make_tuple(to_numpy(std::move(group)), to_numpy(std::move(first)));
}

// Core distance of `rows`: the smallest r with (w_i - 1) + sum of w_j within r >= min_samples; infinite where the
// neighbours given are not enough.
auto core_distances(Ids ids, Matrix distances, Ints rows, Vector weights, double min_samples) {
    const size_t count = ids.shape(0), width = ids.shape(1);
    std::vector<double> cores(count, INFINITE);
    for (size_t r = 0; r < count; ++r) {
        double sum = weights.data()[rows.data()[r]] - 1;
        if (sum >= min_samples) cores[r] = 0;
        for (size_t c = 0; c < width && sum < min_samples; ++c) {
            const int32_t id = ids.data()[r * width + c];
            if (id < 0) break;
            sum += weights.data()[id];
            if (sum >= min_samples) cores[r] = distances.data()[r * width + c];
        }
    }
    return to_numpy(std::move(cores));
}

// ------------------------------------------------------------------------------------------------- spanning tree

struct Forest {
    UnionFind sets;
    std::vector<double> reach;  // per root: nothing unseen leaves the component below this distance
    std::vector<Edge> edges;
    bool certified;

    void offer(const Edge &edge) {
        const int32_t a = sets.find(edge.i), b = sets.find(edge.j);
        if (a == b) return;
        // Cut property: the lightest edge that leaves a component is in the tree. A component that fails here once
        // fails for every heavier edge too, so no later edge can pass for its lightest.
        if (certified && reach[a] < edge.weight && reach[b] < edge.weight) return;
        const double least = std::min(reach[a], reach[b]);
        reach[sets.join(a, b)] = least;
        edges.push_back(edge);
    }
};

// Kruskal that sorts only what it needs: the heavy half is looked at after the light half has joined most of it.
void filter_kruskal(Edge *begin, Edge *end, Forest &forest) {
    if (end - begin < 4096) {
        std::sort(begin, end);
        for (Edge *edge = begin; edge != end; ++edge) forest.offer(*edge);
        return;
    }
    Edge *middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end);
    filter_kruskal(begin, middle, forest);
    Edge *left = std::remove_if(middle, end, [&](const Edge &edge) {
        return forest.sets.find(edge.i) == forest.sets.find(edge.j);
    });
    filter_kruskal(middle, left, forest);
}

auto edges_to_numpy(const std::vector<Edge> &edges) {
    std::vector<int64_t> ends;
    std::vector<double> weights;
    ends.reserve(2 * edges.size());
    for (const Edge &edge : edges) {
        ends.push_back(edge.i);
        ends.push_back(edge.j);
        weights.push_back(edge.weight);
    }
    return nb::make_tuple(to_numpy(std::move(ends), {edges.size(), 2}), to_numpy(std::move(weights)));
}

// Edges of the neighbour graph [N k] under mutual reachability.
struct Graph {
    const int32_t *ids;
    const double *distances, *core;
    size_t count, width;

    double weight(size_t i, size_t c) const {
        return std::max({core[i], core[ids[i * width + c]], distances[i * width + c]});
    }

    // The lightest edge of the graph that leaves each component [N], where it is lighter than `best` [N].
    void lightest_exits(const std::vector<int32_t> &component, std::vector<Edge> &best) const {
        for (size_t row = 0; row < count; ++row) {
            const int32_t i = static_cast<int32_t>(row), own = component[row];
            for (size_t c = 0; c < width; ++c) {
                const int32_t j = ids[row * width + c];
                if (j < 0) break;
                if (component[j] == own) continue;
                const Edge edge{weight(row, c), std::min(i, j), std::max(i, j)};
                best[own] = std::min(best[own], edge);
                best[component[j]] = std::min(best[component[j]], edge);
            }
        }
    }

    // Weights that cut the edges into pieces of about PIECE, from a sample of them.
    std::vector<double> cuts() const {
        constexpr size_t PIECE = size_t(1) << 22, SAMPLE = size_t(1) << 16;
        const size_t pieces = count * width / PIECE;
        std::vector<double> sample, result;
        const size_t every = std::max<size_t>(1, count * width / SAMPLE);
        for (size_t e = 0; pieces && e < count * width; e += every)
            if (ids[e] >= 0) sample.push_back(weight(e / width, e % width));
        std::sort(sample.begin(), sample.end());
        for (size_t piece = 1; piece <= pieces && !sample.empty(); ++piece)
            result.push_back(sample[piece * (sample.size() - 1) / (pieces + 1)]);
        result.push_back(INFINITE);
        return result;
    }

    // The edges of above < weight <= most that still join two components.
    void collect(double above, double most, UnionFind &sets, std::vector<Edge> &edges) const {
        edges.clear();
        for (size_t row = 0; row < count; ++row) {
            if (core[row] > most) continue;
            const int32_t i = static_cast<int32_t>(row), home = sets.find(i);
            for (size_t c = 0; c < width; ++c) {
                const int32_t j = ids[row * width + c];
                if (j < 0 || distances[row * width + c] > most) break;
                const double w = weight(row, c);
                if (w > above && w <= most && sets.find(j) != home) edges.push_back({w, std::min(i, j), std::max(i, j)});
            }
        }
    }
};

// Minimum spanning forest of the neighbour graph [N k] under mutual reachability. reach [N]: nothing that is not in
// the graph is nearer to the point than this; where it is given, only edges that are certainly in the minimum
// spanning tree of all pairs are taken. Edges are looked at by rising weight, some millions at a time: most of the
// heavy ones are never stored, as the light ones have joined what they would join.
auto spanning_forest(Ids ids, Matrix distances, Vector cores, nb::object reach) {
    const size_t count = ids.shape(0);
    const Graph graph{ids.data(), distances.data(), cores.data(), count, ids.shape(1)};
    Forest forest{UnionFind(count), std::vector<double>(count, 0), {}, !reach.is_none()};
    if (forest.certified) {
        const auto given = nb::cast<Vector>(reach);
        std::copy(given.data(), given.data() + count, forest.reach.begin());
    }
    {
        nb::gil_scoped_release release;
        std::vector<Edge> edges;
        double above = -INFINITE;
        for (const double most : graph.cuts()) {
            if (most == above) continue;
            graph.collect(above, most, forest.sets, edges);
            filter_kruskal(edges.data(), edges.data() + edges.size(), forest);
            above = most;
        }
    }
    return edges_to_numpy(forest.edges);
}

// The lightest edges that turn a forest into one tree: Boruvka's rounds over its components, exact. Edges of the
// neighbour graph [N k] that leave a component say beforehand how light its lightest exit is at most.
auto join_components(Matrix points, Vector cores, Pairs forest, Ids ids, Matrix distances, const PointGroups &groups,
                     int threads) {
    const size_t count = points.shape(0);
    const Graph graph{ids.data(), distances.data(), cores.data(), count, ids.shape(1)};
    UnionFind sets(count);
    size_t left = count;
    for (size_t e = 0; e < forest.shape(0); ++e) {
        const int32_t a = sets.find(static_cast<int32_t>(forest.data()[2 * e]));
        const int32_t b = sets.find(static_cast<int32_t>(forest.data()[2 * e + 1]));
        if (a != b) sets.join(a, b), --left;
    }
    std::vector<Edge> joined;
    if (left > 1) {
        nb::gil_scoped_release release;
        std::vector<int32_t> component(count), size(count);
        std::vector<Edge> best(count);
        while (left > 1) {
            std::fill(size.begin(), size.end(), 0);
            std::fill(best.begin(), best.end(), NO_EDGE);
            for (size_t i = 0; i < count; ++i) ++size[component[i] = sets.find(static_cast<int32_t>(i))];
            graph.lightest_exits(component, best);
            // The others' exits are enough; the largest component would be the dearest to search from.
            const auto largest = std::max_element(size.begin(), size.end()) - size.begin();
            best[largest] = NO_EDGE;
            groups.lightest_exits(points.data(), cores.data(), component, static_cast<int32_t>(largest), best, threads);
            for (const Edge &edge : best) {
                if (edge.weight == INFINITE) continue;
                const int32_t a = sets.find(edge.i), b = sets.find(edge.j);
                if (a == b) continue;
                sets.join(a, b), --left;
                joined.push_back(edge);
            }
        }
    }
    return edges_to_numpy(joined);
}

// --------------------------------------------------------------------------------------------------- merge tree

// A tree's edges [N-1 2] in order of weight -> the two nodes that each merge joins, [N-1] each.
auto merge_nodes(Pairs edges) {
    const size_t merges = edges.shape(0), count = merges + 1;
    UnionFind sets(count);
    std::vector<int32_t> node(count);
    std::iota(node.begin(), node.end(), 0);
    std::vector<int64_t> left(merges), right(merges);
    for (size_t m = 0; m < merges; ++m) {
        const int32_t a = sets.find(static_cast<int32_t>(edges.data()[2 * m]));
        const int32_t b = sets.find(static_cast<int32_t>(edges.data()[2 * m + 1]));
        left[m] = node[a];
        right[m] = node[b];
        node[sets.join(a, b)] = static_cast<int32_t>(count + m);
    }
    return nb::make_tuple(to_numpy(std::move(left)), to_numpy(std::move(right)));
}

// The merge tree without its runts: clusters of weight >= least, the points that fall out of them, and when.
struct Condensed {
    std::vector<int64_t> parent;                         // per cluster; 0 is the root, parents come before children
    std::vector<double> birth, death, weight, stability;  // per cluster; birth and death as 1 / distance
    std::vector<int64_t> point_cluster;                  // per point: the cluster it falls out of ...
    std::vector<double> point_lambda;                    // ... and when

    int64_t add(int64_t above, double lambda, double size) {
        parent.push_back(above);
        birth.push_back(lambda);
        death.push_back(lambda);
        weight.push_back(size);
        stability.push_back(0);
        return static_cast<int64_t>(parent.size()) - 1;
    }
    void leave(int64_t cluster, double lambda, double size) {
        stability[cluster] += (lambda - birth[cluster]) * size;
        death[cluster] = std::max(death[cluster], lambda);
    }
};

auto condense(Ints left, Ints right, Vector distances, Vector weights, Vector cores, double least) {
    const int64_t count = static_cast<int64_t>(weights.shape(0)), nodes = 2 * count - 1;
    // Copies of one point lie at distance 0. Their density is cut at twice that of the nearest two different points,
    // for an infinite one would outweigh every cluster around them.
    double nearest = INFINITE;
    for (int64_t m = 0; m < count - 1; ++m)
        if (distances.data()[m] > 0) nearest = std::min(nearest, distances.data()[m]);
    const double floor = std::isfinite(nearest) ? nearest / 2 : 1;
    const auto lambda_of = [&](double distance) { return 1 / std::max(distance, floor); };

    std::vector<double> size(weights.data(), weights.data() + count);
    for (int64_t m = 0; m < count - 1; ++m) size.push_back(size[left.data()[m]] + size[right.data()[m]]);

    Condensed tree;
    tree.point_cluster.resize(count);
    tree.point_lambda.resize(count);
    std::vector<int64_t> cluster(nodes);
    std::vector<double> fallen(nodes, -1);  // the lambda at which a node left its cluster; -1: it has not
    cluster[nodes - 1] = tree.add(-1, 0, size[nodes - 1]);
    for (int64_t node = nodes - 1; node >= 0; --node) {
        const int64_t home = cluster[node];
        if (node < count) {  // a point: copies of it part at its core distance
            const double lambda = fallen[node] >= 0 ? fallen[node] : lambda_of(cores.data()[node]);
            tree.point_cluster[node] = home;
            tree.point_lambda[node] = lambda;
            tree.leave(home, lambda, size[node]);
            continue;
        }
        const int64_t m = node - count, children[2] = {left.data()[m], right.data()[m]};
        const double lambda = lambda_of(distances.data()[m]);
        bool lasts[2];
        for (int c = 0; c < 2; ++c) {
            const int64_t child = children[c];
            // Copies of one point that part no later than they leave the others are no cluster of their own.
            const bool parts = child < count && lambda_of(cores.data()[child]) <= lambda;
            lasts[c] = fallen[node] < 0 && size[child] >= least && !parts;
        }
        for (int c = 0; c < 2; ++c) {
            const int64_t child = children[c];
            cluster[child] = home;
            if (fallen[node] >= 0) {
                fallen[child] = fallen[node];
            } else if (!lasts[c]) {
                fallen[child] = lambda;
            } else if (lasts[1 - c]) {
                tree.leave(home, lambda, size[child]);
                cluster[child] = tree.add(home, lambda, size[child]);
            }
        }
    }
    nb::dict result;
    result["parent"] = to_numpy(std::move(tree.parent));
    result["birth"] = to_numpy(std::move(tree.birth));
    result["death"] = to_numpy(std::move(tree.death));
    result["weight"] = to_numpy(std::move(tree.weight));
    result["stability"] = to_numpy(std::move(tree.stability));
    result["point_cluster"] = to_numpy(std::move(tree.point_cluster));
    result["point_lambda"] = to_numpy(std::move(tree.point_lambda));
    return result;
}

}  // namespace

void bind_clustering_cut(nb::module_ &m);

void bind_clustering(nb::module_ &m) {
    m.def("group_equal_rows", &group_equal_rows, nb::arg("points"));
    m.def("core_distances", &core_distances, nb::arg("ids"), nb::arg("distances"), nb::arg("rows"), nb::arg("weights"),
          nb::arg("min_samples"));
    m.def("spanning_forest", &spanning_forest, nb::arg("ids"), nb::arg("distances"), nb::arg("cores"),
          nb::arg("reach") = nb::none());
    m.def("join_components", &join_components, nb::arg("points"), nb::arg("cores"), nb::arg("forest"), nb::arg("ids"),
          nb::arg("distances"), nb::arg("groups"), nb::arg("threads"));
    m.def("merge_nodes", &merge_nodes, nb::arg("edges"));
    m.def("condense", &condense, nb::arg("left"), nb::arg("right"), nb::arg("distances"), nb::arg("weights"),
          nb::arg("cores"), nb::arg("least"));
    bind_clustering_cut(m);
}
