// Operations of PTX that are functions of up to four operands, by their words.
#pragma once
#include "shim.h"

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

namespace {

typedef u64 (*Compute)(u64, u64, u64, u64);

// Bits of a register as a value, and the way back.
template <class T>
T as(u64 bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T>
u64 bits_of(T value) {
    u64 bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}


template <class T>
Compute integer(const std::string& name) {
    typedef std::make_unsigned_t<T> Bits;
    if (name == "add") return [](u64 a, u64 b, u64, u64) { return bits_of<Bits>(static_cast<Bits>(a) + static_cast<Bits>(b)); };
    if (name == "sub") return [](u64 a, u64 b, u64, u64) { return bits_of<Bits>(static_cast<Bits>(a) - static_cast<Bits>(b)); };
    if (name == "mul.lo") return [](u64 a, u64 b, u64, u64) { return bits_of<Bits>(static_cast<Bits>(a) * static_cast<Bits>(b)); };
    if (name == "mad.lo") return [](u64 a, u64 b, u64 c, u64) { return bits_of<Bits>(static_cast<Bits>(a) * static_cast<Bits>(b) + static_cast<Bits>(c)); };
    if (name == "mul.hi") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(static_cast<T>(static_cast<__int128>(as<T>(a)) * as<T>(b) >> 8 * sizeof(T))); };
    if (name == "mul.wide") return [](u64 a, u64 b, u64, u64) { return static_cast<u64>(static_cast<__int128>(as<T>(a)) * as<T>(b)); };
    if (name == "div") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(as<T>(a) / as<T>(b)); };
    if (name == "rem") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(as<T>(a) % as<T>(b)); };
    if (name == "min") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(as<T>(a) < as<T>(b) ? as<T>(a) : as<T>(b)); };
    if (name == "max") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(as<T>(a) > as<T>(b) ? as<T>(a) : as<T>(b)); };
    if (name == "neg") return [](u64 a, u64, u64, u64) { return bits_of<Bits>(0 - static_cast<Bits>(a)); };
    if (name == "shr") return [](u64 a, u64 b, u64, u64) {
        const u32 most = 8 * sizeof(T), by = static_cast<u32>(b) < most ? static_cast<u32>(b) : most;
        return by == most ? bits_of<T>(as<T>(a) < T(0) ? T(-1) : T(0)) : bits_of<T>(static_cast<T>(as<T>(a) >> by));
    };
    return nullptr;
}

template <class Bits>
Compute bitwise(const std::string& name) {
    if (name == "and") return [](u64 a, u64 b, u64, u64) { return bits_of<Bits>(static_cast<Bits>(a & b)); };
    if (name == "or") return [](u64 a, u64 b, u64, u64) { return bits_of<Bits>(static_cast<Bits>(a | b)); };
    if (name == "not") return [](u64 a, u64, u64, u64) { return bits_of<Bits>(static_cast<Bits>(~a)); };
    if (name == "shl") return [](u64 a, u64 b, u64, u64) { return static_cast<u32>(b) < 8 * sizeof(Bits) ? bits_of<Bits>(static_cast<Bits>(a << static_cast<u32>(b))) : 0; };
    return nullptr;
}

// Rounded towards minus infinity: the product is exact in f64, and so is the sum for what the exponential function does with it.
float fma_down(float a, float b, float c) {
    const double exact = static_cast<double>(a) * b + c;
    const float near = static_cast<float>(exact);
    return static_cast<double>(near) > exact ? nextafterf(near, -INFINITY) : near;
}

template <class T>
Compute floating(const std::string& name) {
    if (name == "add") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(as<T>(a) + as<T>(b)); };
    if (name == "sub") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(as<T>(a) - as<T>(b)); };
    if (name == "mul") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(as<T>(a) * as<T>(b)); };
    if (name == "div.rn") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(as<T>(a) / as<T>(b)); };
    if (name == "fma.rn") return [](u64 a, u64 b, u64 c, u64) { return bits_of<T>(std::fma(as<T>(a), as<T>(b), as<T>(c))); };
    if (name == "fma.rm") return [](u64 a, u64 b, u64 c, u64) { return bits_of<float>(fma_down(as<float>(a), as<float>(b), as<float>(c))); };
    if (name == "min") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(std::fmin(as<T>(a), as<T>(b))); };
    if (name == "max") return [](u64 a, u64 b, u64, u64) { return bits_of<T>(std::fmax(as<T>(a), as<T>(b))); };
    if (name == "abs") return [](u64 a, u64, u64, u64) { return bits_of<T>(std::fabs(as<T>(a))); };
    if (name == "neg") return [](u64 a, u64, u64, u64) { return bits_of<T>(-as<T>(a)); };
    if (name == "rcp.rn") return [](u64 a, u64, u64, u64) { return bits_of<T>(T(1) / as<T>(a)); };
    if (name == "sqrt.rn") return [](u64 a, u64, u64, u64) { return bits_of<T>(std::sqrt(as<T>(a))); };
    if (name == "ex2.approx") return [](u64 a, u64, u64, u64) { return bits_of<T>(std::exp2(as<T>(a))); };
    if (name == "ex2.approx.ftz") return [](u64 a, u64, u64, u64) { return bits_of<T>(as<T>(a) < T(-126) ? T(0) : std::exp2(as<T>(a))); };
    return nullptr;
}

