/* The element-wise work on a block of classes, for CPUs: the C form of ndarray.py, which defines it.
 *
 * N embeddings, B classes of the block, D embedding size. Arrays are float32, row-major. Each function runs as an
 * operation of MXNet's engine (its first argument is the engine's own), on memory that the engine guards.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const float MASKED_LOGIT = -1e30f;

/* exp(x) to 2 units in the last place; below -87 it is 0, NaN stays NaN. Cephes' polynomial; it vectorises. */
static inline float fast_exp(float x) {
    float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(clamped * 1.44269504f);
    float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t bits; float value; } power = {((int32_t)n + 127) << 23};
    return x < -87.0f ? 0.0f : p * power.value;
}

typedef struct {
    float *logits;
    const float *inverse_norm;
    const int32_t *target_column; /* of each sample among all of the rank's columns, or -1 */
    float *max, *sum, *target_logit;
    int64_t samples, classes, first_column;
    int32_t threads;
} forward_arguments;

/* Z *= inv; the targets' Z to target_logit, MASKED_LOGIT in their place; running max and sum of exp. */
void block_forward(void *engine, void *arguments) {
    const forward_arguments a = *(forward_arguments *)arguments;
    (void)engine;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1)
    for (int64_t n = 0; n < a.samples; n++) {
        float *restrict z = a.logits + n * a.classes;
        float block_max = MASKED_LOGIT, block_sum = 0.0f;
#pragma omp simd reduction(max : block_max)
        for (int64_t j = 0; j < a.classes; j++) {
            z[j] *= a.inverse_norm[j];
            block_max = z[j] > block_max ? z[j] : block_max;
        }
        const int64_t target = a.target_column[n] - a.first_column;
        if (target >= 0 && target < a.classes) { /* a max that includes the target only moves the reference */
            a.target_logit[n] = z[target];
            z[target] = MASKED_LOGIT;
        }
        const float max = block_max > a.max[n] ? block_max : a.max[n];
#pragma omp simd reduction(+ : block_sum)
        for (int64_t j = 0; j < a.classes; j++) block_sum += fast_exp(z[j] - max);
        a.sum[n] = a.sum[n] * expf(a.max[n] - max) + block_sum;
        a.max[n] = max;
    }
}

typedef struct {
    float *logits;
    const float *inverse_norm;
    const int32_t *target_column;
    const float *max, *excess, *target_gradient, *target_logit;
    float *projection;
    int64_t samples, classes, first_column;
    int32_t threads, raw; /* raw: Z as the product left it, not yet times inv and masked */
} backward_arguments;

/* One sample's part of block_backward over columns [start, stop). */
static inline void backward_row(const backward_arguments *a, int64_t n, int64_t start, int64_t stop, int raw) {
    float *restrict z = a->logits + n * a->classes;
    float *restrict h = a->projection;
    const float *restrict inv = a->inverse_norm;
    const float max = a->max[n], excess = a->excess[n];
    const int64_t target = a->target_column[n] - a->first_column;
    const int here = target >= start && target < stop;
    if (here) z[target] = MASKED_LOGIT;
#pragma omp simd
    for (int64_t j = start; j < stop; j++) {
        const float logit = raw ? z[j] * inv[j] : z[j];
        const float p = fast_exp((logit - max) - excess);
        h[j] += p * logit;
        z[j] = p * inv[j];
    }
    if (here) {
        z[target] = a->target_gradient[n] * inv[target];
        h[target] += a->target_gradient[n] * a->target_logit[n];
    }
}

/* p = exp((Z - max) - excess); h = sum over samples of p*Z; Z = p*inv. At a target: Z = g*inv, h += g*target_logit. */
void block_backward(void *engine, void *arguments) {
    const backward_arguments a = *(backward_arguments *)arguments;
    (void)engine;
    const int64_t width = (a.classes + a.threads - 1) / a.threads;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1)
    for (int64_t start = 0; start < a.classes; start += width) {
        const int64_t stop = start + width < a.classes ? start + width : a.classes;
        memset(a.projection + start, 0, (size_t)(stop - start) * sizeof(float));
        for (int64_t n = 0; n < a.samples; n++) {
            if (a.raw)
                backward_row(&a, n, start, stop, 1);
            else
                backward_row(&a, n, start, stop, 0);
        }
    }
}

typedef struct {
    float *weight, *momentum, *inverse_norm;
    const float *gradient, *projection;
    const int64_t *rows; /* where each row of the block is stored, or NULL for one after the other */
    int64_t classes, embedding_size;
    float gradient_factor, projection_factor, decay, momentum_factor;
    int32_t threads;
} update_arguments;

/* k = projection_factor*h*inv^2 - decay; M = mu*M + gradient_factor*G + k*W; W += M; inv = 1/|W|. */
void block_update(void *engine, void *arguments) {
    const update_arguments a = *(update_arguments *)arguments;
    (void)engine;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1)
    for (int64_t j = 0; j < a.classes; j++) {
        const int64_t row = a.rows ? a.rows[j] : j;
        float *restrict w = a.weight + row * a.embedding_size;
        float *restrict m = a.momentum + row * a.embedding_size;
        const float *restrict g = a.gradient + j * a.embedding_size;
        const float inv = a.inverse_norm[row];
        const float k = a.projection_factor * a.projection[j] * inv * inv - a.decay;
        float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
        for (int64_t d = 0; d < a.embedding_size; d++) {
            m[d] = a.momentum_factor * m[d] + a.gradient_factor * g[d] + k * w[d];
            w[d] += m[d];
            squares += w[d] * w[d];
        }
        a.inverse_norm[row] = squares > 0.0f ? 1.0f / sqrtf(squares) : 0.0f;
    }
}

/* A copy of a function's arguments that lives until the engine has run it and called free(). */
void *copy_arguments(const void *arguments, int64_t size) {
    void *copy = malloc((size_t)size);
    return copy ? memcpy(copy, arguments, (size_t)size) : NULL;
}
