// Sums over what the segments cover, straight from the evidence: no other copy of it is made.
//
// Notation: R regions of N Gaussians in compressed rows (indptr [R + 1], indices, values: float16 or float32); a few rows of a larger matrix do as well. T chosen Gaussians; place [N]: which of them each is, -1 = none.
// float64 holds sums of float16 exactly, so their order does not show.
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <vector>

#include "arrays.h"
#include "rasterizer_frame.h"
#include "weights.h"

namespace {

using Indices = Array1<const int32_t>;
template <class T> using Values = Array1<const T>;

double number(float value) { return value; }
double number(Half half) {
    float value = to_float(Half{uint16_t(half.bits & 0x7fff)});
    if (value > 65536) value = std::numeric_limits<float>::quiet_NaN();
    if (value == 65536) value = std::numeric_limits<float>::infinity();
    return half.bits & 0x8000 ? -value : value;
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

// The pieces one after another, `total` in all; they are freed one by one.
template <class T> void append(std::vector<T> &whole, std::vector<std::vector<T>> &pieces, size_t total) {
    whole.reserve(total);
    for (std::vector<T> &piece : pieces) {
        whole.insert(whole.end(), piece.begin(), piece.end());
        piece = {};
    }
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
        append(labels, labels_of, size_t(ends[regions]));
        append(sums, sums_of, size_t(ends[regions]));
    }
    return nb::make_tuple(to_numpy(std::move(ends)), to_numpy(std::move(labels)), to_numpy(std::move(sums)));
}

// What some Gaussians have in the regions that speak for each instance.
class Votes {
  public:
    // Of the Gaussians begin .. end, of which `place` says what they are numbered from `first` on.
    template <class T>
    void gather(const int64_t *starts, const int32_t *indices, const T *values, const int32_t *place, const int32_t *matched,
                size_t regions, int32_t begin, int32_t end, int32_t first, size_t count) {
        newest_.assign(count, -1), length_.assign(count, 0);
        for (size_t r = 0; r < regions; ++r) {
            if (matched[r] < 0) continue;
            const int32_t *last = indices + starts[r + 1];
            for (const int32_t *e = std::lower_bound(indices + starts[r], last, begin); e < last && *e < end; ++e)
                if (place[*e] >= 0) add(size_t(place[*e] - first), matched[r], number(values[e - indices]));
        }
    }
    const std::vector<int32_t> &lengths() const { return length_; }

    // One after another by rising instance.
    void write(int32_t *instances, double *sums) {
        for (const int32_t newest : newest_) {
            row_.clear();
            for (int32_t at = newest; at >= 0; at = votes_[size_t(at)].next)
                row_.emplace_back(votes_[size_t(at)].instance, votes_[size_t(at)].sum);
            std::sort(row_.begin(), row_.end());
            for (const auto &[instance, sum] : row_) *instances++ = instance, *sums++ = sum;
        }
    }

  private:
    struct Vote {
        double sum;
        int32_t instance, next;  // next of the same Gaussian, -1 = none
    };
    void add(size_t own, int32_t instance, double value) {
        int32_t at = newest_[own];
        while (at >= 0 && votes_[size_t(at)].instance != instance) at = votes_[size_t(at)].next;
        if (at < 0) {
            at = int32_t(votes_.size());
            votes_.push_back({0, instance, newest_[own]});
            newest_[own] = at;
            ++length_[own];
        }
        votes_[size_t(at)].sum += value;
    }

    std::vector<int32_t> newest_, length_;  // of each Gaussian
    std::vector<Vote> votes_;
    std::vector<std::pair<int32_t, double>> row_;
};

// Of each of T Gaussians what it has in the regions that speak for each instance: matched [R], negative = for none.
// place rises, but for its -1. -> compressed rows [T M], instances ascending.
template <class T>
auto region_votes(Ints indptr, Indices indices, Values<T> values, Indices place, size_t count, Indices matched, int threads) {
    check(indptr, indices, values, place, int64_t(count));
    if (matched.shape(0) + 1 != indptr.shape(0))
        throw std::invalid_argument("region_votes: wanted an instance of each region");
    constexpr size_t AT_ONCE = 1 << 17;  // Gaussians whose votes stay in the processor's own memory
    const size_t blocks = (place.shape(0) + AT_ONCE - 1) / AT_ONCE;
    std::vector<int32_t> first(blocks + 1, 0);  // the number that each block's Gaussians begin at
    int32_t next = 0;
    for (size_t g = 0; g < place.shape(0); ++g) {
        if (g % AT_ONCE == 0) first[g / AT_ONCE] = next;
        if (place.data()[g] >= 0 && place.data()[g] != next++)
            throw std::invalid_argument("region_votes: the chosen Gaussians are not numbered one after another");
    }
    first[blocks] = next;
    if (size_t(next) != count) throw std::invalid_argument("region_votes: wanted as many chosen Gaussians as are counted");
    for (size_t r = 0; r < matched.shape(0); ++r)
        if (!std::is_sorted(indices.data() + indptr.data()[r], indices.data() + indptr.data()[r + 1]))
            throw std::invalid_argument("region_votes: Gaussians do not rise within a region");
    std::vector<int64_t> ends(count + 1, 0);
    std::vector<int32_t> instances;
    std::vector<double> sums;
    {
        nb::gil_scoped_release release;
        std::vector<std::vector<int32_t>> instances_of(blocks);
        std::vector<std::vector<double>> sums_of(blocks);
        parallel(int(blocks), threads, [&](int block, int) {
            const size_t b = size_t(block), begin = b * AT_ONCE, end = std::min(begin + AT_ONCE, place.shape(0));
            const size_t own = size_t(first[b + 1] - first[b]);
            Votes votes;
            votes.gather(indptr.data(), indices.data(), values.data(), place.data(), matched.data(), matched.shape(0),
                         int32_t(begin), int32_t(end), first[b], own);
            size_t total = 0;
            for (size_t t = 0; t < own; ++t) total += size_t(ends[size_t(first[b]) + t + 1] = votes.lengths()[t]);
            instances_of[b].resize(total), sums_of[b].resize(total);
            votes.write(instances_of[b].data(), sums_of[b].data());
        });
        for (size_t t = 0; t < count; ++t) ends[t + 1] += ends[t];
        append(instances, instances_of, size_t(ends[count]));
        append(sums, sums_of, size_t(ends[count]));
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
          nb::arg("place"), nb::arg("count"), nb::arg("matched"), nb::arg("threads"));
    m.def("stuff_votes", &stuff_votes<T>, nb::arg("indptr"), nb::arg("indices"), nb::arg("values"), nb::arg("place"),
          nb::arg("stuff"), nb::arg("view"), nb::arg("label"), nb::arg("factor"));
}

}  // namespace

void bind_evidence(nb::module_ &m) {
    bind_values<Half>(m);
    bind_values<float>(m);
}
