// Sums over what the segments cover, straight from the evidence: no other copy of it is made.
//
// Notation: R regions of N Gaussians in compressed rows (indptr [R + 1], indices, values: float16 as its bits, or
// float32); a few rows of a larger matrix do as well. T chosen Gaussians; place [N]: which of them each is, -1 = none.
// float64 holds sums of float16 exactly, so their order does not show.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "arrays.h"
#include "rasterizer_frame.h"

namespace {

using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using Values = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

double number(float value) { return value; }
double number(uint16_t half) {
    // The exponent is rebased by a product, which is right for numbers below float16's normal ones, too.
    uint32_t bits = uint32_t(half & 0x7fff) << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    if (value >= 65536.0f) {  // infinite, or not a number
        bits |= 0x7f800000u;
        std::memcpy(&value, &bits, sizeof value);
    }
    return half & 0x8000 ? -value : value;
}

template <class T> void check(Ints indptr, Indices indices, Values<T> values, Indices of, int64_t most) {
    if (indptr.shape(0) < 1 || indices.shape(0) != values.shape(0))
        throw std::invalid_argument("evidence: wanted R + 1 offsets, and as many indices as values");
    for (size_t r = 0; r < indptr.shape(0); ++r)
        if (indptr.data()[r] < (r ? indptr.data()[r - 1] : 0) || indptr.data()[r] > int64_t(indices.shape(0)))
            throw std::invalid_argument("evidence: offsets do not rise from 0 to the number of entries");
    for (size_t g = 0; g < of.shape(0); ++g)
        if (of.data()[g] >= most) throw std::invalid_argument("evidence: a Gaussian's number is out of range");
    const int64_t first = indptr.data()[0], last = indptr.data()[indptr.shape(0) - 1];
    for (int64_t e = first; e < last; ++e)
        if (uint32_t(indices.data()[e]) >= of.shape(0)) throw std::invalid_argument("evidence: no such Gaussian");
}

// Of each region the sum of each label: label [N] of each Gaussian, below `count`, negative = none. -> compressed rows
// [R count], labels ascending; a label that only zeros have is there with 0.
template <class T>
auto label_sums(Ints indptr, Indices indices, Values<T> values, Indices label, size_t count, int threads) {
    check(indptr, indices, values, label, int64_t(count));
    const size_t regions = indptr.shape(0) - 1;
    const int64_t *starts = indptr.data();
    std::vector<int64_t> ends(regions + 1, 0);
    std::vector<int32_t> labels;
    std::vector<double> sums;
    {
        nb::gil_scoped_release release;
        struct Scratch {
            std::vector<double> sum;
            std::vector<size_t> met;  // the last region, counted from 1, that has the label
            std::vector<int32_t> touched;
        };
        std::vector<Scratch> scratch(size_t(std::max(threads, 1)));
        std::vector<std::vector<int32_t>> labels_of(regions);
        std::vector<std::vector<double>> sums_of(regions);
        parallel(int(regions), threads, [&](int r, int thread) {
            Scratch &mine = scratch[size_t(thread)];
            mine.sum.resize(count), mine.met.resize(count, 0);
            mine.touched.clear();
            for (int64_t e = starts[r]; e < starts[r + 1]; ++e) {
                const int32_t own = label.data()[indices.data()[e]];
                if (own < 0) continue;
                if (mine.met[own] != size_t(r) + 1) {
                    mine.met[own] = size_t(r) + 1;
                    mine.sum[own] = 0;
                    mine.touched.push_back(own);
                }
                mine.sum[own] += number(values.data()[e]);
            }
            std::sort(mine.touched.begin(), mine.touched.end());
            labels_of[size_t(r)].assign(mine.touched.begin(), mine.touched.end());
            sums_of[size_t(r)].reserve(mine.touched.size());
            for (const int32_t own : mine.touched) sums_of[size_t(r)].push_back(mine.sum[own]);
        });
        for (size_t r = 0; r < regions; ++r) ends[r + 1] = ends[r] + int64_t(labels_of[r].size());
        labels.reserve(size_t(ends[regions]));
        for (auto &one : labels_of) labels.insert(labels.end(), one.begin(), one.end()), one = {};
        sums.reserve(size_t(ends[regions]));
        for (auto &one : sums_of) sums.insert(sums.end(), one.begin(), one.end()), one = {};
    }
    return nb::make_tuple(to_numpy(std::move(ends)), to_numpy(std::move(labels)), to_numpy(std::move(sums)));
}

// Of each of T Gaussians what it has in the regions that speak for each instance: matched [R], negative = for none.
// -> compressed rows [T M], instances ascending.
template <class T>
auto region_votes(Ints indptr, Indices indices, Values<T> values, Indices place, size_t count, Indices matched) {
    check(indptr, indices, values, place, int64_t(count));
    if (matched.shape(0) + 1 != indptr.shape(0))
        throw std::invalid_argument("region_votes: wanted an instance of each region");
    struct Vote {
        double sum;
        int32_t instance, next;  // next of the same Gaussian, -1 = none
    };
    std::vector<int64_t> ends(count + 1, 0);
    std::vector<int32_t> instances;
    std::vector<double> sums;
    {
        nb::gil_scoped_release release;
        std::vector<int32_t> first(count, -1);
        std::vector<Vote> votes;
        for (size_t r = 0; r < matched.shape(0); ++r) {
            const int32_t instance = matched.data()[r];
            if (instance < 0) continue;
            for (int64_t e = indptr.data()[r]; e < indptr.data()[r + 1]; ++e) {
                const int32_t own = place.data()[indices.data()[e]];
                if (own < 0) continue;
                int32_t at = first[own];
                while (at >= 0 && votes[size_t(at)].instance != instance) at = votes[size_t(at)].next;
                if (at < 0) {
                    at = int32_t(votes.size());
                    votes.push_back({0, instance, first[own]});
                    first[own] = at;
                    ++ends[size_t(own) + 1];
                }
                votes[size_t(at)].sum += number(values.data()[e]);
            }
        }
        for (size_t t = 0; t < count; ++t) ends[t + 1] += ends[t];
        instances.resize(votes.size());
        sums.resize(votes.size());
        std::vector<std::pair<int32_t, double>> row;
        for (size_t t = 0; t < count; ++t) {
            row.clear();
            for (int32_t at = first[t]; at >= 0; at = votes[size_t(at)].next)
                row.emplace_back(votes[size_t(at)].instance, votes[size_t(at)].sum);
            std::sort(row.begin(), row.end());
            for (size_t i = 0; i < row.size(); ++i) {
                instances[size_t(ends[t]) + i] = row[i].first;
                sums[size_t(ends[t]) + i] = row[i].second;
            }
        }
    }
    return nb::make_tuple(to_numpy(std::move(ends)), to_numpy(std::move(instances)), to_numpy(std::move(sums)));
}

// Of each of T Gaussians the sum over the views of what it has in stuff there, times the factor [V M + 1] of the view
// and of its label [T], the last column for one below 0. stuff [R]: not 0 for regions of stuff; view [R], rising.
template <class T>
auto stuff_votes(Ints indptr, Indices indices, Values<T> values, Indices place, Indices stuff, Indices view, Indices label,
                 Matrix factor) {
    const size_t regions = stuff.shape(0), count = label.shape(0), last = factor.shape(1) - 1;
    check(indptr, indices, values, place, int64_t(count));
    if (regions + 1 != indptr.shape(0) || view.shape(0) != regions || factor.shape(1) < 1)
        throw std::invalid_argument("stuff_votes: wanted a kind and a view of each region, and a factor of no label");
    for (size_t r = 0; r < regions; ++r)
        if (view.data()[r] < 0 || size_t(view.data()[r]) >= factor.shape(0) || (r && view.data()[r] < view.data()[r - 1]))
            throw std::invalid_argument("stuff_votes: views do not rise, or have no factor");
    for (size_t t = 0; t < count; ++t)
        if (label.data()[t] >= int64_t(last)) throw std::invalid_argument("stuff_votes: a label has no factor");
    std::vector<double> total(count, 0.0);
    {
        nb::gil_scoped_release release;
        std::vector<double> of_view(count, 0.0);
        std::vector<int32_t> touched;
        for (size_t r = 0; r < regions; ++r) {
            if (stuff.data()[r])
                for (int64_t e = indptr.data()[r]; e < indptr.data()[r + 1]; ++e) {
                    const int32_t own = place.data()[indices.data()[e]];
                    const double value = number(values.data()[e]);
                    if (own < 0 || value == 0) continue;
                    if (of_view[own] == 0) touched.push_back(own);
                    of_view[own] += value;
                }
            if (r + 1 < regions && view.data()[r + 1] == view.data()[r]) continue;
            const double *factors = factor.data() + size_t(view.data()[r]) * (last + 1);
            for (const int32_t own : touched) {
                total[own] += of_view[own] * factors[label.data()[own] < 0 ? last : size_t(label.data()[own])];
                of_view[own] = 0;
            }
            touched.clear();
        }
    }
    return to_numpy(std::move(total));
}

template <class T> void bind_values(nb::module_ &m) {
    m.def("label_sums", &label_sums<T>, nb::arg("indptr"), nb::arg("indices"), nb::arg("values"), nb::arg("label"),
          nb::arg("count"), nb::arg("threads"));
    m.def("region_votes", &region_votes<T>, nb::arg("indptr"), nb::arg("indices"), nb::arg("values"),
          nb::arg("place"), nb::arg("count"), nb::arg("matched"));
    m.def("stuff_votes", &stuff_votes<T>, nb::arg("indptr"), nb::arg("indices"), nb::arg("values"), nb::arg("place"),
          nb::arg("stuff"), nb::arg("view"), nb::arg("label"), nb::arg("factor"));
}

}  // namespace

void bind_evidence(nb::module_ &m) {
    bind_values<uint16_t>(m);
    bind_values<float>(m);
}
