// Products by matrices that serve a few hundred rows again and again: they are laid out once, in the order in
// which they are read. A library, which is given them as they lie, takes a fifth more in float32 and spends half
// of its time on that in bfloat16.
//
// Laid out, a matrix (inner, columns) is cut into panels of PANEL columns. A row of a panel has a word for each
// of them: a float, or a pair of rounded numbers that follow each other in their column, as instructions multiply
// and add up pairs. All is filled up with zeros.

#include "numbers.h"

#include <algorithm>
#include <atomic>
#include <omp.h>

#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
#include <immintrin.h>
#endif
#if defined(ROUNDED) && defined(__AMX_BF16__) && defined(__linux__)
#define TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr i64 PANEL = 32, SIDE = PANEL / 2;
constexpr i64 DEPTH = 32;  // `inner` of what is laid out is a multiple of this
constexpr i64 GROUP = 160;  // rows, at most, that are multiplied by a panel while it is in the cache
constexpr i64 TILED = 32;  // rows that are summed up in tiles
#ifdef __AVX512F__
constexpr i64 ROWS = 10;  // that are summed up in registers
#else
constexpr i64 ROWS = 3;
#endif

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));  // of half a row of a panel

inline i64 padded(i64 size, i64 multiple) { return (size + multiple - 1) / multiple * multiple; }

#ifdef ROUNDED

using Word = std::uint32_t;
typedef Word Words __attribute__((vector_size(64), aligned(2), may_alias));
constexpr Word HIGH = 0xffff0000;

inline Word word_of(float first, float second) {
    F pair[2];
    put(pair[0], first), put(pair[1], second);
    return pair[0].bits | static_cast<Word>(pair[1].bits) << 16;
}

inline Word word_at(const F* x) {
    Word word;
    std::memcpy(&word, x, sizeof word);
    return word;
}

inline Word last_word_at(const F* x) { return x->bits; }

// Adds the products of both numbers of each word with those of `b`.
inline Floats plus_products(Floats sum, Words a, Word b) {
#ifdef __AVX512BF16__
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)_mm512_set1_epi32(b));
#else
    return sum + (Floats)(a << 16) * bits_of<float>(b << 16) + (Floats)(a & HIGH) * bits_of<float>(b & HIGH);
#endif
}

#else

using Word = float;
using Words = Floats;

inline Word word_of(float first, float) { return first; }
inline Word word_at(const F* x) { return *x; }
inline Word last_word_at(const F* x) { return *x; }
inline Floats plus_products(Floats sum, Words a, Word b) { return sum + a * b; }

#endif

constexpr i64 NUMBERS = sizeof(Word) / sizeof(F);  // in a word

// Sums (ROWS, PANEL) of the products of rows (stride) with a panel; behind the last row it is taken again.
inline void sum_up(const F* a, i64 stride, const F* panel, float* sums, i64 rows, i64 inner) {
    const F* row[ROWS];
    Floats sum[ROWS][2] = {};
    for (i64 r = 0; r < ROWS; ++r) row[r] = a + std::min(r, rows - 1) * stride;
    auto add = [&](i64 k, auto at) {
        const Words* half = reinterpret_cast<const Words*>(panel + k * PANEL);
        const Words left = half[0], right = half[1];
#pragma GCC unroll 16
        for (i64 r = 0; r < ROWS; ++r) {
            const Word word = at(row[r] + k);
            sum[r][0] = plus_products(sum[r][0], left, word);
            sum[r][1] = plus_products(sum[r][1], right, word);
        }
    };
    const i64 whole = inner / NUMBERS * NUMBERS;
    for (i64 k = 0; k < whole; k += NUMBERS) add(k, word_at);
    if (whole < inner) add(whole, last_word_at);
    std::memcpy(sums, sum, sizeof sum);
}

#ifdef TILES

