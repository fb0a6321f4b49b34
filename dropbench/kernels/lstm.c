/* An LSTM layer with its noise, forward and backward; the formulas stand in lstm.py.

   The rows of a batch do not see each other in time. So the threads share out runs and rows, each walks through all
   steps with its own, and none waits for another. Every sum has its terms in one order, whatever the number of runs,
   rows and threads, so the results are the same to the last bit. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

/* LANES floats are a vector; ROWS x WIDE vectors are the sums that a product keeps in registers. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 6
#elif defined(__aarch64__)
#define LANES 4
#define ROWS 6
#elif defined(__AVX__)
#define LANES 8
#define ROWS 3
#else
#define LANES 4
#define ROWS 3
#endif
#define WIDE 4
#define PANEL (WIDE * LANES)
#define GATES 4
#define ALIGNMENT 64
#define HUGE_PAGE (1 << 21)
/* Floats of room that are kept from one call to the next: 256 MiB. */
#define MOST_KEPT (1 << 26)
/* Rows of the batch, of all steps, that enter the gradient of the weights at once: what they need fits into a cache. */
#define CHUNK 256

#define INLINE static inline __attribute__((always_inline))
typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t whole __attribute__((vector_size(4 * LANES)));
typedef vector loose __attribute__((aligned(4), may_alias)); /* anywhere in memory */

/* A tensor [runs, steps, batch, units] with strides; 0 along an axis where it is the same everywhere. */
typedef struct {
    const float *data;
    int64_t run, step, row, unit;
} tensor;

