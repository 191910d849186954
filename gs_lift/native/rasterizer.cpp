// Projection, tile lists and blending of 3D Gaussians, as gs_lift.rendering.cpu calls them.
//
// Arrays are float32, contiguous, on the CPU; outputs are allocated by the caller. Every result is the same for any
// number of threads: each output has one writer, and sums run in a fixed order.
#include "camera.h"
#include "module.h"
#include "rasterizer_frame.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;
using IntsOut = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;
using MaybeFloats = std::optional<Floats>;
using MaybeFloatsOut = std::optional<FloatsOut>;

template <class Array> auto *data(const Array &array, size_t size, const char *name) {
    if (array.size() != size)
        throw std::invalid_argument(std::string(name) + ": " + std::to_string(size) + " values wanted, got " +
                                    std::to_string(array.size()));
    return array.data();
}

template <class Array> auto *data(const std::optional<Array> &array, size_t size, const char *name) {
    return array ? data(*array, size, name) : nullptr;
}

View make_view(const Floats &viewmat, const Floats &K, int width, int height, float near_plane, float far_plane,
               float eps2d, bool antialiased) {
    return view_of(data(viewmat, 16, "viewmat"), data(K, 9, "K"), width, height, near_plane, far_plane, eps2d,
                   antialiased);
}

void project(const Floats &means, const Floats &quats, const Floats &scales, const Floats &opacities,
             const Floats &viewmat, const Floats &K, int width, int height, float near_plane, float far_plane,
             float eps2d, const FloatsOut &means2d, const FloatsOut &conics, const FloatsOut &depths,
             const MaybeFloatsOut &compensations, const IntsOut &radii, int threads) {
    const size_t n = means.size() / 3;
    const View view = make_view(viewmat, K, width, height, near_plane, far_plane, eps2d, compensations.has_value());
    const Parameters in{data(means, 3 * n, "means"), data(quats, 4 * n, "quats"), data(scales, 3 * n, "scales"),
                        data(opacities, n, "opacities")};
    const Projected out{data(means2d, 2 * n, "means2d"), data(conics, 3 * n, "conics"), data(depths, n, "depths"),
                        data(compensations, n, "compensations"), data(radii, 2 * n, "radii")};
    const Kernels &k = kernels();
    nb::gil_scoped_release release;
    parallel_ranges(int(n), threads, [&](int begin, int end) { k.project(in, view, begin, end, out); });
}

void project_backward(const Floats &means, const Floats &quats, const Floats &scales, const Floats &viewmat,
                      const Floats &K, int width, int height, float eps2d, bool antialiased, const IntsOut &radii,
                      const MaybeFloats &v_means2d, const MaybeFloats &v_conics, const MaybeFloats &v_depths,
                      const MaybeFloats &v_compensations, const MaybeFloatsOut &v_means,
                      const MaybeFloatsOut &v_quats, const MaybeFloatsOut &v_scales, int threads) {
    const size_t n = means.size() / 3;
    const View view = make_view(viewmat, K, width, height, 0.0f, 0.0f, eps2d, antialiased);
    const Parameters in{data(means, 3 * n, "means"), data(quats, 4 * n, "quats"), data(scales, 3 * n, "scales"),
                        nullptr};
    const Projected forward{nullptr, nullptr, nullptr, nullptr, data(radii, 2 * n, "radii")};
    const ProjectedGradients v{data(v_means2d, 2 * n, "v_means2d"), data(v_conics, 3 * n, "v_conics"),
                               data(v_depths, n, "v_depths"), data(v_compensations, n, "v_compensations")};
    const ParameterGradients out{data(v_means, 3 * n, "v_means"), data(v_quats, 4 * n, "v_quats"),
                                 data(v_scales, 3 * n, "v_scales")};
    const Kernels &k = kernels();
    nb::gil_scoped_release release;
    parallel_ranges(int(n), threads,
                    [&](int begin, int end) { k.project_backward(in, view, begin, end, forward, v, out); });
}

void check_degree(int degree, size_t terms) {
    if (degree < 0 || degree > 3 || size_t((degree + 1) * (degree + 1)) > terms)
        throw std::invalid_argument("spherical harmonics: degree 0..3 wanted, with (degree + 1)^2 terms or more");
}

void harmonics(int degree, const Floats &means, const Floats &viewmat, const Floats &sh, const Ints &radii,
               const FloatsOut &colors, int threads) {
    const size_t n = means.size() / 3, terms = n ? sh.size() / (3 * n) : 16;
    check_degree(degree, terms);
    float camera[3];
    camera_position(data(viewmat, 16, "viewmat"), camera);
    const float *in = data(means, 3 * n, "means"), *rows = data(sh, 3 * n * terms, "sh");
    const int32_t *seen = data(radii, 2 * n, "radii");
    float *out = data(colors, 3 * n, "colors");
    const Kernels &k = kernels();
    nb::gil_scoped_release release;
    parallel_ranges(int(n), threads, [&](int begin, int end) {
        k.harmonics(degree, int(terms), in, camera, rows, seen, begin, end, out);
    });
}

