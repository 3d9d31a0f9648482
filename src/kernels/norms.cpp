// Layer norms, and SiLU, in one pass over their rows, where torch would make several.
//
// Matrices lie row by row without gaps. `..._back` has the gradients.

#include "rows.h"

#include <algorithm>
#include <vector>

namespace {

constexpr float EPSILON = 1e-5f;  // torch's, of a layer norm
constexpr i64 BLOCK = 8;  // rows whose sums are taken before one is used: it takes a while until it is there

// Where `sigmoid` goes down no further, x doesn't either.
constexpr float LEAST = -88.0f;

template <typename T>
inline T silu_of(T x) {
    x = at_least(LEAST, x);
    return x * sigmoid(x);
}

template <typename T>
inline T silu_slope(T x) {
    x = at_least(LEAST, x);
    const T share = sigmoid(x);
    return share * (1.0f + x * (1.0f - share));
}

// What a layer norm of `width` numbers, at(i, T()) from i on, takes off, and what it multiplies by. They are
// summed up less the first one, as the squares of numbers far from zero would leave nothing of their variance.
template <typename At>
inline void norm_statistics(At at, i64 width, float& mean, float& scale) {
    const float first = at(0, 0.0f);
    Sum sum, squares;
    each(width, [&](i64 i, auto kind) {
        const auto d = at(i, kind) - first;
        sum += d;
        squares += d * d;
    });
    const float m = sum.total() / width, variance = squares.total() / width - m * m;
    mean = first + m;
    scale = 1.0f / std::sqrt((variance < 0 ? 0.0f : variance) + EPSILON);
}

// Numbers that a product gave, and the bias that is added to them.
struct Linear {
    const F* products;
    const float* bias;

    template <typename T>
    T operator()(i64 i, T) const {
        return load<T>(products + i) + load<T>(bias + i);
    }
};

}  // namespace

// total = x + y (rows, width), and the layer norm of it without gain and bias, its mean and scale (rows). Of x
// there are `repeat` rows, which come again and again.
void one_thread::add_norm(const float* x, i64 repeat, const F* y, float* total, F* normed, float* mean,
                          float* scale, i64 rows, i64 width) {
    for (i64 first = 0; first < rows; first += BLOCK) {
        const i64 end = std::min(first + BLOCK, rows);
        for (i64 row = first; row < end; ++row) {
            const float* a = x + row % repeat * width;
            const F* b = y + row * width;
            float* t = total + row * width;
            each(width, [=](i64 i, auto kind) {
                using T = decltype(kind);
                store(t + i, load<T>(a + i) + load<T>(b + i));
            });
            norm_statistics([=](i64 i, auto kind) { return load<decltype(kind)>(t + i); }, width, mean[row],
                            scale[row]);
        }
        for (i64 row = first; row < end; ++row) {
            const float m = mean[row], s = scale[row], *t = total + row * width;
            F* out = normed + row * width;
            each(width, [=](i64 i, auto kind) { store(out + i, (load<decltype(kind)>(t + i) - m) * s); });
        }
    }
}

// Adds to g, the gradient of the total by others, that by its norm; `rounded` gets the sum, too.
void one_thread::add_norm_back(const F* of_normed, const float* total, const float* mean, const float* scale,
                               float* g, F* rounded, i64 rows, i64 width) {
    for (i64 first = 0; first < rows; first += BLOCK) {
        const i64 end = std::min(first + BLOCK, rows);
        float shift[BLOCK], slope[BLOCK];
        for (i64 row = first; row < end; ++row) {
            const F* d = of_normed + row * width;
            const float *x = total + row * width, m = mean[row], s = scale[row];
            Sum all, along;
            each(width, [&](i64 i, auto kind) {
                using T = decltype(kind);
                const T of_n = load<T>(d + i);
                all += of_n;
                along += of_n * (load<T>(x + i) - m);
            });
            shift[row - first] = all.total() / width, slope[row - first] = along.total() * s * s / width;
        }
        for (i64 row = first; row < end; ++row) {
            const F* d = of_normed + row * width;
            const float *x = total + row * width, m = mean[row], s = scale[row];
            const float by = shift[row - first], along = slope[row - first];
            float* sum = g + row * width;
            F* out = rounded + row * width;
            each(width, [=](i64 i, auto kind) {
                using T = decltype(kind);
                const T of_x = s * (load<T>(d + i) - by - (load<T>(x + i) - m) * along);
                const T of_both = load<T>(sum + i) + of_x;
                store(sum + i, of_both);
                store(out + i, of_both);
            });
        }
    }
}

