// Categorical variables: draws and KL in one pass over their probabilities, with their gradients. Tensors are
// (rows, classes, groups); as many groups as there are lanes go through all classes together.

#include "rows.h"

#include <vector>

namespace {

constexpr float TINY = 1.17549435e-38f;  // probabilities of zero count as this in a logarithm

// ln x to 1e-7, for x that are no denormals: its exponent, and a polynomial (Cephes' logf) for what is left.
template <typename T>
inline T logarithm(T x) {
    constexpr std::int32_t ROOT = 0x3f3504f3;  // sqrt(1/2)
    const auto bits = bits_of<IntegersOf<T>>(x) - ROOT;
    const T exponent = to_floats(bits >> 23), m = bits_of<T>((bits & 0x007fffff) + ROOT) - 1.0f;
    T p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * m * m - 2.12194440e-4f * exponent - 0.5f * m * m;
    const T y = m + p + 0.693359375f * exponent;
    return x != x ? x : y;
}

struct Distribution {
    const float mix;  // share of a uniform distribution in each variable
    const i64 classes, groups;

    i64 size() const { return classes * groups; }
    float least() const { return mix / classes; }

    // Calls work(row, room) for some rows, with some times as much room as softmax fills.
    template <typename Work>
    void each_row(i64 first, i64 number, i64 times, Work work) const {
        std::vector<float> room(times * classes * LANES);
        for (i64 row = first; row < first + number; ++row) work(row, room.data());
    }

    // The same for all rows, shared among threads.
    template <typename Work>
    void all_rows(i64 rows, i64 times, Work work) const {
        among_threads(rows, [=](i64 first, i64 number) { each_row(first, number, times, work); });
    }

    // Writes numbers in proportion to what softmax makes of logits, LANES of a class apart; gives what makes
    // them that, less what is mixed in.
    template <typename T>
    T softmax(const F* logits, float* powers) const {
        T largest = load<T>(logits), sum = {};
        for (i64 c = 1; c < classes; ++c) {
            const T x = load<T>(logits + c * groups);
            largest = x > largest ? x : largest;
        }
        for (i64 c = 0; c < classes; ++c) {
            const T power = exponential<T>(load<T>(logits + c * groups) - largest);
            store(powers + c * LANES, power);
            sum += power;
        }
        return (1.0f - mix) / sum;
    }

    // The gradient of logits from that of probabilities, `of_prob(c)`, and these themselves, `prob(c)`.
    template <typename T, typename Prob, typename OfProb>
    void softmax_back(Prob prob, OfProb of_prob, F* of_logits) const {
        T mean = {};
        for (i64 c = 0; c < classes; ++c) mean += (prob(c) - least()) * of_prob(c);
        mean *= mix < 1.0f ? 1.0f / (1.0f - mix) : 0.0f;
        for (i64 c = 0; c < classes; ++c)
            store<T>(of_logits + c * groups, (prob(c) - least()) * (of_prob(c) - mean));
    }
};

}  // namespace