void harmonics_backward(int degree, const Floats &means, const Floats &viewmat, const Floats &sh,
                        const Floats &colors, const Floats &v_colors, const MaybeFloatsOut &v_means,
                        const MaybeFloatsOut &v_sh, int threads) {
    const size_t n = means.size() / 3, terms = n ? sh.size() / (3 * n) : 16;
    check_degree(degree, terms);
    float camera[3];
    camera_position(data(viewmat, 16, "viewmat"), camera);
    const float *in = data(means, 3 * n, "means"), *rows = data(sh, 3 * n * terms, "sh");
    const float *out = data(colors, 3 * n, "colors"), *v_out = data(v_colors, 3 * n, "v_colors");
    float *to_means = data(v_means, 3 * n, "v_means"), *to_sh = data(v_sh, 3 * n * terms, "v_sh");
    const Kernels &k = kernels();
    nb::gil_scoped_release release;
    parallel_ranges(int(n), threads, [&](int begin, int end) {
        k.harmonics_backward(degree, int(terms), in, camera, rows, out, v_out, begin, end, to_means, to_sh);
    });
}

void frame_build(FrameHandle &frame, const Floats &means2d, const Floats &conics, const Floats &opacities,
                 const Floats &depths, const Ints &radii, int width, int height, int threads) {
    const size_t n = depths.size();
    if (width < 1 || height < 1 || width > 65535 * TILE || height > 65535 * TILE || n >= size_t(1) << 31)
        throw std::invalid_argument("1 to 2^20 pixels along a side and fewer than 2^31 Gaussians wanted");
    const float *m = data(means2d, 2 * n, "means2d"), *c = data(conics, 3 * n, "conics");
    const float *o = data(opacities, n, "opacities"), *d = data(depths, n, "depths");
    const int32_t *r = data(radii, 2 * n, "radii");
    nb::gil_scoped_release release;
    frame->build(m, c, o, d, r, int(n), width, height, threads);
}

// A pointer moved on, unless it is null.
float *from(float *values, size_t offset) { return values ? values + offset : nullptr; }

// The frame's image with what it is blended with.
Image with_colors(const FrameHandle &frame, const Floats &colors, const MaybeFloats &background, size_t channels) {
    Image image = frame->image;
    image.channels = int(channels);
    image.colors = data(colors, size_t(frame->count) * channels, "colors");
    image.background = data(background, channels, "background");
    return image;
}

void frame_blend(FrameHandle &frame, const Floats &colors, const MaybeFloats &background, const FloatsOut &out,
                 const FloatsOut &left, int threads) {
    const size_t pixels = left.size(), channels = pixels ? out.size() / pixels : 0;
    if (pixels != size_t(frame->image.width) * size_t(frame->image.height))
        throw std::invalid_argument("left: not of the size of the image");
    const Image image = with_colors(frame, colors, background, channels);
    float *to = data(out, pixels * channels, "image"), *to_left = left.data();
    const Kernels &k = kernels();
    nb::gil_scoped_release release;
    const size_t floats = k.scratch_floats(image.channels);
    float *scratch = frame->scratch(floats, threads);
    parallel(frame->tiles(), threads, [&](int tile, int thread) {
        k.blend(image, tile, scratch + floats * size_t(thread), to, to_left);
    });
    frame->blended = true;
}

void frame_blend_backward(FrameHandle &frame, const Floats &opacities, const Floats &colors, const Floats &out,
                          const Floats &left, const Floats &v_image, const Floats &v_alpha,
                          const MaybeFloatsOut &v_means2d, const MaybeFloatsOut &v_conics,
                          const MaybeFloatsOut &v_opacities, const MaybeFloatsOut &v_colors,
                          const MaybeFloatsOut &v_absolute, int threads) {
    const size_t pixels = left.size(), channels = pixels ? out.size() / pixels : 0, n = size_t(frame->count);
    if (pixels != size_t(frame->image.width) * size_t(frame->image.height))
        throw std::invalid_argument("left: not of the size of the image");
    if (v_means2d.has_value() != v_conics.has_value() || v_means2d.has_value() != v_opacities.has_value() ||
        (v_absolute && !v_means2d))
        throw std::invalid_argument("v_means2d, v_conics and v_opacities go together");
    if (!frame->blended) throw std::invalid_argument("blend_backward: blend first");
    const Image image = with_colors(frame, colors, std::nullopt, channels);
    ImageGradients v{};
    v.image = data(out, pixels * channels, "image"), v.left = left.data();
    v.v_image = data(v_image, pixels * channels, "v_image"), v.v_alpha = data(v_alpha, pixels, "v_alpha");
    v.geometry = v_means2d.has_value(), v.color = v_colors.has_value(), v.absolute = v_absolute.has_value();
    const int slot_size = color_offset(v.geometry, v.absolute) + int(channels);
    v.slot_size = slot_size;
    const float *o = data(opacities, n, "opacities");
    float *to_means = data(v_means2d, 2 * n, "v_means2d"), *to_conics = data(v_conics, 3 * n, "v_conics");
    float *to_opacities = data(v_opacities, n, "v_opacities"), *to_absolute = data(v_absolute, 2 * n, "v_absolute");
    float *to_colors = data(v_colors, n * channels, "v_colors");
    const Kernels &k = kernels();
    nb::gil_scoped_release release;
    v.slots = frame->slots(size_t(slot_size));
    v.touched = frame->touched();
    const size_t floats = std::max(k.scratch_floats(image.channels), size_t(slot_size + 64));
    float *scratch = frame->scratch(floats, threads);
    parallel(frame->tiles(), threads, [&](int tile, int thread) {
        k.blend_backward(image, v, tile, scratch + floats * size_t(thread));
    });
    constexpr int RANGE = 2048;
    parallel((frame->count + RANGE - 1) / RANGE, threads, [&](int task, int thread) {
        const size_t begin = size_t(task) * RANGE, end = std::min(begin + RANGE, n);
        const SplatGradients out{from(to_means, 2 * begin), from(to_conics, 3 * begin), from(to_opacities, begin),
                                 from(to_colors, channels * begin), from(to_absolute, 2 * begin), nullptr};
        k.gather(image, v, int(begin), int(end), o, out, scratch + floats * size_t(thread));
    });
}

