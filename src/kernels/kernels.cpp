// Operations between matrix products, each in one pass over its rows, where torch would make several.
//
// All sums are float. Matrices lie row by row without gaps. Rows are shared among OpenMP's threads, always in
// the same way, so that the same call gives the same bits. `..._back` has the gradients.

#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <omp.h>
#include <vector>

namespace {

// Below -88 `sigmoid` goes down no further.
inline float silu_of(float x) { return x < -88.0f ? 0.0f : x * sigmoid(x); }

inline float silu_slope(float x) {
    float share = sigmoid(x);
    return x < -88.0f ? 0.0f : share * (1.0f + x * (1.0f - share));
}

// ln x to 1e-7, for x that are no denormals: its exponent, and a polynomial (Cephes' logf) for what is left.
inline float logarithm(float x) {
    auto bits = bits_of<std::int32_t>(x) - 0x3f3504f3;  // of sqrt(1/2)
    float exponent = static_cast<float>(bits >> 23);
    float m = bits_of<float>((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * m * m - 2.12194440e-4f * exponent - 0.5f * m * m;
    float y = m + p + 0.693359375f * exponent;
    return x != x ? x : y;
}

// Probabilities (classes, groups) from logits, a share `mix` of the uniform distribution among them; `scratch`
// has room for two numbers of each group.
inline void mixed_softmax(const F* logits, float* probs, float mix, i64 classes, i64 groups, float* scratch) {
    float *largest = scratch, *sum = scratch + groups, share = mix / classes;
#pragma omp simd
    for (i64 g = 0; g < groups; ++g) largest[g] = wide(logits[g]), sum[g] = 0;
    for (i64 c = 1; c < classes; ++c)
#pragma omp simd
        for (i64 g = 0; g < groups; ++g) {
            float x = wide(logits[c * groups + g]);
            largest[g] = x > largest[g] ? x : largest[g];
        }
    for (i64 c = 0; c < classes; ++c)
#pragma omp simd
        for (i64 g = 0; g < groups; ++g)
            sum[g] += probs[c * groups + g] = exponential(wide(logits[c * groups + g]) - largest[g]);
#pragma omp simd
    for (i64 g = 0; g < groups; ++g) sum[g] = (1.0f - mix) / sum[g];
    for (i64 c = 0; c < classes; ++c)
#pragma omp simd
        for (i64 g = 0; g < groups; ++g) probs[c * groups + g] = share + sum[g] * probs[c * groups + g];
}

// The gradient of those logits from `of_probs` (classes, groups).
inline void mixed_softmax_back(const float* of_probs, const float* probs, F* of_logits, float mix, i64 classes,
                               i64 groups, float* mean) {
    float share = mix / classes, kept = 1.0f - mix;
    for (i64 g = 0; g < groups; ++g) mean[g] = 0;
    for (i64 c = 0; c < classes; ++c)
#pragma omp simd
        for (i64 g = 0; g < groups; ++g)
            mean[g] += (probs[c * groups + g] - share) * of_probs[c * groups + g];
    for (i64 g = 0; g < groups; ++g) mean[g] = kept > 0 ? mean[g] / kept : 0;
    for (i64 c = 0; c < classes; ++c)
#pragma omp simd
        for (i64 g = 0; g < groups; ++g) {
            i64 i = c * groups + g;
            put(of_logits[i], (probs[i] - share) * (of_probs[i] - mean[g]));
        }
}

constexpr i64 COLUMNS = 64;  // that are summed up in registers

// Adds `number` columns of the rows of a table that the classes of all groups pick; FULL: it is COLUMNS.
template <bool FULL>
inline void add_columns(const std::int16_t* classes, const F* table, F* out, i64 groups, i64 width,
                        i64 number) {
    const i64 columns = FULL ? COLUMNS : number;
    float sum[COLUMNS];
#pragma omp simd
    for (i64 i = 0; i < columns; ++i) sum[i] = wide(out[i]);
    for (i64 g = 0; g < groups; ++g) {
        if (classes[g] < 0) continue;
        const F* entry = table + (classes[g] * groups + g) * width;
#pragma omp simd
        for (i64 i = 0; i < columns; ++i) sum[i] += wide(entry[i]);
    }
#pragma omp simd
    for (i64 i = 0; i < columns; ++i) put(out[i], sum[i]);
}

constexpr float TINY = 1.17549435e-38f;  // probabilities of zero count as this in a logarithm
constexpr float EPSILON = 1e-5f;  // torch's, of a layer norm

// What a layer norm of x (width) takes off, and what it multiplies by.
template <typename T>
inline void norm_statistics(const T* x, i64 width, float& mean, float& scale) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < width; ++i) sum += wide(x[i]);
    const float m = sum / width;
#pragma omp simd reduction(+ : squares)
    for (i64 i = 0; i < width; ++i) squares += (wide(x[i]) - m) * (wide(x[i]) - m);
    mean = m;
    scale = 1.0f / std::sqrt(squares / width + EPSILON);
}

}  // namespace