struct Tiling {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Whether the operating system lets this process use tiles: it must be asked.
const bool tiles_allowed = [] {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}();

// As long as it lives its thread can use tiles.
struct Tiled {
    const bool used;
    explicit Tiled(bool wanted) : used(wanted) {
        const Tiling tiling;
        if (used) _tile_loadconfig(&tiling);
    }
    ~Tiled() {
        if (used) _tile_release();
    }
};

// Adds to tiles 0 to 3, of SIDE x SIDE sums each, the products of DEPTH numbers of TILED rows with a panel's.
inline void add_to_tiles(const F* a, i64 stride, const F* panel) {
    constexpr i64 BYTES = PANEL * sizeof(Word);
    _tile_loadd(4, a, stride * sizeof(F));
    _tile_loadd(6, panel, BYTES);
    _tile_loadd(7, panel + PANEL, BYTES);
    _tile_loadd(5, a + SIDE * stride, stride * sizeof(F));
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

// Sums (TILED, PANEL) as `sum_up` has them.
inline void sum_up_in_tiles(const F* a, i64 stride, const F* panel, float* sums, i64 inner) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const i64 whole = inner / DEPTH * DEPTH, rest = inner - whole;
    for (i64 k = 0; k < whole; k += DEPTH) add_to_tiles(a + k, stride, panel + k * PANEL);
    if (rest) {
        F last[TILED][DEPTH] = {};
        for (i64 r = 0; r < TILED; ++r) std::copy_n(a + r * stride + whole, rest, last[r]);
        std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler doesn't see that tiles read it
        add_to_tiles(last[0], DEPTH, panel + whole * PANEL);
    }
    constexpr i64 BYTES = PANEL * sizeof(float);
    _tile_stored(0, sums, BYTES);
    _tile_stored(1, sums + SIDE, BYTES);
    _tile_stored(2, sums + SIDE * PANEL, BYTES);
    _tile_stored(3, sums + SIDE * PANEL + SIDE, BYTES);
}

#else

constexpr bool tiles_allowed = false;
struct Tiled {
    explicit Tiled(bool) {}
};
inline void sum_up_in_tiles(const F*, i64, const F*, float*, i64) {}

#endif

// Writes some columns of the sums plus a bias, if it isn't null.
inline void finish(const float* sums, const float* bias, F* out, i64 stride, i64 rows, i64 columns) {
    static const float none[PANEL] = {};
    const float* added = bias ? bias : none;
    for (i64 r = 0; r < rows; ++r)
        if (columns == PANEL)  // a number that the compiler knows
#pragma omp simd
            for (i64 c = 0; c < PANEL; ++c) put(out[r * stride + c], sums[r * PANEL + c] + added[c]);
        else
            for (i64 c = 0; c < columns; ++c) put(out[r * stride + c], sums[r * PANEL + c] + added[c]);
}

}  // namespace

extern "C" {

// Lays out a matrix (inner, columns) whose rows and columns are `by_row` and `by_column` apart.
void lay_out(const float* matrix, i64 by_row, i64 by_column, F* panels, i64 inner, i64 columns) {
    const i64 depth = padded(inner, DEPTH);
#pragma omp parallel for schedule(static)
    for (i64 first = 0; first < columns; first += PANEL) {
        F* panel = panels + first * depth;
        const i64 number = std::min(PANEL, columns - first);
        std::memset(static_cast<void*>(panel), 0, depth * PANEL * sizeof(F));
        for (i64 k = 0; k < inner; k += NUMBERS) {
            const float* from = matrix + first * by_column + k * by_row;
            const i64 next = k + 1 < inner ? by_row : 0;
            const float kept = next ? 1.0f : 0.0f;
            Word words[PANEL];
#pragma omp simd
            for (i64 c = 0; c < number; ++c)
                words[c] = word_of(from[c * by_column], kept * from[c * by_column + next]);
            std::memcpy(static_cast<void*>(panel + k * PANEL), words, number * sizeof(Word));
        }
    }
}

// out (rows, columns) = a (rows, inner) times the matrix that was laid out, plus a bias (columns) if it isn't
// null.
void multiply(const F* a, const F* panels, const float* bias, F* out, i64 rows, i64 inner, i64 columns) {
    const i64 depth = padded(inner, DEPTH), groups = (rows + GROUP - 1) / GROUP;
    const bool tiled = tiles_allowed && rows >= TILED;  // then each group has so many, too
    const i64 block = tiled ? TILED : ROWS;
    // Groups end with whole blocks, but for the last one.
    auto start = [=](i64 group) { return group < groups ? rows * group / groups / block * block : rows; };
#pragma omp parallel
    {
        const Tiled within(tiled);
        alignas(64) float sums[TILED * PANEL];
#pragma omp for collapse(2) schedule(static)
        for (i64 group = 0; group < groups; ++group)
            for (i64 column = 0; column < columns; column += PANEL) {
                const F* panel = panels + column * depth;
                const i64 end = start(group + 1), number = std::min(PANEL, columns - column);
                for (i64 next = start(group); next < end; next += block) {
                    // The last tiles have some rows again of those before.
                    const i64 row = tiled ? std::min(next, end - TILED) : next;
                    const i64 few = std::min(block, end - row);
                    if (tiled)
                        sum_up_in_tiles(a + row * inner, inner, panel, sums, inner);
                    else
                        sum_up(a + row * inner, inner, panel, sums, few, inner);
                    F* to = out + row * columns + column;
                    finish(sums, bias ? bias + column : bias, to, columns, few, number);
                }
            }
    }
}

}  // extern "C"
