// Groups of near points and what is asked of them: bindings, and the two ways to make groups.
#include "center_tree.h"
#include "point_groups.h"

namespace {

using Vectors = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// The nearest of centers [G D] to each of vectors [N D].
auto nearest_centers(Vectors vectors, Vectors centers, int threads) {
    const size_t count = vectors.shape(0), dims = vectors.shape(1);
    if (centers.shape(1) != dims || centers.shape(0) == 0)
        throw std::invalid_argument("nearest_centers: shapes do not fit");
    const Centers all(centers.data(), centers.shape(0), dims);
    std::vector<int32_t> nearest(count);
    const Kernels &k = kernels();
    {
        nb::gil_scoped_release release;
        parallel(int((count + RANGE - 1) / RANGE), threads, [&](int block, int) {
            for (size_t i = size_t(block) * RANGE; i < std::min(count, size_t(block + 1) * RANGE); ++i)
                nearest[i] = all.nearest(vectors.data() + i * dims, k);
        });
    }
    return to_numpy(std::move(nearest));
}

// The same, where a near one of the centres is known of each: start [N]. Others are passed over where they lie too far.
auto nearest_centers_from(Vectors vectors, Vectors centers,
                          nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> start, int threads) {
    const size_t count = vectors.shape(0), dims = vectors.shape(1);
    if (centers.shape(1) != dims || centers.shape(0) == 0 || start.shape(0) != count)
        throw std::invalid_argument("nearest_centers_from: shapes do not fit");
    for (size_t i = 0; i < count; ++i)
        if (start.data()[i] < 0 || size_t(start.data()[i]) >= centers.shape(0))
            throw std::invalid_argument("nearest_centers_from: no such centre to start from");
    std::vector<int32_t> nearest(count);
    const Kernels &k = kernels();
    {
        nb::gil_scoped_release release;
        const CenterTree tree(centers.data(), centers.shape(0), dims);
        parallel(int((count + RANGE - 1) / RANGE), threads, [&](int block, int) {
            for (size_t i = size_t(block) * RANGE; i < std::min(count, size_t(block + 1) * RANGE); ++i)
                nearest[i] = tree.nearest(vectors.data() + i * dims, start.data()[i], k);
        });
    }
    return to_numpy(std::move(nearest));
}

// Of each query [R D]: the `keep` nearest of its candidates [R K], ids of points [N D] or -1, by float64 distance.
auto rank_neighbours(Matrix points, Matrix queries, Ints own, Pairs candidates, size_t keep, int threads) {
    const size_t count = queries.shape(0), width = candidates.shape(1);
    if (points.shape(1) != queries.shape(1) || own.shape(0) != count || candidates.shape(0) != count)
        throw std::invalid_argument("rank_neighbours: shapes do not fit");
    std::vector<int32_t> ids(count * keep, -1);
    std::vector<double> distances(count * keep, INFINITE);
    {
        nb::gil_scoped_release release;
        const Ranking ranking{points.data(), queries.data(), own.data(), points.shape(1), keep, ids.data(),
                              distances.data()};
        parallel(int((count + RANGE - 1) / RANGE), threads, [&](int block, int) {
            std::vector<std::pair<double, int32_t>> sorted;
            for (size_t i = size_t(block) * RANGE; i < std::min(count, size_t(block + 1) * RANGE); ++i)
                ranking.write(i, width, [&](size_t c) { return candidates.data()[i * width + c]; }, sorted);
        });
    }
    return nb::make_tuple(to_numpy(std::move(ids), {count, keep}), to_numpy(std::move(distances), {count, keep}));
}

// Groups of at most `most` points by halving along the widest axis: ids in order [N], and where each group starts.
auto halve(Matrix points, size_t most) {
    const size_t count = points.shape(0), dims = points.shape(1);
    const double *x = points.data();
    std::vector<int32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::vector<int64_t> starts{0};
    std::vector<std::pair<size_t, size_t>> waiting{{0, count}};
    std::vector<double> low(dims), high(dims);
    while (!waiting.empty()) {
        const auto [begin, end] = waiting.back();
        waiting.pop_back();
        if (end - begin <= std::max<size_t>(most, 1)) {
            if (end > begin) starts.push_back(int64_t(end));
            continue;
        }
        std::fill(low.begin(), low.end(), INFINITE);
        std::fill(high.begin(), high.end(), -INFINITE);
        for (size_t at = begin; at < end; ++at)
            for (size_t d = 0; d < dims; ++d) {
                const double value = x[size_t(order[at]) * dims + d];
                low[d] = std::min(low[d], value), high[d] = std::max(high[d], value);
            }
        size_t axis = 0;
        for (size_t d = 1; d < dims; ++d)
            if (high[d] - low[d] > high[axis] - low[axis]) axis = d;
        const size_t middle = begin + (end - begin) / 2;
        std::nth_element(order.begin() + int64_t(begin), order.begin() + int64_t(middle), order.begin() + int64_t(end),
                         [&](int32_t a, int32_t b) {
                             const double u = x[size_t(a) * dims + axis], v = x[size_t(b) * dims + axis];
                             return u != v ? u < v : a < b;
                         });
        waiting.emplace_back(middle, end);  // the left half first: groups come in order
        waiting.emplace_back(begin, middle);
    }
    return nb::make_tuple(to_numpy(std::move(order)), to_numpy(std::move(starts)));
}

}  // namespace

void bind_neighbours(nb::module_ &m) {
    nb::class_<PointGroups>(m, "PointGroups", "Points in groups of near ones, to be asked for nearest neighbours.")
        .def(nb::init<Matrix, nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>, Ints, Vector,
                      double>(),
             nb::arg("points"), nb::arg("order"), nb::arg("starts"), nb::arg("mean"), nb::arg("scale"))
        .def("nearest", &PointGroups::nearest, nb::arg("points"), nb::arg("queries"), nb::arg("own"), nb::arg("home"),
             nb::arg("keep"), nb::arg("probes"), nb::arg("threads"));
    m.def("rank_neighbours", &rank_neighbours, nb::arg("points"), nb::arg("queries"), nb::arg("own"),
          nb::arg("candidates"), nb::arg("keep"), nb::arg("threads"));
    m.def("nearest_centers", &nearest_centers, nb::arg("vectors"), nb::arg("centers"), nb::arg("threads"));
    m.def("nearest_centers_from", &nearest_centers_from, nb::arg("vectors"), nb::arg("centers"), nb::arg("start"),
          nb::arg("threads"));
    m.def("halve", &halve, nb::arg("points"), nb::arg("most"),
          "Groups of near points by halving along the widest axis: (order, starts).");
}