extern "C" {

// total = x + y (rows, width), and the layer norm of it without gain and bias, its mean and scale (rows). Of x
// there are `repeat` rows, which come again and again.
void add_norm(const float* x, i64 repeat, const F* y, float* total, F* normed, float* mean, float* scale,
              i64 rows, i64 width) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; ++row) {
        const float* a = x + row % repeat * width;
        const F* b = y + row * width;
        float* t = total + row * width;
        F* out = normed + row * width;
#pragma omp simd
        for (i64 i = 0; i < width; ++i) t[i] = a[i] + wide(b[i]);
        norm_statistics(t, width, mean[row], scale[row]);
        const float m = mean[row], s = scale[row];
#pragma omp simd
        for (i64 i = 0; i < width; ++i) put(out[i], (t[i] - m) * s);
    }
}

// Adds to g, the gradient of the total by others, that by its norm; `rounded` gets the sum, too.
void add_norm_back(const F* of_normed, const float* total, const float* mean, const float* scale, float* g,
                   F* rounded, i64 rows, i64 width) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; ++row) {
        const F* d = of_normed + row * width;
        const float* x = total + row * width;
        float* sum = g + row * width;
        F* out = rounded + row * width;
        float m = mean[row], s = scale[row], all = 0, along = 0;
#pragma omp simd reduction(+ : all, along)
        for (i64 i = 0; i < width; ++i) {
            all += wide(d[i]);
            along += wide(d[i]) * (x[i] - m);
        }
        float shift = all / width, slope = along * s * s / width;
#pragma omp simd
        for (i64 i = 0; i < width; ++i) {
            sum[i] += s * (wide(d[i]) - shift - (x[i] - m) * slope);
            put(out[i], sum[i]);
        }
    }
}

// SiLU of the layer norm of x (rows, width) with gain and bias (width); keeps the norm's mean and scale
// (rows). `out` has the mean of each `over` rows that follow each other.
void norm_silu(const F* x, const float* gain, const float* bias, F* out, float* mean, float* scale, i64 over,
               i64 rows, i64 width) {
    const float share = 1.0f / over;
#pragma omp parallel
    {
        std::vector<float> sums(over > 1 ? width : 0);
#pragma omp for schedule(static)
        for (i64 first = 0; first < rows; first += over) {
            F* o = out + first / over * width;
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (i64 row = first; row < first + over; ++row) {
                const F* a = x + row * width;
                norm_statistics(a, width, mean[row], scale[row]);
                const float m = mean[row], s = scale[row];
                auto activated = [=](i64 i) { return silu_of((wide(a[i]) - m) * s * gain[i] + bias[i]); };
                if (over == 1) {
#pragma omp simd
                    for (i64 i = 0; i < width; ++i) put(o[i], activated(i));
                } else {
                    float* sum = sums.data();
#pragma omp simd
                    for (i64 i = 0; i < width; ++i) sum[i] += activated(i);
                }
            }
            for (i64 i = 0; i < static_cast<i64>(sums.size()); ++i) put(o[i], share * sums[i]);
        }
    }
}

