// Which points of a group lie near a query: the inner loop of the neighbour search.
#pragma once
#include "simd.h"

namespace {

constexpr int NEAR_TILE = 32;  // points whose sums are held in registers; groups are padded to whole tiles

// Squared distances below `limit` from q [dims] to the points of a block [dims padded], and their places, in order of
// place. -> how many. Room for `padded` values is needed. Padding is NaN, which is below nothing.
int near_points(const float *q, const float *block, int padded, int dims, float limit, float *squared,
                int32_t *places) {
    constexpr int VECTORS_OF_TILE = NEAR_TILE / W;
    const F most = set(limit);
    int count = 0;
    for (int first = 0; first < padded; first += NEAR_TILE) {
        F sums[VECTORS_OF_TILE];
        for (F &sum : sums) sum = zero();
        bool some = true;
        for (int d = 0; d < dims && some;) {
            // Far points are known to be far after some dimensions.
            const int end = d + 8 < dims ? d + 8 : dims;
            for (; d < end; d++) {
                const F at = set(q[d]);
                const float *row = block + size_t(d) * size_t(padded) + first;
                for (int i = 0; i < VECTORS_OF_TILE; i++) {
                    const F apart = at - load(row + i * W);
                    sums[i] = fma(apart, apart, sums[i]);
                }
            }
            some = false;
            for (const F &sum : sums) some |= any(gt(most, sum));
        }
        if (!some) continue;
        for (int i = 0; i < VECTORS_OF_TILE; i++) {
            const M kept = gt(most, sums[i]);
            if (any(kept)) count += pack(kept, sums[i], first + i * W, squared + count, places + count);
        }
    }
    return count;
}

}  // namespace
