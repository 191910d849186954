// One step of fitting, from the parameters to the parameters: render, photometric loss, gradients, Adam.
//
// The gradients of a Gaussian are made and used up while they lie in the cache: nothing as large as the spherical
// harmonics is written between blending and Adam. All memory is kept from step to step.
#include "camera.h"
#include "image_loss.h"
#include "module.h"
#include "optimizer.h"
#include "rasterizer_frame.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using IntsOut = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;

constexpr float NEAR_PLANE = 0.01f, FAR_PLANE = 1e10f, EPS2D = 0.3f;  // gsplat's defaults
constexpr int BLOCK = 128;  // Gaussians whose gradients lie in the cache together

enum { MEANS, QUATS, SCALES, OPACITIES, SH, COUNT };  // the parameters: scales are logarithms, opacities logits
constexpr const char *NAMES[COUNT] = {"means", "quats", "scales", "opacities", "sh"};

// A parameter with its moments, as RowAdam holds them: value, exp_avg, exp_avg_sq, step from 1, rate, head, head_rate.
using Learner = std::tuple<FloatsOut, FloatsOut, FloatsOut, int64_t, double, int64_t, double>;

struct Rows {
    float *value, *mean, *square;
    int64_t width;
    Decay decay;
    std::vector<float> rates;

    void update(const float *gradient, int64_t row, int64_t count) const {
        const int64_t at = row * width;
        adam_update(value + at, gradient, mean + at, square + at, rates.data(), count * width, decay);
    }
};

template <class Array> auto *data(const Array &array, size_t size, const char *name) {
    if (array.size() != size)
        throw std::invalid_argument(std::string(name) + ": " + std::to_string(size) + " values wanted, got " +
                                    std::to_string(array.size()));
    return array.data();
}

// Seconds by part of the step, summed up.
enum { PROJECT, LISTS, BLEND, LOSS, BLEND_BACKWARD, UPDATE, PARTS };
constexpr const char *PART_NAMES[PARTS] = {"project", "lists", "blend", "loss", "blend_backward", "update"};

// What a thread needs for the gradients of a block.
struct Scratch {
    float means2d[2 * BLOCK], conics[3 * BLOCK], colors[3 * BLOCK], absolute[2 * BLOCK], sums[MOMENTS + 2 + 3];
    float means[3 * BLOCK], quats[4 * BLOCK], scales[3 * BLOCK], opacities[BLOCK], sh[48 * BLOCK];
    bool touched[BLOCK];
};

class FitStep {
  public:
    std::map<std::string, double> seconds() const {
        std::map<std::string, double> all;
        for (int part = 0; part < PARTS; part++) all[PART_NAMES[part]] = seconds_[part];
        return all;
    }

    // The loss of one view. Nothing of the parameters changes.
    double forward(const std::array<Floats, COUNT> &parameters, const Floats &viewmat, const Floats &K, int width,
                   int height, int degree, const Floats &background, const Floats &target, double ssim_weight,
                   const IntsOut &radii, int threads) {
        ready_ = false;
        count_ = int(parameters[MEANS].shape(0));
        const size_t n = size_t(count_);
        view_ = view_of(data(viewmat, 16, "viewmat"), data(K, 9, "K"), width, height, NEAR_PLANE, FAR_PLANE, EPS2D,
                        false);
        camera_position(viewmat.data(), camera_);
        if (degree < 0 || degree > 3) throw std::invalid_argument("degree: 0..3 wanted");
        degree_ = degree, terms_ = (degree + 1) * (degree + 1);
        const size_t sizes[COUNT] = {3 * n, 4 * n, 3 * n, n, 3 * n * size_t(terms_)};
        const float *in[COUNT];
        for (int k = 0; k < COUNT; k++) in[k] = data(parameters[size_t(k)], sizes[k], NAMES[k]);
        const float *behind = data(background, 3, "background");
        const size_t pixels = size_t(width) * size_t(height);
        const float *wanted = data(target, 3 * pixels, "target");
        kept_radii_ = radii;
        radii_ = data(radii, 2 * n, "radii");

        nb::gil_scoped_release release;
        start_ = std::chrono::steady_clock::now();
        const Kernels &k = kernels();
        float *scales = scales_.reserve(3 * n), *opacities = opacities_.reserve(n), *colors = colors_.reserve(3 * n);
        float *means2d = means2d_.reserve(2 * n), *conics = conics_.reserve(3 * n), *depths = depths_.reserve(n);
        const Parameters activated{in[MEANS], in[QUATS], scales, opacities};
        const Projected projected{means2d, conics, depths, nullptr, radii_};
        parallel_ranges(count_, threads, [&](int begin, int end) {
            k.activate(in[SCALES], in[OPACITIES], begin, end, scales, opacities);
            k.project(activated, view_, begin, end, projected);
            k.harmonics(degree_, terms_, in[MEANS], camera_, in[SH], radii_, begin, end, colors);
        });
        ended(PROJECT);
        frame_->build(means2d, conics, opacities, depths, radii_, count_, width, height, threads);
        ended(LISTS);
        Image &image = frame_->image;
        image.channels = 3, image.colors = colors, image.background = behind;
        float *rendered = rendered_.reserve(3 * pixels), *left = left_.reserve(pixels);
        const size_t floats = k.scratch_floats(3);
        float *scratch = frame_->scratch(floats, threads);
        parallel(frame_->tiles(), threads, [&](int tile, int thread) {
            k.blend(image, tile, scratch + floats * size_t(thread), rendered, left);
        });
        image.background = nullptr;  // the caller's
        ended(BLEND);
        const double loss =
            photometric(rendered, wanted, height, width, 3, ssim_weight, v_rendered_.reserve(3 * pixels),
                        workspace_.reserve(size_t(PHOTOMETRIC_PLANES) * 3 * pixels), threads);
        ended(LOSS);
        ready_ = true;
        return loss;
    }