extern "C" {

void silu(const F* x, F* out, i64 rows, i64 width) {
    each_in_rows(rows, width,
                 [=](i64 i, auto kind) { store(out + i, silu_of(load<decltype(kind)>(x + i))); });
}

void silu_back(const F* of_out, const F* x, F* of_x, i64 rows, i64 width) {
    each_in_rows(rows, width, [=](i64 i, auto kind) {
        using T = decltype(kind);
        store<T>(of_x + i, load<T>(of_out + i) * silu_slope(load<T>(x + i)));
    });
}

}  // extern "C"

// SiLU of the layer norm, with gain and bias, of x (rows, width) plus what is `added` (width) to it; keeps the
// norm's mean and scale (rows). `out` has the mean of each `over` rows that follow each other.
void one_thread::norm_silu(const F* x, const float* added, const float* gain, const float* bias, F* out,
                           float* mean, float* scale, i64 over, i64 rows, i64 width) {
    const float share = 1.0f / over;
    const i64 block = over > 1 ? over : BLOCK;
    std::vector<float> sums(over > 1 ? width : 0);
    for (i64 first = 0; first < rows; first += block) {
        const i64 end = std::min(first + block, rows);
        for (i64 row = first; row < end; ++row)
            norm_statistics(Linear{x + row * width, added}, width, mean[row], scale[row]);
        float* sum = sums.data();
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (i64 row = first; row < end; ++row) {
            const Linear at{x + row * width, added};
            const float m = mean[row], s = scale[row];
            F* to = out + row * width;
            each(width, [=](i64 i, auto kind) {
                using T = decltype(kind);
                const T n = (at(i, kind) - m) * s;
                const T activated = silu_of<T>(n * load<T>(gain + i) + load<T>(bias + i));
                if (over > 1)
                    store(sum + i, load<T>(sum + i) + activated);
                else
                    store(to + i, activated);
            });
        }
        F* to = out + first / over * width;
        if (over > 1)
            each(width, [=](i64 i, auto kind) { store(to + i, share * load<decltype(kind)>(sum + i)); });
    }
}

// The gradient of x, and what is to be added to those of what is added, of gain and bias. Of the rows from
// `first` to `end`, of all that the pointers are to.
void one_thread::norm_silu_back(const F* of_out, const F* x, const float* added, const float* gain,
                                const float* bias, const float* mean, const float* scale, F* of_x,
                                float* of_added, float* of_gain, float* of_bias, i64 over, i64 first,
                                i64 end, i64 width) {
    const float weight = 1.0f / over;
    std::vector<float> of_normed(width);
    float* d = of_normed.data();
    for (i64 row = first; row < end; ++row) {
        const F* g = of_out + row / over * width;
        const Linear at{x + row * width, added};
        F* out = of_x + row * width;
        const float m = mean[row], s = scale[row];
        Sum all, along;
        each(width, [&](i64 i, auto kind) {
            using T = decltype(kind);
            const T n = (at(i, kind) - m) * s, gains = load<T>(gain + i);
            const T of_v = weight * load<T>(g + i) * silu_slope<T>(n * gains + load<T>(bias + i));
            store<T>(of_gain + i, load<T>(of_gain + i) + of_v * n);
            store<T>(of_bias + i, load<T>(of_bias + i) + of_v);
            const T of_n = of_v * gains;
            store(d + i, of_n);
            all += of_n;
            along += of_n * n;
        });
        const float shift = all.total() / width, slope = along.total() * s / width;
        each(width, [=](i64 i, auto kind) {
            using T = decltype(kind);
            const T of_both = s * (load<T>(d + i) - shift - (at(i, kind) - m) * slope);
            store(out + i, of_both);
            store<T>(of_added + i, load<T>(of_added + i) + of_both);
        });
    }
}
