// F is the type of what products read and give: float, or bfloat16 where it is compiled with -DROUNDED. All
// else is float.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

using i64 = std::int64_t;

template <typename To, typename From>
inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float wide(float x) { return x; }
inline void put(float& to, float x) { to = x; }

#ifdef ROUNDED
struct F {
    std::uint16_t bits;
};
inline float wide(F x) { return bits_of<float>(static_cast<std::uint32_t>(x.bits) << 16); }
// To the nearest, in a tie to the even one; what is not a number stays so.
inline void put(F& to, float x) {
    auto bits = bits_of<std::uint32_t>(x);
    to.bits = static_cast<std::uint16_t>(x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else
using F = float;
#endif

inline void widen(const F* from, float* to, i64 size) {
#pragma omp simd
    for (i64 i = 0; i < size; ++i) to[i] = wide(from[i]);
}

// e^x to 1e-7 of itself: a power of two, and a polynomial (Cephes' expf) for what is left.
inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float n = std::nearbyint(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * bits_of<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(n) + 127) << 23);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