    // Steps down the gradient of the last forward's loss, plus the given gradients by scales and opacities (as they
    // are parameterised). v_means2d [N 2] and v_absolute [N 2] are written, as gsplat's strategies read them. sparse:
    // Gaussians that no pixel shows, and their moments, stay as they are.
    void update(const std::array<Learner, COUNT> &learners, std::array<double, 3> betas_epsilon,
                const FloatsOut &v_means2d, const std::optional<FloatsOut> &v_absolute,
                const std::optional<Floats> &extra_scales, const std::optional<Floats> &extra_opacities, bool sparse,
                int threads) {
        if (!ready_) throw std::invalid_argument("update: forward first");
        ready_ = false;
        const size_t n = size_t(count_);
        const auto [beta1, beta2, epsilon] = betas_epsilon;
        const int64_t widths[COUNT] = {3, 4, 3, 1, 3 * terms_};
        std::array<Rows, COUNT> rows;
        for (size_t i = 0; i < COUNT; i++) {
            const auto &[value, mean, square, step, rate, head, head_rate] = learners[i];
            const size_t size = n * size_t(widths[i]);
            rows[i] = {data(value, size, NAMES[i]), data(mean, size, NAMES[i]), data(square, size, NAMES[i]),
                       widths[i], decay_of(step, beta1, beta2, epsilon),
                       row_rates(BLOCK, widths[i], rate, head, head_rate, step, beta1)};
        }
        float *to_means2d = data(v_means2d, 2 * n, "v_means2d");
        float *to_absolute = v_absolute ? data(*v_absolute, 2 * n, "v_absolute") : nullptr;
        const float *more_scales = extra_scales ? data(*extra_scales, 3 * n, "extra_scales") : nullptr;
        const float *more_opacities = extra_opacities ? data(*extra_opacities, n, "extra_opacities") : nullptr;

        nb::gil_scoped_release release;
        start_ = std::chrono::steady_clock::now();
        const Kernels &k = kernels();
        const size_t pixels = size_t(view_.width) * size_t(view_.height);
        float *v_alpha = v_alpha_.reserve(pixels);
        std::fill_n(v_alpha, pixels, 0.0f);
        ImageGradients v{};
        v.image = rendered_.get(), v.left = left_.get(), v.v_image = v_rendered_.get(), v.v_alpha = v_alpha;
        v.geometry = v.color = true, v.absolute = to_absolute != nullptr;
        v.slot_size = color_offset(true, v.absolute) + 3;
        v.slots = frame_->slots(size_t(v.slot_size)), v.touched = frame_->touched();
        const size_t floats = k.scratch_floats(3);
        float *tile_scratch = frame_->scratch(floats, threads);
        parallel(frame_->tiles(), threads, [&](int tile, int thread) {
            k.blend_backward(frame_->image, v, tile, tile_scratch + floats * size_t(thread));
        });
        ended(BLEND_BACKWARD);
        Scratch *scratch = block_scratch_.reserve(size_t(std::max(threads, 1)));
        parallel((count_ + BLOCK - 1) / BLOCK, threads, [&](int task, int thread) {
            const int begin = task * BLOCK, end = std::min(begin + BLOCK, count_);
            Scratch &block = scratch[thread];
            gradients(k, v, rows, begin, end, block, to_absolute);
            std::memcpy(to_means2d + 2 * size_t(begin), block.means2d, 2 * sizeof(float) * size_t(end - begin));
            for (int i = 0; i < 3 * (end - begin) && more_scales; i++) block.scales[i] += more_scales[3 * begin + i];
            for (int i = 0; i < end - begin && more_opacities; i++) block.opacities[i] += more_opacities[begin + i];
            const float *all[COUNT] = {block.means, block.quats, block.scales, block.opacities, block.sh};
            for (int at = begin; at < end;) {
                int stop = end;  // of a run of Gaussians to update
                if (sparse) {
                    while (at < end && !block.touched[at - begin]) at++;
                    for (stop = at; stop < end && block.touched[stop - begin];) stop++;
                }
                for (size_t i = 0; i < COUNT && at < stop; i++)
                    rows[i].update(all[i] + (at - begin) * rows[i].width, at, stop - at);
                at = stop;
            }
        });
        ended(UPDATE);
    }

