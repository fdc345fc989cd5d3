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

/* What becomes of a negative's logit z, or a threshold of NULL for z itself. */
typedef struct {
    const float *threshold; /* of each sample: a logit above it is hard */
    float linear, quadratic, constant, filter;
} negative_rule;

/* (linear + quadratic*z)*z + constant where z is hard, z elsewhere; left out above the filter. */
static inline float negative_logit(const negative_rule *rule, float threshold, float z) {
    const float hard = (rule->linear + rule->quadratic * z) * z + rule->constant;
    const float kept = z > threshold ? hard : z;
    return z > rule->filter ? MASKED_LOGIT : kept;
}

/* d negative_logit / dz where it is not left out. */
static inline float negative_slope(const negative_rule *rule, float threshold, float z) {
    return z > threshold ? rule->linear + 2.0f * rule->quadratic * z : 1.0f;
}

typedef struct {
    float *logits;
    const float *inverse_norm;
    const int32_t *target_column; /* of each sample among all of the rank's columns, or -1 */
    float *max, *sum, *target_logit;
    negative_rule negatives;
    int64_t samples, classes, first_column;
    int32_t threads;
} forward_arguments;

/* Z *= inv over columns [start, stop); their largest. */
static inline float scale_columns(float *restrict z, const float *restrict inv, int64_t start, int64_t stop) {
    float largest = MASKED_LOGIT;
#pragma omp simd reduction(max : largest)
    for (int64_t j = start; j < stop; j++) {
        z[j] *= inv[j];
        largest = z[j] > largest ? z[j] : largest;
    }
    return largest;
}

/* The largest of a sample's logits as the rule leaves them. */
static inline float negatives_max(const float *restrict z, const negative_rule *rule, float threshold, int64_t classes) {
    float largest = MASKED_LOGIT;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < classes; j++) {
        const float logit = negative_logit(rule, threshold, z[j]);
        largest = logit > largest ? logit : largest;
    }
    return largest;
}

/* The sum of their exponentials. */
static inline float negatives_sum(const float *restrict z, const negative_rule *rule, float threshold, float max,
                                  int64_t classes) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < classes; j++) sum += fast_exp(negative_logit(rule, threshold, z[j]) - max);
    return sum;
}

/* Z *= inv; the targets' Z to target_logit, MASKED_LOGIT in their place; running max and sum of exp. Z stays before
 * the rule of the negatives, which max and sum are taken after: the backward pass needs both. */
void block_forward(void *engine, void *arguments) {
    const forward_arguments a = *(forward_arguments *)arguments;
    (void)engine;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1)
    for (int64_t n = 0; n < a.samples; n++) {
        float *restrict z = a.logits + n * a.classes;
        float block_max, block_sum = 0.0f;
        const int64_t target = a.target_column[n] - a.first_column;
        if (target >= 0 && target < a.classes) {
            /* Not in the max: the margin may take the target below logits that exp(Z - target) would have lost. */
            const float before = scale_columns(z, a.inverse_norm, 0, target);
            const float after = scale_columns(z, a.inverse_norm, target + 1, a.classes);
            block_max = before > after ? before : after;
            a.target_logit[n] = z[target] * a.inverse_norm[target];
            z[target] = MASKED_LOGIT;
        } else {
            block_max = scale_columns(z, a.inverse_norm, 0, a.classes);
        }
        const negative_rule *rule = &a.negatives;
        const float threshold = rule->threshold ? rule->threshold[n] : 0.0f;
        if (rule->threshold) block_max = negatives_max(z, rule, threshold, a.classes);
        const float max = block_max > a.max[n] ? block_max : a.max[n];
        if (rule->threshold) {
            block_sum = negatives_sum(z, rule, threshold, max, a.classes);
        } else {
#pragma omp simd reduction(+ : block_sum)
            for (int64_t j = 0; j < a.classes; j++) block_sum += fast_exp(z[j] - max);
        }
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
    negative_rule negatives;
    int64_t samples, classes, first_column;
    int32_t threads, raw; /* raw: Z as the product left it, not yet times inv and masked */
} backward_arguments;