/* What is a pointer is contiguous. */
typedef struct {
    int64_t runs, steps, batch, inputs, hidden, reverse;
    const int64_t *lengths;  /* [runs, batch]; NULL: all have all steps */
    const float *x;          /* [runs, steps, batch, inputs]; or what they give to the gates [.., 4 hidden] */
    const float *weight_ih;  /* [runs, inputs, 4 hidden]; NULL: x is what they give to the gates */
    const float *bias;       /* [runs, 4 hidden]; NULL with weight_ih */
    const float *weight_hh;  /* [runs, hidden, 4 hidden] */
    float *gates;            /* [runs, steps, batch, 4 hidden], i, f, g, o; NULL: nothing is kept for backward */
    float *before;           /* [runs, steps, batch, hidden], memories that the steps start from */
    float *squashed;         /* likewise, tanh of the new memories */
    float *states;           /* likewise, h */
    const float *above;      /* likewise, the gradient of the states */
    float *to_x;             /* as x, its gradient; NULL: not wanted */
    float *to_weight_ih, *to_bias, *to_weight_hh; /* likewise */
    tensor state, candidate, cell, readout, keep_c, mix_c, keep_h, mix_h; /* noise; data is NULL where there is none */
} layer;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t over(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Where share `index` begins, when `whole` is cut into `shares` as even as can be. */
INLINE int64_t share(int64_t whole, int64_t shares, int64_t index) {
    return whole / shares * index + least(whole % shares, index);
}

INLINE int64_t aligned(int64_t floats) { return over(floats, ALIGNMENT / 4) * (ALIGNMENT / 4); }

/* Room for one call, kept for the next: memory fresh from the system costs more than what is done in it. */
static _Thread_local float *kept_room;
static _Thread_local int64_t kept_floats;

static float *room(int64_t floats) {
    if (floats > kept_floats) {
        free(kept_room);
        kept_room = aligned_alloc(HUGE_PAGE, (size_t)over(floats * 4, HUGE_PAGE) * HUGE_PAGE);
        kept_floats = kept_room ? floats : 0;
#ifdef MADV_HUGEPAGE
        if (kept_room) madvise(kept_room, (size_t)over(floats * 4, HUGE_PAGE) * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    }
    return kept_room;
}

static void leave_room(void) {
    if (kept_floats > MOST_KEPT) {
        free(kept_room);
        kept_room = NULL;
        kept_floats = 0;
    }
}

/* ---- numbers */

/* Some floats of a row, and back. */
INLINE vector load(const float *from, const int64_t count) {
    if (count == LANES) return *(const loose *)from;
    vector value = {0};
    memcpy(&value, from, count * sizeof(float));
    return value;
}

INLINE void store(float *to, vector value, const int64_t count) {
    if (count == LANES) *(loose *)to = value;
    else memcpy(to, &value, count * sizeof(float));
}

/* Not a number stays what it is. */
INLINE vector clamped(vector x, float limit) {
    const vector high = (vector){0} + limit, low = -high;
#if defined(__AVX512F__)
    return _mm512_max_ps(low, _mm512_min_ps(high, x));
#elif defined(__AVX__)
    return _mm256_max_ps(low, _mm256_min_ps(high, x));
#else
    const whole above = high < x, below = low > x;
    return (vector)((above & (whole)high) | (below & (whole)low) | (~(above | below) & (whole)x));
#endif
}

/* a b + c d, where the compiler could round the one product or the other. */
INLINE vector two_products(vector a, vector b, vector c, vector d) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c * d);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c * d);
#elif defined(__aarch64__)
    return (vector)vfmaq_f32((float32x4_t)(c * d), (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c * d;
#endif
}

/* 1 / (1 + exp(-x)); exp as in Cephes (Moshier, 1989). */
INLINE vector sigmoid(vector x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: a sum with it has no fraction */
    const vector y = -clamped(x, 87.0f), shifted = y * 1.44269504088896341f + shift, n = shifted - shift;
    const vector r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return 1.0f / (p * (vector)(((whole)shifted << 23) + 0x3f800000) + 1.0f);
}

/* The rational function that Eigen has for tanh. */
INLINE vector hyperbolic_tangent(vector x) {
    x = clamped(x, 7.90531110763549805f); /* beyond it is 1 */
    const vector s = x * x;
    vector p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * s - 8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    vector q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return x * p / q;
}

/* ---- products */

/* sum [rows, wide vectors] += a [rows, depth] panel [depth, wide vectors], term by term. */
INLINE void add_product(const int rows, const int wide, vector sum[ROWS][WIDE], const float *a, const int64_t by_row,
                        const int64_t by_term, const float *panel, const int64_t depth) {
    for (int64_t k = 0; k < depth; k++) {
        vector b[WIDE];
        for (int v = 0; v < wide; v++) b[v] = ((const vector *)panel)[k * wide + v];
        for (int row = 0; row < rows; row++) {
            const float factor = a[row * by_row + k * by_term];
            for (int v = 0; v < wide; v++) sum[row][v] += factor * b[v];
        }
    }
}

/* One factor on the left of a product: rows of `stride` floats, `depth` of them used. */
typedef struct {
    const float *data;
    int64_t stride, depth;
} factor;

/* out [rows, wide vectors] = (a | b) panel, or with `turned` a^T panel, a [depth, rows] without gaps. */
INLINE void block(const int rows, const int wide, const int turned, factor a, factor b, const float *panel,
                  float *out) {
    vector sum[ROWS][WIDE];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < wide; v++) sum[row][v] = (vector){0};
    if (turned) {
        add_product(rows, wide, sum, a.data, 1, rows, panel, a.depth);
    } else {
        add_product(rows, wide, sum, a.data, a.stride, 1, panel, a.depth);
        add_product(rows, wide, sum, b.data, b.stride, 1, panel + a.depth * wide * LANES, b.depth);
    }
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < wide; v++) ((vector *)out)[row * wide + v] = sum[row][v];
}

#define CASE(rows, wide, turned) \
    case rows * 8 + wide: \
        block(rows, wide, turned, a, b, panel, out); \
        break;
#define OF_WIDTH(wide, turned) CASE(1, wide, turned) CASE(2, wide, turned) CASE(3, wide, turned) MORE(wide, turned)
#if ROWS == 6
#define MORE(wide, turned) CASE(4, wide, turned) CASE(5, wide, turned) CASE(6, wide, turned)
#else
#define MORE(wide, turned)
#endif
#define OF_ANY_WIDTH(turned) OF_WIDTH(1, turned) OF_WIDTH(2, turned) OF_WIDTH(3, turned) OF_WIDTH(4, turned)

/* Blocks of known size, which the compiler can keep in registers: up to ROWS rows, up to WIDE vectors. */
static void product(int64_t rows, int64_t wide, factor a, factor b, const float *panel, float *out) {
    switch (rows * 8 + wide) { OF_ANY_WIDTH(0) }
}

static void turned_product(int64_t rows, int64_t wide, const float *left, int64_t depth, const float *panel,
                           float *out) {
    const factor a = {left, rows, depth}, b = {0};
    switch (rows * 8 + wide) { OF_ANY_WIDTH(1) }
}

/* Columns are cut into panels of up to WIDE vectors, as even as can be: the first vector of panel `index`. */
INLINE int64_t panels_of(int64_t columns) { return over(over(columns, LANES), WIDE); }
INLINE int64_t vectors_before(int64_t columns, int64_t index) {
    return share(over(columns, LANES), panels_of(columns), index);
}

