/* Bits of masks: Philox4x64-10 (Salmon et al., SC 2011), the very words that NumPy's generator gives. */

#include <stdint.h>

typedef unsigned __int128 wide;

/* PIECE: elements of a mask that a thread makes at once. */
enum { ROUNDS = 10, BLOCK = 4, PIECE = 16384 };

/* Two blocks at once, so that the processor has products to overlap; for more it lacks registers. */
#define LANES 2

static inline void blocks(uint64_t first, const uint64_t counter[3], const uint64_t key[2], uint64_t *out) {
    uint64_t a[LANES], b[LANES], c[LANES], d[LANES], k0 = key[0], k1 = key[1];
    for (int lane = 0; lane < LANES; lane++) {
        a[lane] = first + lane;
        b[lane] = counter[0];
        c[lane] = counter[1];
        d[lane] = counter[2];
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int lane = 0; lane < LANES; lane++) {
            wide left = (wide)a[lane] * 0xD2E7470EE14C6C93ull, right = (wide)c[lane] * 0xCA5A826395121157ull;
            uint64_t next_a = (uint64_t)(right >> 64) ^ b[lane] ^ k0;
            uint64_t next_c = (uint64_t)(left >> 64) ^ d[lane] ^ k1;
            b[lane] = (uint64_t)right;
            d[lane] = (uint64_t)left;
            a[lane] = next_a;
            c[lane] = next_c;
        }
        k0 += 0x9E3779B97F4A7C15ull;
        k1 += 0xBB67AE8584CAA73Bull;
    }
    for (int lane = 0; lane < LANES; lane++) {
        out[BLOCK * lane] = a[lane];
        out[BLOCK * lane + 1] = b[lane];
        out[BLOCK * lane + 2] = c[lane];
        out[BLOCK * lane + 3] = d[lane];
    }
}

/* Words [runs, 4 blocks] under the keys (seed of the run, purpose) and the counters (block + 1, 0, step, site). */
void words(int64_t runs, int64_t count, const uint64_t *seeds, uint64_t purpose, uint64_t step, uint64_t site,
           uint64_t *out) {
    const uint64_t counter[3] = {0, step, site};
    const int64_t groups = (count + LANES - 1) / LANES;
#pragma omp parallel for collapse(2) schedule(static) if (runs * count > 1024)
    for (int64_t run = 0; run < runs; run++)
        for (int64_t group = 0; group < groups; group++) {
            const uint64_t key[2] = {seeds[run], purpose};
            uint64_t *to = out + run * count * BLOCK + group * LANES * BLOCK;
            if ((group + 1) * LANES <= count) {
                blocks(1 + group * LANES, counter, key, to);
            } else {
                uint64_t last[LANES * BLOCK];
                blocks(1 + group * LANES, counter, key, last);
                for (int64_t word = 0; word < (count - group * LANES) * BLOCK; word++) to[word] = last[word];
            }
        }
}

/* Masks of Bernoulli dropout: scale[run] where a word is not below threshold[run], else 0. */
void keep(int64_t runs, int64_t count, const int16_t *bits, const int16_t *threshold, const float *scale, float *out) {
    const int64_t pieces = (count + PIECE - 1) / PIECE;
#pragma omp parallel for collapse(2) schedule(static) if (runs * count > 2 * PIECE)
    for (int64_t run = 0; run < runs; run++)
        for (int64_t piece = 0; piece < pieces; piece++) {
            const int64_t first = run * count + piece * PIECE, left = count - piece * PIECE;
            const int16_t *from = bits + first, least = threshold[run];
            float *to = out + first, kept = scale[run];
            for (int64_t at = 0; at < (left < PIECE ? left : PIECE); at++) to[at] = from[at] >= least ? kept : 0.0f;
        }
}