extern "C" {

// Probabilities (rows, classes, groups) from logits, a share `mix` of the uniform distribution among them, and
// a one-hot draw from them by `uniforms` (rows, groups), with `living` (rows) in the place of one. The classes
// drawn are in `picked` (rows, groups), -1 where nobody lives. Probabilities may be null.
void draw(const F* logits, const float* uniforms, const float* living, float* probs, F* drawn,
          std::int16_t* picked, float mix, i64 rows, i64 classes, i64 groups) {
    const i64 size = classes * groups;
    among_threads(rows, [=](i64 first, i64 number) {
        one_thread::draw(logits + first * size, uniforms + first * groups, living + first,
                         probs ? probs + first * size : probs, drawn + first * size,
                         picked + first * groups, mix, number, classes, groups);
    });
}

// KL (rows) between probabilities and those that `logits` give, both (rows, classes, groups), in nats, summed
// over the groups.
void kl(const float* probs, const F* logits, float* divergence, float mix, i64 rows, i64 classes,
        i64 groups) {
    const Distribution of{mix, classes, groups};
    of.all_rows(rows, 1, [=](i64 row, float* powers) {
        Sum sum;
        each(groups, [&](i64 g, auto kind) {
            using T = decltype(kind);
            const i64 first = row * of.size() + g;
            const T scale = of.softmax<T>(logits + first, powers);
            for (i64 c = 0; c < classes; ++c) {
                const T p = at_least(TINY, load<T>(probs + first + c * groups));
                const T q = at_least(TINY, T(of.least() + scale * load<T>(powers + c * LANES)));
                sum += p * logarithm<T>(p / q);
            }
        });
        divergence[row] = sum.total();
    });
}

// Gradients of probabilities, times 1 - share, and of logits, times share.
void kl_back(const float* of_divergence, const float* probs, const F* logits, float* of_probs, F* of_logits,
             float mix, float share, i64 rows, i64 classes, i64 groups) {
    const Distribution of{mix, classes, groups};
    of.all_rows(rows, 2, [=](i64 row, float* q) {
        float* of_q = q + classes * LANES;
        const float of_p = (1.0f - share) * of_divergence[row], of_ratio = -share * of_divergence[row];
        each(groups, [=](i64 g, auto kind) {
            using T = decltype(kind);
            const i64 first = row * of.size() + g;
            const T scale = of.softmax<T>(logits + first, q);
            for (i64 c = 0; c < classes; ++c) {
                const T x = load<T>(probs + first + c * groups);
                const T y = of.least() + scale * load<T>(q + c * LANES);
                const T ratio = at_least(TINY, x) / at_least(TINY, y);
                store(q + c * LANES, y);
                store<T>(of_q + c * LANES, y < TINY ? T() : of_ratio * ratio);
                store<T>(of_probs + first + c * groups,
                         x < TINY ? T() : of_p * (logarithm(ratio) + 1.0f));
            }
            of.softmax_back<T>([=](i64 c) { return load<T>(q + c * LANES); },
                               [=](i64 c) { return load<T>(of_q + c * LANES); }, of_logits + first);
        });
    });
}

}  // extern "C"

void one_thread::draw(const F* logits, const float* uniforms, const float* living, float* probs, F* drawn,
                      std::int16_t* picked, float mix, i64 rows, i64 classes, i64 groups) {
    const Distribution of{mix, classes, groups};
    of.each_row(0, rows, 1, [=](i64 row, float* powers) {
        const float alive = living[row];
        each(groups, [=](i64 g, auto kind) {
            using T = decltype(kind);
            const i64 first = row * of.size() + g;
            const T scale = of.softmax<T>(logits + first, powers);
            const T u = load<T>(uniforms + row * groups + g);
            T sum = {}, number = {};  // of probabilities so far, of classes that u is beyond
            T before = T() + 1.0f;  // 1 if it is beyond the class before
            for (i64 c = 0; c < classes; ++c) {
                const T p = of.least() + scale * load<T>(powers + c * LANES);
                if (probs) store(probs + first + c * groups, p);
                sum += p;
                // Rounding can leave the sum of all below the uniform number.
                const T passed = c + 1 < classes ? (sum <= u ? T() + 1.0f : T()) : T();
                store<T>(drawn + first + c * groups, (before - passed) * alive);
                before = passed;
                number += passed;
            }
            float numbers[LANES];
            store(numbers, number);
            for (i64 l = 0; l < static_cast<i64>(sizeof(T) / sizeof(float)); ++l)
                picked[row * groups + g + l] = static_cast<std::int16_t>(alive > 0 ? numbers[l] : -1.0f);
        });
    });
}

// The gradient of logits from that of the probabilities, and from that of the draw, straight through it. The
// latter is a sum of two, the second of which may be null.
void one_thread::draw_back(const F* of_drawn, const F* also, const float* of_probs, const float* probs,
                           const float* living, F* of_logits, float mix, i64 rows, i64 classes, i64 groups) {
    const Distribution of{mix, classes, groups};
    of.each_row(0, rows, 1, [=](i64 row, float* d) {
        const float alive = living[row];
        each(groups, [=](i64 g, auto kind) {
            using T = decltype(kind);
            const i64 first = row * of.size() + g;
            for (i64 c = 0; c < classes; ++c) {
                const i64 i = first + c * groups;
                T of_both = load<T>(of_drawn + i);
                if (also) of_both += load<T>(also + i);
                store<T>(d + c * LANES, load<T>(of_probs + i) + alive * of_both);
            }
            of.softmax_back<T>([=](i64 c) { return load<T>(probs + first + c * groups); },
                               [=](i64 c) { return load<T>(d + c * LANES); }, of_logits + first);
        });
    });
}