// How many pairs a forward pass works on.
std::pair<uint64_t, uint64_t> frame_pairs(FrameHandle &frame) {
    nb::gil_scoped_release release;
    Image image = frame->image;
    image.colors = nullptr, image.channels = 0;
    std::pair<uint64_t, uint64_t> pairs{0, 0};
    for (int tile = 0; tile < frame->tiles(); tile++) kernels().tile_pairs(image, tile, &pairs.first, &pairs.second);
    return pairs;
}

}  // namespace

void bind_rasterizer_weights(nb::module_ &m);

void bind_rasterizer(nb::module_ &m) {
    // A frame lives as long as its image can be differentiated, which may be until the interpreter ends.
    nb::set_leak_warnings(false);
    m.def("simd_level", [] { return std::string(kernels().name); }, "The instruction set in use.");
    m.def("use_simd_level", [](const std::string &name) { return use_kernels(name.c_str()); }, nb::arg("name"),
          "Switch to avx512, avx2 or baseline; False where this CPU or build lacks it.");
    m.def("project", &project, nb::arg("means"), nb::arg("quats"), nb::arg("scales"), nb::arg("opacities"),
          nb::arg("viewmat"), nb::arg("K"), nb::arg("width"), nb::arg("height"), nb::arg("near_plane"),
          nb::arg("far_plane"), nb::arg("eps2d"), nb::arg("means2d"), nb::arg("conics"), nb::arg("depths"),
          nb::arg("compensations").none(), nb::arg("radii"), nb::arg("threads"));
    m.def("project_backward", &project_backward, nb::arg("means"), nb::arg("quats"), nb::arg("scales"),
          nb::arg("viewmat"), nb::arg("K"), nb::arg("width"), nb::arg("height"), nb::arg("eps2d"),
          nb::arg("antialiased"), nb::arg("radii"), nb::arg("v_means2d").none(), nb::arg("v_conics").none(),
          nb::arg("v_depths").none(), nb::arg("v_compensations").none(), nb::arg("v_means").none(),
          nb::arg("v_quats").none(), nb::arg("v_scales").none(), nb::arg("threads"));
    m.def("harmonics", &harmonics, nb::arg("degree"), nb::arg("means"), nb::arg("viewmat"), nb::arg("sh"),
          nb::arg("radii"), nb::arg("colors"), nb::arg("threads"));
    m.def("harmonics_backward", &harmonics_backward, nb::arg("degree"), nb::arg("means"), nb::arg("viewmat"),
          nb::arg("sh"), nb::arg("colors"), nb::arg("v_colors"), nb::arg("v_means").none(), nb::arg("v_sh").none(),
          nb::arg("threads"));
    nb::class_<FrameHandle>(m, "Frame", "The Gaussians of one image, sorted into tiles.")
        .def(nb::init<>())
        .def_prop_ro("pairs", [](const FrameHandle &frame) { return frame->pairs; }, "(Gaussian, tile) pairs.")
        .def("pixel_pairs", &frame_pairs,
             "(pixel, Gaussian) pairs whose alpha is worked out, and those of them that are blended.")
        .def("build", &frame_build, nb::arg("means2d"), nb::arg("conics"), nb::arg("opacities"), nb::arg("depths"),
             nb::arg("radii"), nb::arg("width"), nb::arg("height"), nb::arg("threads"))
        .def("blend", &frame_blend, nb::arg("colors"), nb::arg("background").none(), nb::arg("image"),
             nb::arg("left"), nb::arg("threads"))
        .def("blend_backward", &frame_blend_backward, nb::arg("opacities"), nb::arg("colors"), nb::arg("image"),
             nb::arg("left"), nb::arg("v_image"), nb::arg("v_alpha"), nb::arg("v_means2d").none(),
             nb::arg("v_conics").none(), nb::arg("v_opacities").none(), nb::arg("v_colors").none(),
             nb::arg("v_absolute").none(), nb::arg("threads"));
    bind_rasterizer_weights(m);
}
