/* One update of gradient descent with momentum, or of Adam, and max-norm, in one pass over the memory. */

#include <math.h>
#include <stdint.h>

/* The compiler makes each loop in several ways, for vectors, for ends, for pointers that may overlap: a product that is
   fused with a sum in one and not in another would make the last bit a matter of addresses. */
#pragma GCC optimize("fp-contract=off")
#pragma STDC FP_CONTRACT OFF

/* Units of a block, where the weights into a unit are a column; elements of a block, where units do not matter. */
enum { COLUMNS = 128, FLAT = 8192, LANES = 16 };

typedef struct {
    /* Of Adam the decaying sums of gradients and of their squares; of momentum the velocity and null. */
    float *value, *first, *second;
    const float *gradient;
    /* Elements of one run, [outer, units, inner]. */
    int64_t outer, units, inner;
    int64_t decays, bounded;
} tensor;

/* Coefficients of one run; what an update has no use for is 0. */
typedef struct {
    float clip, decay, keep_first, keep_second, by_gradient, by_first, eps, shrink;
} numbers;

/* Both are compiled for a constant `adam`, so no element pays for the other. */
#define BOTH static inline __attribute__((always_inline))

BOTH float moved(const tensor *t, int64_t at, numbers n, int adam) {
    const float w = t->value[at], g = n.clip * t->gradient[at] + n.decay * w;
    const float first = t->first[at] = n.keep_first * t->first[at] + g;
    if (!adam) return t->value[at] = w + n.by_gradient * g + n.by_first * first;
    const float second = t->second[at] = n.keep_second * t->second[at] + g * g;
    return t->value[at] = n.shrink * w + n.by_first * (first / (sqrtf(second) + n.eps));
}

static inline float factor(float squares, float bound) {
    const float least = bound / (sqrtf(squares) + 1e-7f);
    return squares > bound * bound && least < 1 ? least : 1;
}

BOTH void span(const tensor *t, int64_t at, int64_t count, numbers n, int adam) {
    for (int64_t i = 0; i < count; i++) moved(t, at + i, n, adam);
}

/* The weights into a unit are a column of [outer, units]. */
BOTH void columns(const tensor *t, int64_t at, int64_t count, numbers n, float bound, int adam) {
    float squares[COLUMNS] = {0};
    for (int64_t row = 0; row < t->outer; row++) {
        const int64_t from = at + row * t->units;
        for (int64_t i = 0; i < count; i++) {
            const float w = moved(t, from + i, n, adam);
            squares[i] += w * w;
        }
    }
    int beyond = 0;
    for (int64_t i = 0; i < count; i++) {
        squares[i] = factor(squares[i], bound);
        beyond |= squares[i] < 1;
    }
    for (int64_t row = 0; beyond && row < t->outer; row++)
        for (int64_t i = 0; i < count; i++) t->value[at + row * t->units + i] *= squares[i];
}

/* The weights into a unit stand together. */
BOTH void row(const tensor *t, int64_t at, numbers n, float bound, int adam) {
    float lanes[LANES] = {0}, squares = 0;
    int64_t i = 0;
    for (; i + LANES <= t->inner; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            const float w = moved(t, at + i + lane, n, adam);
            lanes[lane] += w * w;
        }
    for (; i < t->inner; i++) {
        const float w = moved(t, at + i, n, adam);
        lanes[0] += w * w;
    }
    for (int lane = 0; lane < LANES; lane++) squares += lanes[lane];
    const float by = factor(squares, bound);
    for (i = 0; by < 1 && i < t->inner; i++) t->value[at + i] *= by;
}

static int64_t pieces(const tensor *t) {
    if (!t->bounded) return (t->outer * t->units * t->inner + FLAT - 1) / FLAT;
    return t->inner == 1 ? (t->units + COLUMNS - 1) / COLUMNS : t->units;
}

BOTH void piece(const tensor *t, int64_t run, int64_t number, numbers n, float bound, int adam) {
    const int64_t size = t->outer * t->units * t->inner, first = run * size;
    if (!t->bounded) {
        const int64_t left = size - number * FLAT;
        span(t, first + number * FLAT, left < FLAT ? left : FLAT, n, adam);
    } else if (t->inner == 1) {
        const int64_t left = t->units - number * COLUMNS;
        columns(t, first + number * COLUMNS, left < COLUMNS ? left : COLUMNS, n, bound, adam);
    } else {
        row(t, first + number * t->inner, n, bound, adam);
    }
}

/* `coefficients` of every run; `bound` may be null, and a bounded tensor has inner == 1 or outer == 1. */
void update(int64_t runs, int64_t count, const tensor *tensors, const numbers *coefficients, const float *bound,
            int64_t adam) {
    int64_t total = 0, elements = 0;
    for (int64_t i = 0; i < count; i++) {
        total += pieces(tensors + i);
        elements += tensors[i].outer * tensors[i].units * tensors[i].inner;
    }
#pragma omp parallel for schedule(dynamic, 4) if (runs * elements > 32768)
    for (int64_t item = 0; item < runs * total; item++) {
        const int64_t run = item / total;
        int64_t number = item % total;
        const tensor *t = tensors;
        for (; number >= pieces(t); t++) number -= pieces(t);
        numbers n = coefficients[run];
        if (!t->decays) n.decay = 0, n.shrink = 1;
        const float most = bound ? bound[run] : 0;
        if (adam)
            piece(t, run, number, n, most, 1);
        else
            piece(t, run, number, n, most, 0);
    }
}