/* One sample's part of block_backward over columns [start, stop). */
static inline void backward_row(const backward_arguments *a, int64_t n, int64_t start, int64_t stop, int raw,
                                int has_rule) {
    float *restrict z = a->logits + n * a->classes;
    float *restrict h = a->projection;
    const float *restrict inv = a->inverse_norm;
    const float max = a->max[n], excess = a->excess[n];
    const int64_t target = a->target_column[n] - a->first_column;
    const int here = target >= start && target < stop;
    const negative_rule rule = a->negatives;
    const float threshold = has_rule ? rule.threshold[n] : 0.0f;
    if (here) z[target] = MASKED_LOGIT;
#pragma omp simd
    for (int64_t j = start; j < stop; j++) {
        const float logit = raw ? z[j] * inv[j] : z[j];
        const float after = has_rule ? negative_logit(&rule, threshold, logit) : logit;
        float p = fast_exp((after - max) - excess);
        if (has_rule) p *= negative_slope(&rule, threshold, logit);
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
            /* Constants, so that the compiler makes a loop of each kind. */
            if (a.negatives.threshold)
                backward_row(&a, n, start, stop, a.raw, 1);
            else if (a.raw)
                backward_row(&a, n, start, stop, 1, 0);
            else
                backward_row(&a, n, start, stop, 0, 0);
        }
    }
}

/* How rows are stored. */
enum { FLOAT32 = 0, FLOAT16 = 2, INT8 = 5 };

