// F is the type of what products read and give: float, or bfloat16 where it is compiled with -DROUNDED. All else
// is float.

#pragma once

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
inline void put(F& to, float x) { to = x; }
#endif