// The gradient of x. Those of gain and bias are added to `parts` (2, shares, width): each of `shares` equal
// shares of the rows has its own sum, so that it doesn't depend on threads.
void norm_silu_back(const F* of_out, const F* x, const float* gain, const float* bias, const float* mean,
                    const float* scale, F* of_x, float* parts, i64 over, i64 shares, i64 rows, i64 width) {
    const float weight = 1.0f / over;
#pragma omp parallel for schedule(static)
    for (i64 share = 0; share < shares; ++share) {
        std::vector<float> of_normed(width);
        float *d = of_normed.data(), *of_gain = parts + share * width, *of_bias = of_gain + shares * width;
        for (i64 row = rows * share / shares; row < rows * (share + 1) / shares; ++row) {
            const F *g = of_out + row / over * width, *a = x + row * width;
            F* out = of_x + row * width;
            float m = mean[row], s = scale[row], all = 0, along = 0;
#pragma omp simd reduction(+ : all, along)
            for (i64 i = 0; i < width; ++i) {
                float n = (wide(a[i]) - m) * s;
                float of_v = weight * wide(g[i]) * silu_slope(n * gain[i] + bias[i]);
                of_gain[i] += of_v * n;
                of_bias[i] += of_v;
                d[i] = of_v * gain[i];
                all += d[i];
                along += d[i] * n;
            }
            float shift = all / width, slope = along * s / width;
#pragma omp simd
            for (i64 i = 0; i < width; ++i) put(out[i], s * (d[i] - shift - (wide(a[i]) - m) * slope));
        }
    }
}

void silu(const F* x, F* out, i64 size) {
#pragma omp parallel for simd schedule(static)
    for (i64 i = 0; i < size; ++i) put(out[i], silu_of(wide(x[i])));
}

void silu_back(const F* of_out, const F* x, F* of_x, i64 size) {
#pragma omp parallel for simd schedule(static)
    for (i64 i = 0; i < size; ++i) put(of_x[i], wide(of_out[i]) * silu_slope(wide(x[i])));
}

// Probabilities (rows, classes, groups) from logits, a share `mix` of the uniform distribution among them, and
// a one-hot draw from them by `uniforms` (rows, groups), with `living` (rows) in the place of one. The classes
// drawn are in `picked` (rows, groups), -1 where nobody lives.
void draw(const F* logits, const float* uniforms, const float* living, float* probs, F* drawn,
          std::int16_t* picked, float mix, i64 rows, i64 classes, i64 groups) {
#pragma omp parallel
    {
        std::vector<float> scratch(3 * groups);
        float *sum = scratch.data(), *before = sum + groups, *number = before + groups;
#pragma omp for schedule(static)
        for (i64 row = 0; row < rows; ++row) {
            const float* u = uniforms + row * groups;
            float *p = probs + row * classes * groups, alive = living[row];
            F* z = drawn + row * classes * groups;
            std::int16_t* of_row = picked + row * groups;
            mixed_softmax(logits + row * classes * groups, p, mix, classes, groups, scratch.data());
            for (i64 g = 0; g < groups; ++g) sum[g] = 0, before[g] = 1.0f, number[g] = 0;
            for (i64 c = 0; c < classes; ++c) {
                bool last = c + 1 == classes;  // rounding can leave the sum of all below the uniform number
#pragma omp simd
                for (i64 g = 0; g < groups; ++g) {
                    sum[g] += p[c * groups + g];
                    float passed = !last && sum[g] <= u[g] ? 1.0f : 0.0f;
                    put(z[c * groups + g], (before[g] - passed) * alive);
                    before[g] = passed;
                    number[g] += passed;
                }
            }
#pragma omp simd
            for (i64 g = 0; g < groups; ++g)
                of_row[g] = static_cast<std::int16_t>(alive > 0 ? number[g] : -1.0f);
        }
    }
}

// The gradient of logits from that of the probabilities, and from that of the draw, straight through it. The
// latter is a sum of two, the second of which may be null.
void draw_back(const F* of_drawn, const F* also, const float* of_probs, const float* probs,
               const float* living, F* of_logits, float mix, i64 rows, i64 classes, i64 groups) {
    i64 size = classes * groups;
#pragma omp parallel
    {
        std::vector<float> scratch(size + groups);
        float *d = scratch.data(), *mean = d + size;
#pragma omp for schedule(static)
        for (i64 row = 0; row < rows; ++row) {
            const float *p = probs + row * size, *of_p = of_probs + row * size;
            F* out = of_logits + row * size;
            float alive = living[row];
#pragma omp simd
            for (i64 i = 0; i < size; ++i) d[i] = wide(of_drawn[row * size + i]);
            if (also)
#pragma omp simd
                for (i64 i = 0; i < size; ++i) d[i] += wide(also[row * size + i]);
#pragma omp simd
            for (i64 i = 0; i < size; ++i) d[i] = of_p[i] + alive * d[i];
            mixed_softmax_back(d, p, out, mix, classes, groups, mean);
        }
    }
}

