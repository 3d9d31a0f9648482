// Numbers as kernels see them: LANES at once, as many as a vector register has, or one by one, what is left. T
// is Floats or float; all is calculated in float.
//
// F is the type of what products read and give: float, or bfloat16 where it is compiled with -DROUNDED.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

using i64 = std::int64_t;

#ifdef __AVX512F__
constexpr i64 LANES = 16;
#elif defined(__AVX2__)
constexpr i64 LANES = 8;
#else
constexpr i64 LANES = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef std::int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef std::uint32_t Unsigned __attribute__((vector_size(4 * LANES)));
typedef std::uint16_t Halves __attribute__((vector_size(2 * LANES)));

template <typename T>
constexpr bool IS_ONE = std::is_same_v<T, float>;

template <typename T>
using IntegersOf = std::conditional_t<IS_ONE<T>, std::int32_t, Integers>;

// What lies in memory, wherever that begins.
template <typename T>
inline T read(const void* from) {
    T x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

template <typename To, typename From>
inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    return read<To>(&from);
}

inline float to_floats(std::int32_t x) { return static_cast<float>(x); }
inline Floats to_floats(Integers x) { return __builtin_convertvector(x, Floats); }

template <typename T>
inline T load(const float* from) {
    return read<T>(from);
}

template <typename T>
inline void store(float* to, T x) {
    std::memcpy(to, &x, sizeof x);
}

#ifdef ROUNDED
struct F {
    std::uint16_t bits;
};

template <typename T>
inline T load(const F* from) {
    if constexpr (IS_ONE<T>) {
        return bits_of<float>(static_cast<std::uint32_t>(from->bits) << 16);
    } else {
#ifdef __AVX512F__  // some compilers don't find this instruction
        const auto words = bits_of<Unsigned>(_mm512_cvtepu16_epi32(read<__m256i>(from)));
#else
        const auto words = __builtin_convertvector(read<Halves>(from), Unsigned);
#endif
        return bits_of<Floats>(words << 16);
    }
}

// To the nearest, in a tie to the even one; what is not a number stays so.
template <typename T>
inline void store(F* to, T x) {
    if constexpr (IS_ONE<T>) {
        const auto bits = bits_of<std::uint32_t>(x);
        to->bits = static_cast<std::uint16_t>(x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    } else {
#ifdef __AVX512BF16__
        const auto rounded = bits_of<__m256i>(_mm512_cvtneps_pbh(bits_of<__m512>(x)));
#else
        const auto bits = bits_of<Unsigned>(x);
        const Unsigned nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        const Unsigned words = x != x ? 0x7fc0u : nearest;
#ifdef __AVX512F__
        const auto rounded = _mm512_cvtepi32_epi16(bits_of<__m512i>(words));
#else
        const auto rounded = __builtin_convertvector(words, Halves);
#endif
#endif
        std::memcpy(static_cast<void*>(to), &rounded, sizeof rounded);
    }
}
#else
using F = float;
#endif

// Calls work(i, T()) for all i below `size`: LANES of them at once as long as there are so many, then one by
// one.
template <typename Work>
inline __attribute__((always_inline)) void each(i64 size, Work work) {
    i64 i = 0;
    for (; i + LANES <= size; i += LANES) work(i, Floats());
    for (; i < size; ++i) work(i, 0.0f);
}

// The same for numbers of rows, row by row: what is left of each is taken one by one, however many rows there
// are, as one by one numbers may be rounded in another way.
template <typename Work>
inline __attribute__((always_inline)) void each_in_rows(i64 rows, i64 width, Work work) {
    for (i64 first = 0; first < rows * width; first += width)
        each(width, [=](i64 i, auto kind) { work(first + i, kind); });
}

// What is in `half` lanes more, in each lane. The order is read from a table, as compilers make one that they
// know number by number.
inline Floats moved(Floats x, i64 half) {
    struct Order {
        std::int32_t lane[2 * LANES];
    };
    static constexpr Order ORDER = [] {
        Order order{};
        for (i64 l = 0; l < 2 * LANES; ++l) order.lane[l] = static_cast<std::int32_t>(l % LANES);
        return order;
    }();
    return __builtin_shuffle(x, read<Integers>(ORDER.lane + half));
}

// A sum that grows by LANES numbers, or by one.
struct Sum {
    Floats lanes = {};
    float rest = 0;

    void operator+=(Floats x) { lanes += x; }
    void operator+=(float x) { rest += x; }

    float total() const {
        Floats x = lanes;
#pragma GCC unroll 4
        for (i64 half = LANES / 2; half > 0; half /= 2) x += moved(x, half);
        return x[0] + rest;
    }
};

inline void widen(const F* from, float* to, i64 size) {
    each(size, [=](i64 i, auto kind) { store(to + i, load<decltype(kind)>(from + i)); });
}

// Bounds of x; what is not a number stays so. Compilers make two instructions of such a choice.
inline float at_most(float most, float x) { return x > most ? most : x; }
inline float at_least(float least, float x) { return x < least ? least : x; }
#ifdef __AVX512F__
inline Floats at_most(float most, Floats x) {
    return bits_of<Floats>(_mm512_min_ps(_mm512_set1_ps(most), bits_of<__m512>(x)));
}
inline Floats at_least(float least, Floats x) {
    return bits_of<Floats>(_mm512_max_ps(_mm512_set1_ps(least), bits_of<__m512>(x)));
}
#else
inline Floats at_most(float most, Floats x) { return x > most ? most : x; }
inline Floats at_least(float least, Floats x) { return x < least ? least : x; }
#endif

// A sum with it is rounded to an integer, whose last bits are those of a float's exponent.
constexpr float INTEGER = 12582912.0f + 127.0f;

// p times two to the power of an integer, to which INTEGER was added.
template <typename T>
inline T times_power(T p, T shifted) {
    return p * bits_of<T>(bits_of<IntegersOf<T>>(shifted) << 23);
}

// e^x to 1e-7 of itself, zero below e^-87, at most e^88: a power of two, and a polynomial (Cephes' expf) for
// what is left.
template <typename T>
inline T exponential(T x) {
    x = at_most(88.0f, x);
    const T shifted = x * 1.44269504f + INTEGER, n = shifted - INTEGER;
    const T r = x - n * 0.693359375f + n * 2.12194440e-4f;
    T p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    return x < -87.0f ? 0.0f : times_power(p, shifted);
}

// 1 / (1 + e^-x), no less than at -88. Where factors are rounded, which leaves 2e-3 of a number unknown, it is
// right to 1.5e-4 of itself, in two thirds of the instructions.
template <typename T>
inline T sigmoid(T x) {
#if defined(ROUNDED) && defined(__AVX512F__)
    if constexpr (!IS_ONE<T>) {
        // As in `exponential`, but as a power of two and by a shorter polynomial.
        constexpr float OF_E = -1.44269504f;
        x = at_least(-88.0f, at_most(87.0f, x));
        const T shifted = x * OF_E + INTEGER, n = shifted - INTEGER;
        const T r = x * OF_E - n;
        const T p = ((r * 0.05517167f + 0.24261113f) * r + 0.69326099f) * r + 0.99992807f;
        return bits_of<T>(_mm512_rcp14_ps(bits_of<__m512>(1.0f + times_power<T>(p, shifted))));
    }
#endif
    return 1.0f / (1.0f + exponential(-x));
}
