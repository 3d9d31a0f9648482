// Attention of the handful of agents of a group to each other.
//
// Heads take turns: a row has the first numbers of all heads, then their second ones, and so on. So what lies
// in a vector register belongs to all heads in turn, and neither the sums by head, nor the products with what
// each head gives, need anything in another order.

#include "rows.h"

#include <algorithm>
#include <vector>

namespace {

// Calls with the number of heads as a constant where it is a usual one, else with 0: each takes two seconds to
// compile.
template <typename Call>
inline void with_constant(i64 heads, Call call) {
    switch (heads) {
        case 4: return call(std::integral_constant<i64, 4>());
        case 8: return call(std::integral_constant<i64, LANES % 8 == 0 ? 8 : 0>());
        default: return call(std::integral_constant<i64, 0>());
    }
}

// Work on rows of some heads that take turns; HEADS: their number, which divides LANES, or 0 for any.
template <i64 HEADS>
struct Rows {
    const i64 agents, any_heads, width;

    i64 heads() const { return HEADS ? HEADS : any_heads; }
    i64 pairs() const { return agents * agents * heads(); }

    // The sums by head (heads) of the products of a row with each of NUMBER rows that are some numbers apart.
    template <i64 NUMBER>
    void sum_by_head(const float* a, const float* b, i64 b_apart, float* sums) const {
        const i64 whole = HEADS ? width / LANES * LANES : 0, number = heads();
        std::fill_n(sums, NUMBER * number, 0.0f);
        if (HEADS) {
            Floats lanes[NUMBER] = {};
            for (i64 c = 0; c < whole; c += LANES)
#pragma GCC unroll 4
                for (i64 j = 0; j < NUMBER; ++j)
                    lanes[j] += load<Floats>(a + c) * load<Floats>(b + j * b_apart + c);
#pragma GCC unroll 4
            for (i64 j = 0; j < NUMBER; ++j) {
#pragma GCC unroll 4
                for (i64 half = LANES / 2; half >= HEADS; half /= 2) lanes[j] += moved(lanes[j], half);
                std::memcpy(sums + j * HEADS, &lanes[j], HEADS * sizeof(float));
            }
        }
        for (i64 j = 0; j < NUMBER; ++j)
            for (i64 c = whole; c < width; c += number)
#pragma omp simd
                for (i64 h = 0; h < number; ++h) sums[j * number + h] += a[c + h] * b[j * b_apart + c + h];
    }

    // Those of all pairs of rows (agents).
    void sum_pairs(const float* a, i64 a_apart, const float* b, i64 b_apart, float* sums) const {
        for (i64 i = 0; i < agents; ++i, a += a_apart) {
            i64 j = 0;
            for (; j + 4 <= agents; j += 4, sums += 4 * heads())
                sum_by_head<4>(a, b + j * b_apart, b_apart, sums);
            for (; j < agents; ++j, sums += heads()) sum_by_head<1>(a, b + j * b_apart, b_apart, sums);
        }
    }

    // NUMBER registers of the sum below.
    template <i64 NUMBER>
    void add_up_some(const float* lanes, const float* rows, i64 rows_apart, F* out) const {
        Floats sum[NUMBER] = {};
        for (i64 j = 0; j < agents; ++j)
#pragma GCC unroll 4
            for (i64 n = 0; n < NUMBER; ++n)
                sum[n] += load<Floats>(lanes + j * LANES) * load<Floats>(rows + j * rows_apart + n * LANES);
#pragma GCC unroll 4
        for (i64 n = 0; n < NUMBER; ++n) store(out + n * LANES, sum[n]);
    }

    // The sum of rows (agents), each head of which has its weight (heads).
    void add_up(const float* weights, i64 weights_apart, const float* rows, i64 rows_apart, F* out,
                float* lanes) const {
        const i64 whole = HEADS ? width / LANES * LANES : 0, number = heads();
        if (HEADS)
            for (i64 j = 0; j < agents; ++j)
                for (i64 l = 0; l < LANES; ++l)
                    lanes[j * LANES + l] = weights[j * weights_apart + l % number];
        i64 c = 0;
        for (; c + 4 * LANES <= whole; c += 4 * LANES) add_up_some<4>(lanes, rows + c, rows_apart, out + c);
        for (; c < whole; c += LANES) add_up_some<1>(lanes, rows + c, rows_apart, out + c);
        for (i64 c = whole; c < width; ++c) {
            float sum = 0;
            for (i64 j = 0; j < agents; ++j)
                sum += weights[j * weights_apart + c % number] * rows[j * rows_apart + c];
            store(out + c, sum);
        }
    }
};

// The numbers as floats, in `room` if they aren't.
inline const float* widened(const F* from, [[maybe_unused]] float* room, [[maybe_unused]] i64 size) {
#ifdef ROUNDED
    widen(from, room, size);
    return room;
#else
    return from;
#endif
}

}  // namespace