/* 32 random bits for element d of the row of that key: a counter, hashed (C. Wellons' lowbias32). */
static inline uint32_t random_bits(uint32_t key, uint32_t d) {
    uint32_t x = key + d * 0x9E3779B9u;
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

/* x, |x| <= 1024, to the integer above or below it, each as likely as it is near: 13 random bits, which a float holds
 * beside the 10 of x, so that an integer stays what it is. */
static inline float round_stochastically(float x, uint32_t random) {
    return floorf(x + (float)(random >> 19) * 0x1p-13f);
}

/* float16 by integer arithmetic, which every compiler turns into vectors. The values are finite. */
static inline float from_half(uint16_t half) {
    union { int32_t bits; float value; } magnitude = {((half & 0x7FFF) << 13) + (112 << 23)}, offset = {113 << 23};
    if ((half & 0x7C00) == 0) {
        magnitude.bits += 1 << 23;
        magnitude.value -= offset.value;
    }
    return half & 0x8000 ? -magnitude.value : magnitude.value;
}

/* The bits of a float that a float16 can hold. */
static inline uint16_t to_half(float x) {
    const union { float value; int32_t bits; } magnitude = {fabsf(x)};
    const int32_t normal = (magnitude.bits - (112 << 23)) >> 13;
    const int32_t small = (int32_t)(magnitude.value * 0x1p24f);
    return (uint16_t)((magnitude.value < 0x1p-14f ? small : normal) | (x < 0.0f ? 0x8000 : 0));
}

static inline float within_half(float x) { return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x; }

/* The float16 above or below x, each as likely as it is near, as a float. */
static inline float half_stochastically(float x, uint32_t random) {
    union { float value; int32_t bits; } normal = {x};
    normal.bits = (normal.bits + (int32_t)(random >> 19)) & ~0x1FFF; /* float16 keeps 10 of the 23 bits */
    const float small = round_stochastically(x * 0x1p24f, random) * 0x1p-24f;
    return within_half(fabsf(x) < 0x1p-14f ? small : normal.value);
}

/* The float16 nearest to x, to the even one of two, as a float. */
static inline float half_nearest(float x) {
    union { float value; int32_t bits; } normal = {x};
    normal.bits = (normal.bits + 0xFFF + (normal.bits >> 13 & 1)) & ~0x1FFF;
    return within_half(fabsf(x) < 0x1p-14f ? rintf(x * 0x1p24f) * 0x1p-24f : normal.value);
}

/* Rows lie at random places: the memory of those that follow so many later is asked for while one is worked on. */
enum { ROWS_AHEAD = 2 };

/* The rows of a matrix of `bytes` a row, on their way to the cache; to be changed there, or read alone. */
static inline void fetch_row(const void *matrix, int64_t row, int64_t bytes, int change) {
    const char *start = (const char *)matrix + row * bytes;
    for (int64_t offset = 0; offset < bytes; offset += 64)
        if (change) __builtin_prefetch(start + offset, 1);
        else __builtin_prefetch(start + offset, 0);
}

/* A row of 4 factors brings one up to date that has missed updates: W += f0*W + f1*M, M = f2*W + f3*M. */
enum { FACTORS = 4 };
static const float NONE_MISSED[FACTORS] = {0.0f, 0.0f, 0.0f, 1.0f};

static inline int none_missed(const float *factors) {
    return factors[0] == 0.0f && factors[1] == 0.0f && factors[2] == 0.0f && factors[3] == 1.0f;
}

static inline int64_t bytes_of(int32_t type) { return type == FLOAT32 ? 4 : type == FLOAT16 ? 2 : 1; }

typedef struct {
    void *weight, *momentum;    /* as stored: all rows, of the types below */
    float *momentum_scale;      /* of each stored row, for INT8 */
    float *inverse_norm;        /* of each stored row */
    const float *current;       /* the block's rows as they are now, one after the other */
    const float *gradient, *projection;
    const float *factors;       /* of each row of the block, or NULL where none has missed an update */
    const int64_t *rows;        /* where each row of the block is stored, or NULL for one after the other */
    int64_t classes, embedding_size;
    float gradient_factor, projection_factor, decay, momentum_factor;
    int32_t weight_type, momentum_type, threads;
    uint32_t random_key;
} update_arguments;

/* m = mu*M[row] + gradient_factor*g + k*w, by the type that M is stored in. */
static inline void new_momentum(const update_arguments *a, int64_t row, float mu, float k, const float *restrict w,
                                const float *restrict g, float *restrict m) {
    const int64_t size = a->embedding_size;
    const float factor = a->gradient_factor;
    if (a->momentum_type == FLOAT32) {
        const float *old = (const float *)a->momentum + row * size;
#pragma omp simd
        for (int64_t d = 0; d < size; d++) m[d] = mu * old[d] + factor * g[d] + k * w[d];
    } else if (a->momentum_type == FLOAT16) {
        const uint16_t *old = (const uint16_t *)a->momentum + row * size;
#pragma omp simd
        for (int64_t d = 0; d < size; d++) m[d] = mu * from_half(old[d]) + factor * g[d] + k * w[d];
    } else {
        const int8_t *old = (const int8_t *)a->momentum + row * size;
        const float scale = mu * a->momentum_scale[row];
#pragma omp simd
        for (int64_t d = 0; d < size; d++) m[d] = scale * (float)old[d] + factor * g[d] + k * w[d];
    }
}

/* m += factor*W[row], by the type that W is stored in. */
static inline void add_weight(const update_arguments *a, int64_t row, float factor, float *restrict m) {
    const int64_t size = a->embedding_size;
    if (a->weight_type == FLOAT32) {
        const float *restrict stored = (const float *)a->weight + row * size;
#pragma omp simd
        for (int64_t d = 0; d < size; d++) m[d] += factor * stored[d];
    } else {
        const uint16_t *restrict stored = (const uint16_t *)a->weight + row * size;
#pragma omp simd
        for (int64_t d = 0; d < size; d++) m[d] += factor * from_half(stored[d]);
    }
}

static inline float sum_of_squares(const float *restrict w, int64_t size) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < size; d++) squares += w[d] * w[d];
    return squares;
}

static inline float inverse_norm_of(float squares) { return squares > 0.0f ? 1.0f / sqrtf(squares) : 0.0f; }

