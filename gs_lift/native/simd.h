// W floats at the native width of the instruction set that a file is compiled for.
//
// Included by sources that are compiled several times with other flags, so everything has internal linkage and
// nothing of the standard library appears: an instance of a std:: template compiled for AVX-512 could be the one
// that the linker keeps for an older CPU.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define GS_INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)

constexpr int W = 16;
using F = __m512;
using M = __mmask16;

GS_INLINE F set(float x) { return _mm512_set1_ps(x); }
GS_INLINE F load(const float *p) { return _mm512_loadu_ps(p); }
GS_INLINE void store(float *p, F a) { _mm512_storeu_ps(p, a); }
GS_INLINE F vmin(F a, F b) { return _mm512_min_ps(a, b); }
GS_INLINE F vmax(F a, F b) { return _mm512_max_ps(a, b); }
GS_INLINE F vsqrt(F a) { return _mm512_sqrt_ps(a); }
GS_INLINE F vabs(F a) { return _mm512_abs_ps(a); }
GS_INLINE F vceil(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
GS_INLINE F vfloor(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
GS_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
GS_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
GS_INLINE M ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
GS_INLINE M gt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
GS_INLINE M both(M a, M b) { return M(a & b); }
GS_INLINE M without(M a, M b) { return M(a & ~b); }  // a and not b
GS_INLINE bool any(M m) { return m != 0; }
GS_INLINE uint32_t bits(M m) { return m; }
GS_INLINE F keep(M m, F a) { return _mm512_maskz_mov_ps(m, a); }
GS_INLINE F pick(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }  // m ? a : b

// 1 / a, to about one unit in the last place.
GS_INLINE F reciprocal(F a) {
    F r = _mm512_rcp14_ps(a);
    return r * fnma(a, r, set(2.0f));
}

GS_INLINE F scale_by_power(F a, F n) { return _mm512_scalef_ps(a, n); }  // a 2^n
GS_INLINE F round_nearest(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// a = 2^exponent * mantissa in [0.75, 1.5); for a > 0.
GS_INLINE void split_power(F a, F &exponent, F &mantissa) {
    mantissa = _mm512_getmant_ps(a, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    exponent = _mm512_getexp_ps(a / mantissa);
}
GS_INLINE __m128 fold(F a) {  // four partial sums
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int W = 8;
using F = __m256;
using M = __m256;

GS_INLINE F set(float x) { return _mm256_set1_ps(x); }
GS_INLINE F load(const float *p) { return _mm256_loadu_ps(p); }
GS_INLINE void store(float *p, F a) { _mm256_storeu_ps(p, a); }
GS_INLINE F vmin(F a, F b) { return _mm256_min_ps(a, b); }
GS_INLINE F vmax(F a, F b) { return _mm256_max_ps(a, b); }
GS_INLINE F vsqrt(F a) { return _mm256_sqrt_ps(a); }
GS_INLINE F vabs(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
GS_INLINE F vceil(F a) { return _mm256_ceil_ps(a); }
GS_INLINE F vfloor(F a) { return _mm256_floor_ps(a); }
GS_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
GS_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
GS_INLINE M ge(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
GS_INLINE M gt(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
GS_INLINE M both(M a, M b) { return _mm256_and_ps(a, b); }
GS_INLINE M without(M a, M b) { return _mm256_andnot_ps(b, a); }
GS_INLINE uint32_t bits(M m) { return uint32_t(_mm256_movemask_ps(m)); }
GS_INLINE bool any(M m) { return bits(m) != 0; }
GS_INLINE F keep(M m, F a) { return _mm256_and_ps(m, a); }
GS_INLINE F pick(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
GS_INLINE F reciprocal(F a) {
    F r = _mm256_rcp_ps(a);
    return r * fnma(a, r, set(2.0f));
}
GS_INLINE F scale_by_power(F a, F n) {  // n an integer; the result a normal number
    __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), shift));
}
GS_INLINE F round_nearest(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
GS_INLINE void split_power(F a, F &exponent, F &mantissa) {
    // The offset moves the border between two exponents from 1 to 0.75.
    __m256i whole = _mm256_sub_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(0x3f400000));
    __m256i power = _mm256_srai_epi32(whole, 23);
    exponent = _mm256_cvtepi32_ps(power);
    mantissa = _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(power, 23)));
}
GS_INLINE __m128 fold(F a) { return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); }

#else

// GCC's and Clang's generic vectors at 16 bytes: SSE2, NEON, or whatever the target has.
constexpr int W = 4;
typedef float F __attribute__((vector_size(16)));
typedef int32_t M __attribute__((vector_size(16)));

GS_INLINE F set(float x) { return F{x, x, x, x}; }
GS_INLINE F load(const float *p) {
    F a;
    memcpy(&a, p, sizeof a);
    return a;
}
GS_INLINE void store(float *p, F a) { memcpy(p, &a, sizeof a); }
GS_INLINE F pick(M m, F a, F b) { return (F)((m & (M)a) | (~m & (M)b)); }
GS_INLINE F keep(M m, F a) { return (F)(m & (M)a); }
GS_INLINE F vmin(F a, F b) { return pick(a < b, a, b); }
GS_INLINE F vmax(F a, F b) { return pick(a > b, a, b); }
GS_INLINE F vsqrt(F a) {
    return F{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
}
GS_INLINE F vabs(F a) { return (F)((M)a & M{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff}); }
GS_INLINE F fma(F a, F b, F c) { return a * b + c; }
GS_INLINE F fnma(F a, F b, F c) { return c - a * b; }
GS_INLINE M ge(F a, F b) { return a >= b; }
GS_INLINE M gt(F a, F b) { return a > b; }
GS_INLINE M both(M a, M b) { return a & b; }
GS_INLINE M without(M a, M b) { return a & ~b; }
GS_INLINE uint32_t bits(M m) {
    return uint32_t((m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8));
}
GS_INLINE bool any(M m) { return ((m[0] | m[1]) | (m[2] | m[3])) != 0; }
GS_INLINE F reciprocal(F a) { return 1.0f / a; }
GS_INLINE M to_int(F a) { return __builtin_convertvector(a, M); }
GS_INLINE F to_float(M a) { return __builtin_convertvector(a, F); }
// Whole numbers lie closer than 1 apart above 2^23, where there is nothing to round.
GS_INLINE F vfloor(F a) {
    F down = to_float(to_int(a));
    down = pick(down > a, down - 1.0f, down);
    return pick(vabs(a) < set(8388608.0f), down, a);
}
GS_INLINE F vceil(F a) { return -vfloor(-a); }
GS_INLINE F round_nearest(F a) { return vfloor(a + 0.5f); }
GS_INLINE F scale_by_power(F a, F n) { return (F)((M)a + (to_int(n) << 23)); }
GS_INLINE void split_power(F a, F &exponent, F &mantissa) {
    M power = ((M)a - M{0x3f400000, 0x3f400000, 0x3f400000, 0x3f400000}) >> 23;
    exponent = to_float(power);
    mantissa = (F)((M)a - (power << 23));
}
GS_INLINE F fold(F a) { return a; }

#endif

GS_INLINE F zero() { return set(0.0f); }

// 2^p to 2.3e-7, for p in -126..126: minimax polynomial of degree 5 on [-1/2, 1/2].
GS_INLINE F exp2_of(F p) {
    F whole = round_nearest(p), r = p - whole;
    F y = fma(set(1.327647203e-03f), r, set(9.675541480e-03f));
    y = fma(y, r, set(5.550713275e-02f));
    y = fma(y, r, set(2.402211972e-01f));
    y = fma(y, r, set(6.931469671e-01f));
    y = fma(y, r, set(1.000000072e+00f));
    return scale_by_power(y, whole);
}

// log2(a) for normal a > 0: the series of atanh((m - 1) / (m + 1)), |argument| <= 1/5.
GS_INLINE F log2_of(F a) {
    F exponent, mantissa;
    split_power(a, exponent, mantissa);
    F s = (mantissa - 1.0f) / (mantissa + 1.0f), ss = s * s;
    F y = fma(set(2.623081e-1f), ss, set(3.205989e-1f));  // 2 / (11 ln 2), 2 / (9 ln 2)
    y = fma(y, ss, set(4.121986e-1f));
    y = fma(y, ss, set(5.770780e-1f));
    y = fma(y, ss, set(9.617967e-1f));
    y = fma(y, ss, set(2.885390082f));
    return fma(s, y, exponent);
}

// Writes the lanes of `a` that are in m, and their numbers plus `first`, side by side; -> how many. Up to W - 1 more
// values may be overwritten.
GS_INLINE int pack(M m, F a, int first, float *out, int32_t *lanes) {
    uint32_t rest = bits(m);
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps(m, a));
    _mm512_storeu_si512(lanes, _mm512_maskz_compress_epi32(m, _mm512_add_epi32(iota, _mm512_set1_epi32(first))));
    return __builtin_popcount(rest);
#else
    alignas(64) float values[W];
    store(values, a);
    int count = 0;
    for (; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        out[count] = values[lane];
        lanes[count++] = first + lane;
    }
    return count;
#endif
}

// The sums of `count` vectors, written one after the other.
template <int count> GS_INLINE void store_sums(const F *a, float *out) {
#if defined(__AVX2__)
    int i = 0;
    for (; i + 4 <= count; i += 4) {
        __m128 pair = _mm_hadd_ps(fold(a[i]), fold(a[i + 1]));
        __m128 other = _mm_hadd_ps(fold(a[i + 2]), fold(a[i + 3]));
        _mm_storeu_ps(out + i, _mm_hadd_ps(pair, other));
    }
    for (; i < count; i++) {
        __m128 sum = fold(a[i]);
        sum = _mm_hadd_ps(sum, sum);
        out[i] = _mm_cvtss_f32(_mm_hadd_ps(sum, sum));
    }
#else
    for (int i = 0; i < count; i++) {
        F sum = fold(a[i]);
        out[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
#endif
}

}  // namespace
