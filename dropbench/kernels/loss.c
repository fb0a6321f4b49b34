/* Cross-entropy of class numbers, and its gradient, in one pass over the logits. */

#include <math.h>
#include <stdint.h>

/* The compiler makes each loop in several ways, for vectors, for ends, for pointers that may overlap: a product that is
   fused with a sum in one and not in another would make the last bit a matter of addresses. */
#pragma GCC optimize("fp-contract=off")
#pragma STDC FP_CONTRACT OFF

enum { NOTHING_ASKED = -100 };

/* Loss of one answer; in `slope` its gradient. `spread`: share of the target that is spread over all classes. */
static double answer(const float *z, int64_t classes, int64_t target, float spread, float *slope) {
    float top = z[0], sum = 0;
    for (int64_t k = 1; k < classes; k++) top = z[k] > top ? z[k] : top;
    for (int64_t k = 0; k < classes; k++) sum += slope[k] = expf(z[k] - top);
    const double log_sum = (double)top + log((double)sum);
    double loss = (1 - spread) * (log_sum - z[target]);
    const float by = 1 / sum, each = spread / classes;
    for (int64_t k = 0; k < classes; k++) {
        slope[k] = slope[k] * by - each;
        loss += each * (log_sum - z[k]);
    }
    slope[target] -= 1 - spread;
    return loss;
}

/* logits and slope [runs, copies, answers, classes], targets [runs, answers], spread [runs] or null, loss [runs, copies].
   Returns whether every target is a class, or asks nothing; otherwise it has done nothing. */
int cross_entropy(int64_t runs, int64_t copies, int64_t answers, int64_t classes, const float *logits,
                   const int64_t *targets, const float *spread, float *loss, float *slope) {
    for (int64_t i = 0; i < runs * answers; i++)
        if ((targets[i] < 0 || targets[i] >= classes) && targets[i] != NOTHING_ASKED) return 0;
#pragma omp parallel for schedule(static) if (runs * copies > 1 && runs * copies * answers * classes > 16384)
    for (int64_t pair = 0; pair < runs * copies; pair++) {
        const int64_t run = pair / copies, *target = targets + run * answers;
        const float share = spread ? spread[run] : 0;
        float *to = slope + pair * answers * classes;
        int64_t asked = 0;
        double total = 0;
        for (int64_t i = 0; i < answers; i++) asked += target[i] != NOTHING_ASKED;
        for (int64_t i = 0; i < answers; i++) {
            float *row = to + i * classes;
            if (target[i] == NOTHING_ASKED) {
                for (int64_t k = 0; k < classes; k++) row[k] = 0;
            } else {
                total += answer(logits + (pair * answers + i) * classes, classes, target[i], share, row);
                for (int64_t k = 0; k < classes; k++) row[k] /= asked;
            }
        }
        loss[pair] = (float)(total / asked);
    }
    return 1;
}