static inline void store_momentum(const update_arguments *a, int64_t row, uint32_t key, const float *restrict m) {
    const int64_t size = a->embedding_size;
    if (a->momentum_type == FLOAT16) {
        uint16_t *stored = (uint16_t *)a->momentum + row * size;
#pragma omp simd
        for (int64_t d = 0; d < size; d++)
            stored[d] = to_half(half_stochastically(m[d], random_bits(key, (uint32_t)d)));
    } else if (a->momentum_type == INT8) {
        int8_t *stored = (int8_t *)a->momentum + row * size;
        float largest = 0.0f;
#pragma omp simd reduction(max : largest)
        for (int64_t d = 0; d < size; d++) largest = fabsf(m[d]) > largest ? fabsf(m[d]) : largest;
        const float per_unit = largest > 0.0f ? 127.0f / largest : 0.0f;
#pragma omp simd
        for (int64_t d = 0; d < size; d++) {
            const float q = round_stochastically(m[d] * per_unit, random_bits(key, (uint32_t)d));
            stored[d] = (int8_t)(q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q);
        }
        a->momentum_scale[row] = largest / 127.0f;
    }
}

/* k = projection_factor*h*inv^2 - decay; M = mu*M + gradient_factor*G + k*W; W = W + M; inv = 1/|W|.
 * Of a row that has missed updates, M is f2*W + f3*M of what is stored, and inv that of the row as it is now. */
void block_update(void *engine, void *arguments) {
    const update_arguments a = *(update_arguments *)arguments;
    (void)engine;
    const int64_t size = a.embedding_size;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
    {
        float scratch[size];
#pragma omp for
        for (int64_t j = 0; j < a.classes; j++) {
            const int64_t row = a.rows ? a.rows[j] : j;
            if (a.rows && j + ROWS_AHEAD < a.classes) {
                fetch_row(a.weight, a.rows[j + ROWS_AHEAD], size * bytes_of(a.weight_type), 1);
                fetch_row(a.momentum, a.rows[j + ROWS_AHEAD], size * bytes_of(a.momentum_type), 1);
            }
            const float *w = a.current + j * size;
            const float *factors = a.factors ? a.factors + j * FACTORS : NONE_MISSED;
            const int missed = !none_missed(factors);
            const float inv = missed ? inverse_norm_of(sum_of_squares(w, size)) : a.inverse_norm[row];
            const float k = a.projection_factor * a.projection[j] * inv * inv - a.decay;
            float *m = a.momentum_type == FLOAT32 ? (float *)a.momentum + row * size : scratch;
            const uint32_t key = random_bits(a.random_key, (uint32_t)row);
            float squares = 0.0f;
            new_momentum(&a, row, a.momentum_factor * factors[3], k, w, a.gradient + j * size, m);
            if (missed) add_weight(&a, row, a.momentum_factor * factors[2], m);
            if (a.weight_type == FLOAT32) {
                float *stored = (float *)a.weight + row * size;
#pragma omp simd reduction(+ : squares)
                for (int64_t d = 0; d < size; d++) {
                    const float value = w[d] + m[d];
                    stored[d] = value;
                    squares += value * value;
                }
            } else {
                uint16_t *stored = (uint16_t *)a.weight + row * size;
#pragma omp simd reduction(+ : squares)
                for (int64_t d = 0; d < size; d++) {
                    const float value = half_stochastically(w[d] + m[d], random_bits(~key, (uint32_t)d));
                    stored[d] = to_half(value);
                    squares += value * value;
                }
            }
            store_momentum(&a, row, key, m);
            a.inverse_norm[row] = inverse_norm_of(squares);
        }
    }
}

typedef struct {
    const void *weight, *momentum;
    const float *momentum_scale, *inverse_norm;
    const float *factors; /* of each row of the block, or NULL where none has missed an update */
    const int64_t *rows;
    float *out_weight, *out_inverse_norm;
    int64_t classes, embedding_size;
    int32_t weight_type, momentum_type, threads;
} gather_arguments;