/* ---- packed weights: panels in the order in which products read them, 0 behind the last unit */

/* Rows of a weight [rows, 4 hidden] for LANES units from `unit` on: all four gates of them, [rows, gates, LANES]. */
static void pack_gates(const float *weight, int64_t rows, int64_t hidden, int64_t unit, float *panel) {
    const int64_t count = least(LANES, hidden - unit);
    for (int64_t line = 0; line < rows * GATES; line++) {
        const float *restrict from = weight + line * hidden + unit;
        float *restrict to = panel + line * LANES;
        if (count == LANES) {
            for (int64_t u = 0; u < LANES; u++) to[u] = from[u];
        } else {
            for (int64_t u = 0; u < LANES; u++) to[u] = u < count ? from[u] : 0;
        }
    }
}

/* Panel `index` of the transposed weight [rows, 4 hidden]: [4 hidden, units of the panel]. */
static void pack_transposed(const float *weight, int64_t rows, int64_t hidden, int64_t index, float *panel) {
    const int64_t deep = GATES * hidden, first = vectors_before(rows, index) * LANES;
    const int64_t units = vectors_before(rows, index + 1) * LANES - first;
    for (int64_t from = 0; from < deep; from += LANES)
        for (int64_t u = 0; u < units; u++)
            for (int64_t k = from; k < least(from + LANES, deep); k++)
                panel[k * units + u] = first + u < rows ? weight[(first + u) * deep + k] : 0;
}

/* ---- noise */

typedef struct {
    const float *candidate, *cell, *readout, *keep_c, *mix_c, *keep_h, *mix_h;
} masks;

/* What a part has for `count` units of a row, `otherwise` where it is absent. */
INLINE const float *spread(const tensor *from, int64_t run, int64_t step, int64_t row, int64_t unit, int64_t count,
                           float otherwise, float *into) {
    if (from->data) {
        const float *at = from->data + run * from->run + step * from->step + row * from->row;
        if (from->unit) return at + unit;
        otherwise = *at;
    }
    for (int64_t u = 0; u < count; u++) into[u] = otherwise;
    return into;
}

/* All of them but that at the state; `into`: 7 times `count` floats. */
INLINE masks all_masks(const layer *l, int64_t run, int64_t step, int64_t row, int64_t unit, int64_t count,
                       float *into) {
    return (masks){
        .candidate = spread(&l->candidate, run, step, row, unit, count, 1, into),
        .cell = spread(&l->cell, run, step, row, unit, count, 1, into + count),
        .readout = spread(&l->readout, run, step, row, unit, count, 1, into + 2 * count),
        .keep_c = spread(&l->keep_c, run, step, row, unit, count, 1, into + 3 * count),
        .mix_c = spread(&l->mix_c, run, step, row, unit, count, 0, into + 4 * count),
        .keep_h = spread(&l->keep_h, run, step, row, unit, count, 1, into + 5 * count),
        .mix_h = spread(&l->mix_h, run, step, row, unit, count, 0, into + 6 * count),
    };
}

/* Whether there is no noise, but for that at the state. */
INLINE int is_plain(const layer *l) {
    return !(l->candidate.data || l->cell.data || l->readout.data || l->keep_c.data || l->mix_c.data ||
             l->keep_h.data || l->mix_h.data);
}

INLINE int is_over(const layer *l, int64_t run, int64_t step, int64_t row) {
    return l->lengths && step >= l->lengths[run * l->batch + row];
}