extern "C" {

// From rows of queries (scaled before), keys and values (groups, agents, 3, width), each of heads x size
// numbers: what each agent's attention to all agents of its group gives (groups, agents, width). Keeps the
// shares of its attention (groups, agents, agents, heads), those of one agent and head add up to one.
void attend(const F* query_key_value, F* attended, float* shares, i64 groups, i64 agents, i64 any_heads,
            i64 size) {
    with_constant(any_heads, [=](auto constant) {
        const Rows<constant()> rows{agents, any_heads, any_heads * size};
        const i64 heads = rows.heads(), width = rows.width, apart = 3 * width;
        std::vector<float> scratch(agents * apart + agents * LANES + heads);
        float *lanes = scratch.data() + agents * apart, *of_head = lanes + agents * LANES;
        for (i64 group = 0; group < groups; ++group) {
            const F* given = query_key_value + group * agents * apart;
            const float* query = widened(given, scratch.data(), agents * apart);
            float* share = shares + group * rows.pairs();
            rows.sum_pairs(query, apart, query + width, apart, share);
            for (i64 i = 0; i < agents; ++i) {
                float* score = share + i * agents * heads;
                std::copy_n(score, heads, of_head);
                for (i64 j = 1; j < agents; ++j)
#pragma omp simd
                    for (i64 h = 0; h < heads; ++h) {
                        const float x = score[j * heads + h];
                        of_head[h] = x > of_head[h] ? x : of_head[h];
                    }
                for (i64 j = 0; j < agents; ++j)
#pragma omp simd
                    for (i64 h = 0; h < heads; ++h) score[j * heads + h] -= of_head[h];
            }
            each(rows.pairs(), [=](i64 i, auto kind) {
                store(share + i, exponential(load<decltype(kind)>(share + i)));
            });
            for (i64 i = 0; i < agents; ++i) {
                float* of_agent = share + i * agents * heads;
                std::fill_n(of_head, heads, 0.0f);
                for (i64 j = 0; j < agents; ++j)
#pragma omp simd
                    for (i64 h = 0; h < heads; ++h) of_head[h] += of_agent[j * heads + h];
#pragma omp simd
                for (i64 h = 0; h < heads; ++h) of_head[h] = 1.0f / of_head[h];
                for (i64 j = 0; j < agents; ++j)
#pragma omp simd
                    for (i64 h = 0; h < heads; ++h) of_agent[j * heads + h] *= of_head[h];
                F* out = attended + (group * agents + i) * width;
                rows.add_up(of_agent, heads, query + 2 * width, apart, out, lanes);
            }
        }
    });
}

void attend_back(const F* of_attended, const F* query_key_value, const float* shares, F* of_input, i64 groups,
                 i64 agents, i64 any_heads, i64 size) {
    with_constant(any_heads, [=](auto constant) {
        const Rows<constant()> rows{agents, any_heads, any_heads * size};
        const i64 heads = rows.heads(), width = rows.width, apart = 3 * width;
        std::vector<float> scratch(agents * (apart + width) + rows.pairs() + agents * LANES + heads);
        float *of_room = scratch.data() + agents * apart, *of_score = of_room + agents * width;
        float *lanes = of_score + rows.pairs(), *mean = lanes + agents * LANES;
        for (i64 group = 0; group < groups; ++group) {
            const F* given = query_key_value + group * agents * apart;
            const float* query = widened(given, scratch.data(), agents * apart);
            const float* of_out = widened(of_attended + group * agents * width, of_room, agents * width);
            const float* share = shares + group * rows.pairs();
            F* of_group = of_input + group * agents * apart;

            rows.sum_pairs(of_out, width, query + 2 * width, apart, of_score);
            for (i64 i = 0; i < agents; ++i) {
                const float* weight = share + i * agents * heads;
                float* d = of_score + i * agents * heads;
                std::fill_n(mean, heads, 0.0f);
                for (i64 j = 0; j < agents; ++j)
#pragma omp simd
                    for (i64 h = 0; h < heads; ++h) mean[h] += weight[j * heads + h] * d[j * heads + h];
                for (i64 j = 0; j < agents; ++j)
#pragma omp simd
                    for (i64 h = 0; h < heads; ++h)
                        d[j * heads + h] = weight[j * heads + h] * (d[j * heads + h] - mean[h]);
            }
            for (i64 i = 0; i < agents; ++i) {
                F* of_row = of_group + i * apart;
                const i64 to = i * heads, by_row = agents * heads;  // those of agent i's key and value
                rows.add_up(of_score + i * by_row, heads, query + width, apart, of_row, lanes);
                rows.add_up(of_score + to, by_row, query, apart, of_row + width, lanes);
                rows.add_up(share + to, by_row, of_out, width, of_row + 2 * width, lanes);
            }
        }
    });
}

}  // extern "C"