/* w += f0*w + f1*M[row], by the type that M is stored in. */
static inline void make_up_for_missed(const gather_arguments *a, int64_t row, const float *factors, float *restrict w) {
    const int64_t size = a->embedding_size;
    const float f0 = factors[0], f1 = factors[1];
    if (a->momentum_type == FLOAT32) {
        const float *restrict m = (const float *)a->momentum + row * size;
#pragma omp simd
        for (int64_t d = 0; d < size; d++) w[d] += f0 * w[d] + f1 * m[d];
    } else if (a->momentum_type == FLOAT16) {
        const uint16_t *restrict m = (const uint16_t *)a->momentum + row * size;
#pragma omp simd
        for (int64_t d = 0; d < size; d++) w[d] += f0 * w[d] + f1 * from_half(m[d]);
    } else {
        const int8_t *restrict m = (const int8_t *)a->momentum + row * size;
        const float scale = f1 * a->momentum_scale[row];
#pragma omp simd
        for (int64_t d = 0; d < size; d++) w[d] += f0 * w[d] + scale * (float)m[d];
    }
}

/* out = W[rows] as floats and up to date, and their inverse norms. */
void block_gather(void *engine, void *arguments) {
    const gather_arguments a = *(gather_arguments *)arguments;
    (void)engine;
    const int64_t size = a.embedding_size;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1)
    for (int64_t j = 0; j < a.classes; j++) {
        const int64_t row = a.rows[j];
        float *restrict out = a.out_weight + j * size;
        if (j + ROWS_AHEAD < a.classes)
            fetch_row(a.weight, a.rows[j + ROWS_AHEAD], size * bytes_of(a.weight_type), 0);
        if (a.factors && j + ROWS_AHEAD < a.classes && !none_missed(a.factors + (j + ROWS_AHEAD) * FACTORS))
            fetch_row(a.momentum, a.rows[j + ROWS_AHEAD], size * bytes_of(a.momentum_type), 0);
        if (a.weight_type == FLOAT32) {
            memcpy(out, (const float *)a.weight + row * size, (size_t)size * sizeof(float));
        } else {
            const uint16_t *restrict stored = (const uint16_t *)a.weight + row * size;
#pragma omp simd
            for (int64_t d = 0; d < size; d++) out[d] = from_half(stored[d]);
        }
        if (a.factors && !none_missed(a.factors + j * FACTORS)) {
            make_up_for_missed(&a, row, a.factors + j * FACTORS, out);
            a.out_inverse_norm[j] = inverse_norm_of(sum_of_squares(out, size));
        } else {
            a.out_inverse_norm[j] = a.inverse_norm[row];
        }
    }
}

typedef struct {
    void *weight;
    float *inverse_norm;
    const int64_t *rows;
    int64_t classes, embedding_size, first_class;
    uint64_t key;
    float step;
    int32_t weight_type, threads;
} initialize_arguments;

static inline uint64_t split_mix(uint64_t x) {
    x = x * 0x9E3779B97F4A7C15u + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* The initial value of rows, as initialization.py defines it, bit for bit, and their inverse norms. */
void block_initialize(void *engine, void *arguments) {
    const initialize_arguments a = *(initialize_arguments *)arguments;
    (void)engine;
    const int64_t size = a.embedding_size;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1)
    for (int64_t j = 0; j < a.classes; j++) {
        const int64_t row = a.rows[j];
        const uint64_t counter = a.key + (uint64_t)(a.first_class + row) * (uint64_t)size;
        float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
        for (int64_t d = 0; d < size; d++) {
            const uint64_t bits = split_mix(counter + (uint64_t)d);
            const int32_t sum = (int32_t)((bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48));
            float value = (float)(sum - 2 * 65535) * a.step;
            if (a.weight_type == FLOAT32) {
                ((float *)a.weight)[row * size + d] = value;
            } else {
                value = half_nearest(value);
                ((uint16_t *)a.weight)[row * size + d] = to_half(value);
            }
            squares += value * value;
        }
        a.inverse_norm[row] = inverse_norm_of(squares);
    }
}

/* A copy of a function's arguments that lives until the engine has run it and called free(). */
void *copy_arguments(const void *arguments, int64_t size) {
    void *copy = malloc((size_t)size);
    return copy ? memcpy(copy, arguments, (size_t)size) : NULL;
}
