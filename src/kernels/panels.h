// Matrices as products read them. Laid out, a matrix (inner, columns) is cut into panels of PANEL columns. A row
// of a panel has a word for each of them: a float, or a pair of rounded numbers that follow each other in their
// column, as instructions multiply and add up pairs. All is filled up with zeros, `inner` to a multiple of DEPTH.

#pragma once

#include "numbers.h"

#include <algorithm>

constexpr i64 PANEL = 2 * LANES, DEPTH = 32;
#if defined(__AVX512F__) || defined(__aarch64__)  // with 32 registers
constexpr i64 ROWS = 10;  // whose sums stay there
#else
constexpr i64 ROWS = 6;
#endif

inline i64 padded(i64 size, i64 multiple) { return (size + multiple - 1) / multiple * multiple; }

// Words of numbers T, one by one and for half a row of a panel.
template <typename T>
struct Words;

template <>
struct Words<float> {
    using One = float;
    using Half = Floats;
    static One of(float first, float) { return first; }
    static One at(const float* x) { return *x; }
    static One last_at(const float* x) { return *x; }
    static Floats add_products(Floats sum, Half a, One b) { return sum + a * b; }
};

#ifdef ROUNDED
template <>
struct Words<F> {
    using One = std::uint32_t;
    using Half = Unsigned;

    static One of(float first, float second) {
        F pair[2];
        store(pair, first), store(pair + 1, second);
        return pair[0].bits | static_cast<One>(pair[1].bits) << 16;
    }

    static One at(const F* x) { return read<One>(x); }
    static One last_at(const F* x) { return x->bits; }

    // Adds the products of both numbers of each word with those of `b`.
    static Floats add_products(Floats sum, Half a, One b) {
#ifdef __AVX512BF16__
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)_mm512_set1_epi32(b));
#else
        constexpr One HIGH = 0xffff0000;
        const float first = bits_of<float>(b << 16), second = bits_of<float>(b & HIGH);
        return sum + (Floats)(a << 16) * first + (Floats)(a & HIGH) * second;
#endif
    }
};
#endif

// Lays out a matrix (inner, columns) whose rows and columns are `by_row` and `by_column` apart.
template <typename T>
inline void lay_out_panels(const float* matrix, i64 by_row, i64 by_column, T* panels, i64 inner, i64 columns) {
    using Word = typename Words<T>::One;
    constexpr i64 NUMBERS = sizeof(Word) / sizeof(T);
    const i64 depth = padded(inner, DEPTH);
#pragma omp parallel for schedule(static)
    for (i64 first = 0; first < columns; first += PANEL) {
        T* panel = panels + first * depth;
        const i64 number = std::min(PANEL, columns - first);
        std::memset(static_cast<void*>(panel), 0, depth * PANEL * sizeof(T));
        for (i64 k = 0; k < inner; k += NUMBERS) {
            const float* from = matrix + first * by_column + k * by_row;
            const i64 next = k + 1 < inner ? by_row : 0;
            const float kept = next ? 1.0f : 0.0f;
            Word words[PANEL];
#pragma omp simd
            for (i64 c = 0; c < number; ++c)
                words[c] = Words<T>::of(from[c * by_column], kept * from[c * by_column + next]);
            std::memcpy(static_cast<void*>(panel + k * PANEL), words, number * sizeof(Word));
        }
    }
}

// Sums (ROWS, PANEL) of the products of rows (stride) with a panel; behind the last row it is taken again. By
// itself, so that the compiler gives all registers to the sums.
template <typename T>
__attribute__((noinline)) void sum_up(const T* a, i64 stride, const T* panel, float* sums, i64 rows,
                                      i64 inner) {
    using W = Words<T>;
    constexpr i64 NUMBERS = sizeof(typename W::One) / sizeof(T);
    const T* row[ROWS];
    Floats sum[ROWS][2];
#pragma GCC unroll 16
    for (i64 r = 0; r < ROWS; ++r) {
        row[r] = a + std::min(r, rows - 1) * stride;
        sum[r][0] = sum[r][1] = Floats{};
    }
    auto add = [&](i64 k, auto at) {
        const auto left = read<typename W::Half>(panel + k * PANEL);
        const auto right = read<typename W::Half>(panel + k * PANEL + LANES * NUMBERS);
#pragma GCC unroll 16
        for (i64 r = 0; r < ROWS; ++r) {
            const auto word = at(row[r] + k);
            sum[r][0] = W::add_products(sum[r][0], left, word);
            sum[r][1] = W::add_products(sum[r][1], right, word);
        }
    };
    const i64 whole = inner / NUMBERS * NUMBERS;
    for (i64 k = 0; k < whole; k += NUMBERS) add(k, W::at);
    if (whole < inner) add(whole, W::last_at);
#pragma GCC unroll 16
    for (i64 r = 0; r < ROWS; ++r)
        for (i64 half = 0; half < 2; ++half) store(sums + r * PANEL + half * LANES, sum[r][half]);
}

// Writes some columns of sums (rows, PANEL), plus rows that are `added` if they aren't null, to rows of `out`;
// both are some numbers apart.
template <typename N>
inline void write_sums(const float* sums, const float* added, i64 added_apart, N* out, i64 out_apart, i64 rows,
                       i64 columns) {
    static const float none[PANEL] = {};
    for (i64 r = 0; r < rows; ++r) {
        const float *sum = sums + r * PANEL, *more = added ? added + r * added_apart : none;
        N* to = out + r * out_apart;
        each(columns, [=](i64 c, auto kind) {
            using T = decltype(kind);
            store<T>(to + c, load<T>(sum + c) + load<T>(more + c));
        });
    }
}