template <class T>
Compute compared(const std::string& how) {
    if (how == "eq") return [](u64 a, u64 b, u64, u64) -> u64 { return as<T>(a) == as<T>(b); };
    if (how == "ne") return [](u64 a, u64 b, u64, u64) -> u64 { return as<T>(a) != as<T>(b) && as<T>(a) == as<T>(a) && as<T>(b) == as<T>(b); };
    if (how == "lt") return [](u64 a, u64 b, u64, u64) -> u64 { return as<T>(a) < as<T>(b); };
    if (how == "le") return [](u64 a, u64 b, u64, u64) -> u64 { return as<T>(a) <= as<T>(b); };
    if (how == "gt") return [](u64 a, u64 b, u64, u64) -> u64 { return as<T>(a) > as<T>(b); };
    if (how == "ge") return [](u64 a, u64 b, u64, u64) -> u64 { return as<T>(a) >= as<T>(b); };
    if (how == "ltu") return [](u64 a, u64 b, u64, u64) -> u64 { return !(as<T>(a) >= as<T>(b)); };
    if (how == "gtu") return [](u64 a, u64 b, u64, u64) -> u64 { return !(as<T>(a) <= as<T>(b)); };
    return nullptr;
}

// What `made` makes for the type of these letters.
template <class Make>
Compute with_type(const std::string& type, Make made) {
    if (type == "s32") return made(int());
    if (type == "u32") return made(u32());
    if (type == "s64") return made(0ll);
    if (type == "u64") return made(u64());
    if (type == "f32") return made(0.0f);
    if (type == "f64") return made(0.0);
    return nullptr;
}

Compute compared_by(const std::string& how, const std::string& type) {
    return with_type(type, [&](auto zero) { return compared<decltype(zero)>(how); });
}

Compute arithmetic(const std::string& name, const std::string& type) {
    return with_type(type, [&](auto zero) -> Compute {
        if constexpr (std::is_integral_v<decltype(zero)>) return integer<decltype(zero)>(name);
        else return floating<decltype(zero)>(name);
    });
}

// So many of the lowest bits of the first operand, put into the second.
u64 inserted(u64 a, u64 b, u64 first, u64 count) {
    const u32 mask = (static_cast<u32>(count) >= 32 ? ~0u : (1u << count) - 1) << first;
    return (static_cast<u32>(b) & ~mask) | (static_cast<u32>(a) << first & mask);
}

// cvt, by what stands behind the word.
Compute converted(const std::string& how) {
    if (how == "s64.s32") return [](u64 a, u64, u64, u64) { return bits_of<long long>(as<int>(a)); };
    if (how == "u64.u32" || how == "u32.u64") return [](u64 a, u64, u64, u64) -> u64 { return as<u32>(a); };
    if (how == "u32.u16") return [](u64 a, u64, u64, u64) -> u64 { return as<unsigned short>(a); };
    if (how == "rn.f32.s32") return [](u64 a, u64, u64, u64) { return bits_of<float>(static_cast<float>(as<int>(a))); };
    if (how == "rn.f64.s32") return [](u64 a, u64, u64, u64) { return bits_of<double>(as<int>(a)); };
    if (how == "f64.f32") return [](u64 a, u64, u64, u64) { return bits_of<double>(as<float>(a)); };
    if (how == "rn.f32.f64") return [](u64 a, u64, u64, u64) { return bits_of<float>(static_cast<float>(as<double>(a))); };
    if (how == "sat.f32.f32") return [](u64 a, u64, u64, u64) { return bits_of<float>(as<float>(a) > 0.0f ? fminf(as<float>(a), 1.0f) : 0.0f); };
    // The first operand becomes the upper half.
    if (how == "rn.bf16x2.f32") return [](u64 a, u64 b, u64, u64) -> u64 { return shim_narrow(as<float>(a)) << 16 | shim_narrow(as<float>(b)); };
    return nullptr;
}

std::string joined(const std::vector<std::string>& words, size_t first, size_t last) {
    std::string all;
    for (size_t i = first; i < last; i++) all += (i > first ? "." : "") + words[i];
    return all;
}

Compute function_of(const std::vector<std::string>& words) {
    const std::string &name = words[0], &type = words.back();
    const std::string whole = joined(words, 0, words.size() - 1);
    if (name == "mov" || (name == "cvta" && whole == "cvta.to.global")) return [](u64 a, u64, u64, u64) { return a; };
    if (name == "cvt") return converted(joined(words, 1, words.size()));
    if (name == "selp") return [](u64 a, u64 b, u64 p, u64) { return p != 0 ? a : b; };
    if (name == "setp") return words.size() == 3 ? compared_by(words[1], type) : nullptr;
    if (name == "bfi") return inserted;
    if (type == "pred") {
        if (name == "and") return [](u64 a, u64 b, u64, u64) -> u64 { return a & b; };
        if (name == "or") return [](u64 a, u64 b, u64, u64) -> u64 { return a | b; };
        if (name == "not") return [](u64 a, u64, u64, u64) -> u64 { return a ^ 1; };
        return nullptr;
    }
    if (type == "b16") return bitwise<unsigned short>(name);
    if (type == "b32") return bitwise<u32>(name);
    if (type == "b64") return bitwise<u64>(name);
    return arithmetic(whole, type);
}

}  // namespace