INLINE int64_t threads_at_hand(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

INLINE int64_t this_thread(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* How many runs are done at a time, and into how many shares the rows of each go, so that all threads have the same. */
INLINE int64_t runs_at_once(const layer *l) {
    int64_t a = l->runs, b = threads_at_hand();
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

INLINE int64_t row_shares(const layer *l) {
    return least(threads_at_hand() / runs_at_once(l), over(l->batch, ROWS));
}

/* ---- forward */

/* Floats that a walk needs of its own: two memories and what enters, a row of zeros and one of masks. */
INLINE int64_t forward_room(const layer *l, int64_t rows) { return aligned((3 * rows + 2) * l->hidden); }

/* Where a walk is. */
typedef struct {
    int64_t run, step, first;    /* first: row of the batch */
    int64_t here;                /* index of that row among those of all runs and steps */
    const float *given;          /* what the gates sum up beside products: bias, or x of the first row */
    int64_t given_row;           /* floats from row to row */
    const float *state;          /* h of the first row before the step */
    int64_t state_row;
    float *memory, *new_memory;  /* of all rows of the walk */
} place;

/* A step of rows `from` to `to` of a walk, for `count` units from `unit` on; `sums`: their products, [gates, LANES]. */
INLINE void step_forward(const int64_t count, const int plain, const int kept, const layer *l, place p, int64_t from,
                         int64_t to, int64_t unit, const float *sums) {
    const int64_t hidden = l->hidden;
    float spare[7 * LANES];
    for (int64_t row = from; row < to; row++, sums += PANEL) {
        const int64_t at = (p.here + row) * hidden + unit;
        const float *given = p.given + row * p.given_row + unit;
        const vector i = sigmoid(((const vector *)sums)[0] + load(given, count));
        const vector f = sigmoid(((const vector *)sums)[1] + load(given + hidden, count));
        const vector g = hyperbolic_tangent(((const vector *)sums)[2] + load(given + 2 * hidden, count));
        const vector o = sigmoid(((const vector *)sums)[3] + load(given + 3 * hidden, count));
        const vector c = load(p.memory + row * hidden + unit, count);
        vector memory, state, squashed;
        if (plain) {
            memory = two_products(f, c, i, g);
            squashed = hyperbolic_tangent(memory);
            state = o * squashed;
        } else {
            const masks m = all_masks(l, p.run, p.step, p.first + row, unit, count, spare);
            memory = two_products(f, c, i, g * load(m.candidate, count)) * load(m.cell, count);
            squashed = hyperbolic_tangent(memory);
            memory = two_products(memory, load(m.keep_c, count), c, load(m.mix_c, count));
            const vector old = load(p.state + row * p.state_row + unit, count);
            const vector read = o * squashed * load(m.readout, count);
            state = two_products(read, load(m.keep_h, count), old, load(m.mix_h, count));
        }
        if (kept) {
            float *gates = l->gates + (p.here + row) * GATES * hidden + unit;
            store(gates, i, count);
            store(gates + hidden, f, count);
            store(gates + 2 * hidden, g, count);
            store(gates + 3 * hidden, o, count);
            store(l->before + at, c, count);
            store(l->squashed + at, squashed, count);
        }
        if (is_over(l, p.run, p.step, p.first + row)) memory = state = (vector){0};
        store(p.new_memory + row * hidden + unit, memory, count);
        store(l->states + at, state, count);
    }
}

/* All steps of some rows; `panels` [blocks of units, inputs + hidden, gates, LANES]. */
static void walk_forward(const layer *l, int64_t run, int64_t first, int64_t rows, const float *panels, float *own) {
    const int64_t inputs = l->weight_ih ? l->inputs : 0, hidden = l->hidden, wide = inputs ? inputs : GATES * hidden;
    const int64_t groups = over(rows, ROWS), back = (l->reverse ? 1 : -1) * l->batch * hidden;
    const int plain = is_plain(l), kept = l->gates != NULL;
    float *entering = own + 2 * rows * hidden, *shared = entering + rows * hidden, *zeros = shared + hidden;
    float tile[ROWS * PANEL] __attribute__((aligned(ALIGNMENT)));
    place p = {.run = run, .first = first, .given = inputs ? l->bias + run * GATES * hidden : NULL, .state = zeros};
    memset(own, 0, rows * hidden * sizeof(float));
    memset(zeros, 0, hidden * sizeof(float));
    for (int64_t walked = 0; walked < l->steps; walked++) {
        p.step = l->reverse ? l->steps - 1 - walked : walked;
        p.here = (run * l->steps + p.step) * l->batch + first;
        p.memory = own + (walked & 1) * rows * hidden;
        p.new_memory = own + (~walked & 1) * rows * hidden;
        const float *x = l->x + p.here * wide, *enters = zeros;
        if (!inputs) {
            p.given = x;
            p.given_row = wide;
        }
        if (walked) {
            enters = p.state = l->states + p.here * hidden + back;
            p.state_row = hidden;
        }
        if (walked && l->state.data) {
            for (int64_t row = 0; row < rows; row++) {
                const float *restrict mask = spread(&l->state, run, p.step, first + row, 0, hidden, 1, shared);
                const float *restrict from = enters + row * hidden;
                float *restrict to = entering + row * hidden;
                for (int64_t u = 0; u < hidden; u++) to[u] = from[u] * mask[u];
            }
            enters = entering;
        }
        for (int64_t unit = 0; unit < hidden; unit += LANES) {
            const int64_t count = least(LANES, hidden - unit);
            const float *panel = panels + unit * GATES * (inputs + hidden);
            for (int64_t group = 0; group < groups; group++) {
                const int64_t from = share(rows, groups, group), to = share(rows, groups, group + 1);
                const factor by_input = {x + from * wide, wide, inputs};
                const factor by_state = {enters + from * hidden, hidden, walked ? hidden : 0};
                product(to - from, WIDE, by_input, by_state, panel, tile);
#define STEP(count) \
    if (plain && kept) step_forward(count, 1, 1, l, p, from, to, unit, tile); \
    else if (plain) step_forward(count, 1, 0, l, p, from, to, unit, tile); \
    else if (kept) step_forward(count, 0, 1, l, p, from, to, unit, tile); \
    else step_forward(count, 0, 0, l, p, from, to, unit, tile);
                if (count == LANES) {
                    STEP(LANES)
                } else {
                    STEP(count)
                }
            }
        }
    }
}

/* Fills states, and what backward needs. Returns 0, or 1 where memory is short. */
int lstm_forward(const layer *l) {
    const int64_t inputs = l->weight_ih ? l->inputs : 0, hidden = l->hidden, deep = inputs + hidden;
    const int64_t blocks = over(hidden, LANES), shares = row_shares(l), own = forward_room(l, over(l->batch, shares));
    const int64_t packed = l->runs * blocks * deep * PANEL;
    float *panels = room(packed + l->runs * shares * own), *rooms = panels + packed;
    if (!panels) return 1;
#pragma omp parallel
    {
#pragma omp for collapse(2) schedule(static)
        for (int64_t run = 0; run < l->runs; run++)
            for (int64_t index = 0; index < blocks; index++) {
                float *panel = panels + (run * blocks + index) * deep * PANEL;
                const int64_t wide = GATES * hidden, unit = index * LANES;
                if (inputs) pack_gates(l->weight_ih + run * inputs * wide, inputs, hidden, unit, panel);
                pack_gates(l->weight_hh + run * hidden * wide, hidden, hidden, unit, panel + inputs * PANEL);
            }
#pragma omp for collapse(2) schedule(static)
        for (int64_t run = 0; run < l->runs; run++)
            for (int64_t index = 0; index < shares; index++) {
                const int64_t first = share(l->batch, shares, index), next = share(l->batch, shares, index + 1);
                walk_forward(l, run, first, next - first, panels + run * blocks * deep * PANEL,
                             rooms + (run * shares + index) * own);
            }
    }
    leave_room();
    return 0;
}

/* ---- backward */

/* A row of what forward kept, and of gradients. */
typedef struct {
    const float *gates, *before, *squashed, *above;
    float *dh, *dc, *found;
} kept_row;

/* A step of one row, for `count` units from `unit` on: `found`, the gradients of what the gates sum up. What goes past
   the gates replaces `dh` and `dc`. */
INLINE void step_backward(const int64_t count, const int plain, int64_t hidden, int64_t unit, const kept_row *r,
                          const masks *m) {
    const float *gates = r->gates + unit;
    const vector i = load(gates, count), f = load(gates + hidden, count), g = load(gates + 2 * hidden, count);
    const vector o = load(gates + 3 * hidden, count), c = load(r->before + unit, count);
    const vector t = load(r->squashed + unit, count), carried = load(r->dc + unit, count);
    const vector all = load(r->dh + unit, count) + load(r->above + unit, count), one = (vector){0} + 1.0f;
    vector dread = all, added = g, opened = i, dmemory, dc, dh;
    if (!plain) {
        const vector candidate = load(m->candidate + unit, count);
        dread = all * load(m->keep_h + unit, count) * load(m->readout + unit, count);
        added = g * candidate;
        opened = i * candidate;
    }
    const vector through = o * (one - t * t);
    if (plain) {
        dmemory = dread * through + carried;
        dc = dmemory * f;
        dh = (vector){0};
    } else {
        dmemory = two_products(dread, through, carried, load(m->keep_c + unit, count)) * load(m->cell + unit, count);
        dc = two_products(dmemory, f, carried, load(m->mix_c + unit, count));
        dh = all * load(m->mix_h + unit, count);
    }
    store(r->found + unit, dmemory * (added * (i * (one - i))), count);
    store(r->found + hidden + unit, dmemory * (c * (f * (one - f))), count);
    store(r->found + 2 * hidden + unit, dmemory * (opened * (one - g * g)), count);
    store(r->found + 3 * hidden + unit, dread * (t * (o * (one - o))), count);
    store(r->dc + unit, dc, count);
    store(r->dh + unit, dh, count);
}

INLINE void row_backward(const int plain, int64_t hidden, const kept_row *r, const masks *m) {
    int64_t unit = 0;
    for (; unit + LANES <= hidden; unit += LANES) step_backward(LANES, plain, hidden, unit, r, m);
    if (unit < hidden) step_backward(hidden - unit, plain, hidden, unit, r, m);
}

/* Floats that a walk needs of its own: dh and dc, and eight rows of masks. */
INLINE int64_t backward_room(const layer *l, int64_t rows) { return aligned((2 * rows + 8) * l->hidden); }

/* All steps of some rows, from the last to the first; `found` [steps, batch, 4 hidden] is that of the run. */
static void walk_backward(const layer *l, int64_t run, int64_t first, int64_t rows, const float *to_states,
                          const float *to_x, float *found, float *own) {
    const int64_t hidden = l->hidden, deep = GATES * hidden, batch = l->batch, steps = l->steps, inputs = l->inputs;
    const int64_t groups = over(rows, ROWS);
    const int plain = is_plain(l);
    const factor nothing = {0};
    float *dh = own, *dc = dh + rows * hidden, *spare = dc + rows * hidden, *of_state = spare + 7 * hidden;
    float tile[ROWS * PANEL] __attribute__((aligned(ALIGNMENT)));
    memset(dh, 0, 2 * rows * hidden * sizeof(float));
    for (int64_t walked = steps - 1; walked >= 0; walked--) {
        const int64_t step = l->reverse ? steps - 1 - walked : walked;
        const int64_t here = (run * steps + step) * batch + first;
        float *now = found + (step * batch + first) * deep;
        for (int64_t row = 0; row < rows; row++) {
            const int64_t at = (here + row) * hidden;
            float *row_dh = dh + row * hidden, *row_dc = dc + row * hidden, *row_found = now + row * deep;
            const kept_row r = {
                .gates = l->gates + GATES * at, .before = l->before + at, .squashed = l->squashed + at,
                .above = l->above + at, .dh = row_dh, .dc = row_dc, .found = row_found,
            };
            if (is_over(l, run, step, first + row)) {
                memset(row_found, 0, deep * sizeof(float));
                memset(row_dh, 0, hidden * sizeof(float));
                memset(row_dc, 0, hidden * sizeof(float));
            } else if (plain) {
                row_backward(1, hidden, &r, NULL);
            } else {
                const masks m = all_masks(l, run, step, first + row, 0, hidden, spare);
                row_backward(0, hidden, &r, &m);
            }
        }
        for (int64_t index = 0; walked && index < panels_of(hidden); index++) { /* the first step enters 0 */
            const int64_t vectors = vectors_before(hidden, index), wide = vectors_before(hidden, index + 1) - vectors;
            const int64_t unit = vectors * LANES, count = least(wide * LANES, hidden - unit);
            for (int64_t group = 0; group < groups; group++) {
                const int64_t from = share(rows, groups, group), to = share(rows, groups, group + 1);
                const factor now_found = {now + from * deep, deep, deep};
                product(to - from, wide, now_found, nothing, to_states + unit * deep, tile);
                for (int64_t row = from; row < to; row++) {
                    const float *restrict sums = tile + (row - from) * wide * LANES;
                    const float *restrict mask = spread(&l->state, run, step, first + row, unit, count, 1, of_state);
                    float *restrict into = dh + row * hidden + unit;
                    for (int64_t u = 0; u < count; u++) into[u] += sums[u] * mask[u];
                }
            }
        }
        for (int64_t index = 0; to_x && index < panels_of(inputs); index++) {
            const int64_t vectors = vectors_before(inputs, index), wide = vectors_before(inputs, index + 1) - vectors;
            const int64_t unit = vectors * LANES, count = least(wide * LANES, inputs - unit);
            for (int64_t group = 0; group < groups; group++) {
                const int64_t from = share(rows, groups, group), to = share(rows, groups, group + 1);
                const factor now_found = {now + from * deep, deep, deep};
                product(to - from, wide, now_found, nothing, to_x + unit * deep, tile);
                for (int64_t row = from; row < to; row++)
                    memcpy(l->to_x + (here + row) * inputs + unit, tile + (row - from) * wide * LANES,
                           count * sizeof(float));
            }
        }
    }
}

/* Rows `first` to `last` of all steps; those from `begin` to `end` are not of the first step, where h is 0. */
typedef struct {
    int64_t first, last, begin, end;
} chunk;

INLINE chunk chunk_at(const layer *l, int64_t index) {
    const int64_t size = l->steps * l->batch;
    const int64_t low = l->reverse ? 0 : l->batch, high = l->reverse ? size - l->batch : size;
    chunk c = {.first = index * CHUNK, .last = least((index + 1) * CHUNK, size)};
    c.begin = c.first > low ? c.first : low;
    c.end = c.last < high ? c.last : high;
    if (c.end < c.begin) c.end = c.begin;
    return c;
}

/* [depth, units] as groups of up to ROWS units, each [depth, units of the group]: what a turned product reads. */
static void pack_groups(const float *from, int64_t depth, int64_t units, float *to) {
    const int64_t groups = over(units, ROWS);
    for (int64_t group = 0; group < groups; group++) {
        const int64_t low = share(units, groups, group), count = share(units, groups, group + 1) - low;
        for (int64_t k = 0; k < depth; k++, to += count) {
            if (count == ROWS) {
                memcpy(to, from + k * units + low, ROWS * sizeof(float));
            } else {
                for (int64_t u = 0; u < count; u++) to[u] = from[k * units + low + u];
            }
        }
    }
}

/* What the weights of one run were multiplied by in the rows of a chunk. `masked` [CHUNK, hidden] is a room. */
static void pack_chunk(const layer *l, int64_t run, chunk c, float *entered, float *x, float *masked) {
    const int64_t hidden = l->hidden, size = l->steps * l->batch;
    const float *states = l->states + (run * size + c.begin + (l->reverse ? l->batch : -l->batch)) * hidden;
    if (l->state.data) {
        float *shared = masked + CHUNK * hidden;
        for (int64_t row = c.begin; row < c.end; row++) {
            const float *restrict mask = spread(&l->state, run, row / l->batch, row % l->batch, 0, hidden, 1, shared);
            const float *restrict from = states + (row - c.begin) * hidden;
            float *restrict to = masked + (row - c.begin) * hidden;
            for (int64_t u = 0; u < hidden; u++) to[u] = from[u] * mask[u];
        }
        states = masked;
    }
    pack_groups(states, c.end - c.begin, hidden, entered);
    if (l->weight_ih) pack_groups(l->x + (run * size + c.first) * l->inputs, c.last - c.first, l->inputs, x);
}

/* out [units, 4 hidden] += packed^T panel, for the columns of a panel. */
static void add_turned(const float *packed, int64_t units, int64_t depth, const float *panel, int64_t wide,
                       int64_t count, float *out, int64_t deep) {
    const int64_t groups = over(units, ROWS);
    float tile[ROWS * PANEL] __attribute__((aligned(ALIGNMENT)));
    for (int64_t group = 0; group < groups; group++) {
        const int64_t from = share(units, groups, group), to = share(units, groups, group + 1);
        turned_product(to - from, wide, packed + from * depth, depth, panel, tile);
        for (int64_t row = from; row < to; row++) {
            const float *restrict sums = tile + (row - from) * wide * LANES;
            float *restrict into = out + row * deep;
            for (int64_t u = 0; u < count; u++) into[u] += sums[u];
        }
    }
}

/* The gradients of weights and bias of one run, for the columns of panel `index`; `panel` [CHUNK, PANEL] is a room. */
static void add_weights(const layer *l, int64_t run, int64_t index, const float *entered, const float *x,
                        const float *found, float *panel) {
    const int64_t hidden = l->hidden, deep = GATES * hidden, inputs = l->weight_ih ? l->inputs : 0;
    const int64_t vectors = vectors_before(deep, index), wide = vectors_before(deep, index + 1) - vectors;
    const int64_t column = vectors * LANES, units = wide * LANES, count = least(units, deep - column);
    float *to_inner = l->to_weight_hh + run * hidden * deep + column;
    float *to_outer = l->to_weight_ih + run * inputs * deep + column, *to_bias = l->to_bias + run * deep + column;
    for (int64_t row = 0; row < hidden; row++) memset(to_inner + row * deep, 0, count * sizeof(float));
    for (int64_t row = 0; row < inputs; row++) memset(to_outer + row * deep, 0, count * sizeof(float));
    if (inputs) memset(to_bias, 0, count * sizeof(float));
    for (int64_t at = 0; at < over(l->steps * l->batch, CHUNK); at++) {
        const chunk c = chunk_at(l, at);
        const int64_t rows = c.last - c.first;
        for (int64_t row = 0; row < rows; row++) {
            const float *restrict from = found + (c.first + row) * deep + column;
            float *restrict to = panel + row * units;
            for (int64_t u = 0; u < units; u++) to[u] = u < count ? from[u] : 0;
        }
        add_turned(entered + at * CHUNK * hidden, hidden, c.end - c.begin, panel + (c.begin - c.first) * units, wide,
                   count, to_inner, deep);
        if (inputs) {
            add_turned(x + at * CHUNK * inputs, inputs, rows, panel, wide, count, to_outer, deep);
            for (int64_t row = 0; row < rows; row++)
                for (int64_t u = 0; u < count; u++) to_bias[u] += panel[row * units + u];
        }
    }
}

/* A panel of the weights of a run for `walk_backward`: those of the states come first, then those of x. */
static void pack_back(const layer *l, int64_t run, int64_t index, float *panels) {
    const int64_t hidden = l->hidden, deep = GATES * hidden, inputs = l->inputs, other = index - panels_of(hidden);
    if (other < 0) {
        float *panel = panels + vectors_before(hidden, index) * LANES * deep;
        pack_transposed(l->weight_hh + run * hidden * deep, hidden, hidden, index, panel);
    } else {
        float *panel = panels + (over(hidden, LANES) + vectors_before(inputs, other)) * LANES * deep;
        pack_transposed(l->weight_ih + run * inputs * deep, inputs, hidden, other, panel);
    }
}

/* Fills the gradients. Returns 0, or 1 where memory is short. */
int lstm_backward(const layer *l) {
    const int64_t hidden = l->hidden, deep = GATES * hidden, rows = l->steps * l->batch, chunks = over(rows, CHUNK);
    const int64_t inputs = l->weight_ih ? l->inputs : 0, wanted = l->to_x ? inputs : 0;
    const int64_t once = runs_at_once(l), shares = row_shares(l), of_gates = panels_of(deep);
    /* Floats: packed weights, what walks need, gradients of the gates, what entered, and what a thread needs. */
    const int64_t packed = (over(hidden, LANES) + over(wanted, LANES)) * LANES * deep;
    const int64_t own = backward_room(l, over(l->batch, shares)), size = inputs ? aligned(rows * deep) : 0;
    const int64_t entering = chunks * CHUNK * (hidden + inputs);
    const int64_t spare = aligned(CHUNK * PANEL + (CHUNK + 1) * hidden);
    float *panels = room(once * (packed + shares * own + size + entering) + threads_at_hand() * spare);
    if (!panels) return 1;
    float *owns = panels + once * packed, *gradients = owns + once * shares * own, *entered = gradients + once * size;
    float *spares = entered + once * entering;
#pragma omp parallel
    for (int64_t first_run = 0; first_run < l->runs; first_run += once) {
        float *found = inputs ? gradients : l->to_x + first_run * rows * deep;
        const int64_t by_run = inputs ? size : rows * deep;
#pragma omp for collapse(2) schedule(static)
        for (int64_t at = 0; at < once; at++)
            for (int64_t index = 0; index < panels_of(hidden) + panels_of(wanted); index++)
                pack_back(l, first_run + at, index, panels + at * packed);
#pragma omp for collapse(2) schedule(static)
        for (int64_t at = 0; at < once; at++)
            for (int64_t index = 0; index < shares; index++) {
                const int64_t first = share(l->batch, shares, index), next = share(l->batch, shares, index + 1);
                const float *to_states = panels + at * packed;
                const float *to_x = wanted ? to_states + over(hidden, LANES) * LANES * deep : NULL;
                walk_backward(l, first_run + at, first, next - first, to_states, to_x, found + at * by_run,
                              owns + (at * shares + index) * own);
            }
#pragma omp for collapse(2) schedule(static)
        for (int64_t at = 0; at < once; at++)
            for (int64_t index = 0; index < chunks; index++) {
                float *states = entered + at * entering + index * CHUNK * hidden;
                float *x = entered + at * entering + (chunks * hidden + index * inputs) * CHUNK;
                pack_chunk(l, first_run + at, chunk_at(l, index), states, x, spares + this_thread() * spare);
            }
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t at = 0; at < once; at++)
            for (int64_t index = 0; index < of_gates; index++) {
                const float *states = entered + at * entering, *x = states + chunks * CHUNK * hidden;
                add_weights(l, first_run + at, index, states, x, found + at * by_run, spares + this_thread() * spare);
            }
    }
    leave_room();
    return 0;
}