  private:
    void ended(int part) {
        const auto now = std::chrono::steady_clock::now();
        seconds_[part] += std::chrono::duration<double>(now - start_).count();
        start_ = now;
    }

    // Of Gaussians begin <= i < end by every parameter, into the block.
    void gradients(const Kernels &k, const ImageGradients &v, const std::array<Rows, COUNT> &rows, int begin, int end,
                   Scratch &block, float *to_absolute) {
        const size_t n = size_t(end - begin), first = size_t(begin);
        const SplatGradients splats{block.means2d, block.conics, block.opacities, block.colors,
                                    to_absolute ? to_absolute + 2 * first : nullptr, block.touched};
        k.gather(frame_->image, v, begin, end, opacities_.get(), splats, block.sums);
        std::fill_n(block.means, 3 * n, 0.0f), std::fill_n(block.quats, 4 * n, 0.0f);
        std::fill_n(block.scales, 3 * n, 0.0f), std::fill_n(block.sh, 3 * n * size_t(terms_), 0.0f);
        const float *means = rows[MEANS].value + 3 * first, *sh = rows[SH].value + 3 * first * size_t(terms_);
        k.harmonics_backward(degree_, terms_, means, camera_, sh, colors_.get() + 3 * first, block.colors, 0, int(n),
                             block.means, block.sh);
        const float *scales = scales_.get() + 3 * first, *opacities = opacities_.get() + first;
        const Parameters in{means, rows[QUATS].value + 4 * first, scales, nullptr};
        const Projected projected{nullptr, nullptr, nullptr, nullptr, radii_ + 2 * first};
        k.project_backward(in, view_, 0, int(n), projected, {block.means2d, block.conics, nullptr, nullptr},
                           {block.means, block.quats, block.scales});
        for (size_t i = 0; i < 3 * n; i++) block.scales[i] *= scales[i];
        for (size_t i = 0; i < n; i++) block.opacities[i] *= opacities[i] * (1.0f - opacities[i]);
    }

    int count_ = 0, degree_ = 0, terms_ = 1;
    bool ready_ = false;
    View view_{};
    float camera_[3];
    IntsOut kept_radii_;  // from forward to update
    int32_t *radii_ = nullptr;
    FrameHandle frame_;
    Buffer<float> scales_, opacities_, colors_, means2d_, conics_, depths_, rendered_, left_, v_rendered_, v_alpha_;
    Buffer<float> workspace_;
    Buffer<Scratch> block_scratch_;
    double seconds_[PARTS] = {};
    std::chrono::steady_clock::time_point start_;
};

}  // namespace

void bind_fit_step(nb::module_ &m) {
    nb::class_<FitStep>(m, "FitStep", "One step of fitting; keeps its memory from step to step.")
        .def(nb::init<>())
        .def_prop_ro("seconds", &FitStep::seconds, "Wall-clock seconds by part of the step, summed over all steps.")
        .def("forward", &FitStep::forward, nb::arg("parameters"), nb::arg("viewmat"), nb::arg("K"), nb::arg("width"),
             nb::arg("height"), nb::arg("degree"), nb::arg("background"), nb::arg("target"), nb::arg("ssim_weight"),
             nb::arg("radii"), nb::arg("threads"))
        .def("update", &FitStep::update, nb::arg("learners"), nb::arg("betas_epsilon"), nb::arg("v_means2d"),
             nb::arg("v_absolute").none(), nb::arg("extra_scales").none(), nb::arg("extra_opacities").none(),
             nb::arg("sparse"), nb::arg("threads"));
}