// KL (rows) between probabilities and those that `logits` give, both (rows, classes, groups), in nats, summed
// over the groups.
void kl(const float* probs, const F* logits, float* divergence, float mix, i64 rows, i64 classes, i64 groups) {
    i64 size = classes * groups;
#pragma omp parallel
    {
        std::vector<float> scratch(size + 2 * groups);
        float* q = scratch.data();
#pragma omp for schedule(static)
        for (i64 row = 0; row < rows; ++row) {
            const float* p = probs + row * size;
            mixed_softmax(logits + row * size, q, mix, classes, groups, q + size);
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (i64 i = 0; i < size; ++i) {
                float x = p[i] < TINY ? TINY : p[i], y = q[i] < TINY ? TINY : q[i];
                sum += x * logarithm(x / y);
            }
            divergence[row] = sum;
        }
    }
}

// Gradients of probabilities, times 1 - share, and of logits, times share.
void kl_back(const float* of_divergence, const float* probs, const F* logits, float* of_probs, F* of_logits,
             float mix, float share, i64 rows, i64 classes, i64 groups) {
    i64 size = classes * groups;
#pragma omp parallel
    {
        std::vector<float> scratch(2 * size + 2 * groups);
        float *q = scratch.data(), *of_q = q + size, *sums = of_q + size;
#pragma omp for schedule(static)
        for (i64 row = 0; row < rows; ++row) {
            const float* p = probs + row * size;
            float *of_p = of_probs + row * size, d = of_divergence[row];
            mixed_softmax(logits + row * size, q, mix, classes, groups, sums);
#pragma omp simd
            for (i64 i = 0; i < size; ++i) {
                float x = p[i] < TINY ? TINY : p[i], y = q[i] < TINY ? TINY : q[i], ratio = x / y;
                of_p[i] = p[i] < TINY ? 0.0f : d * (1.0f - share) * (logarithm(ratio) + 1.0f);
                of_q[i] = q[i] < TINY ? 0.0f : -d * share * ratio;
            }
            mixed_softmax_back(of_q, q, of_logits + row * size, mix, classes, groups, sums);
        }
    }
}

// Adds to out (rows, width) the rows of a table (classes, groups, width) that the classes (rows, groups) pick;
// a negative one picks nothing.
void add_picked(const std::int16_t* picked, const F* table, F* out, i64 rows, i64 groups, i64 width) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; ++row)
        for (i64 column = 0; column < width; column += COLUMNS) {
            F* o = out + row * width + column;
            const std::int16_t* classes = picked + row * groups;
            if (width - column >= COLUMNS)
                add_columns<true>(classes, table + column, o, groups, width, COLUMNS);
            else
                add_columns<false>(classes, table + column, o, groups, width, width - column);
        }
}

// Adds the gradient of the table to `of_table`. A thread has some of the groups, so no two write to the same
// place, and goes over the rows in blocks that stay in its cache.
void add_picked_back(const std::int16_t* picked, const F* of_out, float* of_table, i64 rows, i64 groups,
                     i64 width) {
    const i64 block = 32, parts = omp_get_max_threads();
#pragma omp parallel for schedule(static)
    for (i64 part = 0; part < parts; ++part) {
        std::vector<float> gradients(block * width);
        for (i64 first = 0; first < rows; first += block) {
            const i64 number = rows - first < block ? rows - first : block;
            widen(of_out + first * width, gradients.data(), number * width);
            for (i64 g = groups * part / parts; g < groups * (part + 1) / parts; ++g)
                for (i64 row = 0; row < number; ++row) {
                    const i64 c = picked[(first + row) * groups + g];
                    if (c < 0) continue;
                    const float* d = gradients.data() + row * width;
                    float* entry = of_table + (c * groups + g) * width;
#pragma omp simd
                    for (i64 i = 0; i < width; ++i) entry[i] += d[i];
                }
        }
    }
}

}  // extern "C"
