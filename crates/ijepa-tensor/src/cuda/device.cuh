// What every kernel is written in: bf16 as 16 bits, vector loads, sums over a warp and a block, products of small tiles.
//
// Activations are bf16 and are rounded to nearest even where they are stored. Parameters, statistics, losses and gradients of
// parameters are f32. No kernel uses atomics: the order of every sum is decided by the shape alone, so results repeat to the bit.
// Shared memory is always dynamic, and its size is part of the launch (`launch.rs`). NVRTC compiles this text without any header.
#pragma once

#ifdef IJEPA_SHIM
#include "shim.h"
#else
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type* name = reinterpret_cast<type*>(name##_bytes)
#endif

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__

const int WARP = 32;
const u32 ALL_LANES = 0xffffffffu;

// The upper half of an f32.
struct bf16 {
    unsigned short bits;
};

DEVICE float widen(bf16 value) { return __uint_as_float(static_cast<u32>(value.bits) << 16); }

// Two values as they lie in memory, `low` first, each rounded to nearest even.
DEVICE u32 narrow_pair(float low, float high) {
#ifdef IJEPA_SHIM
    return shim_narrow(low) | shim_narrow(high) << 16;
#else
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

DEVICE bf16 narrow(float value) {
    bf16 result;
    result.bits = static_cast<unsigned short>(narrow_pair(value, 0.0f) & 0xffffu);
    return result;
}

DEVICE float low_half(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_half(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// 2^x, off by two units in the last place at most, and 0 where that is below 2^-126: one instruction where exp2f needs four.
DEVICE float power_of_two(float x) {
#ifdef IJEPA_SHIM
    return x < -126.0f ? 0.0f : exp2f(x);
#else
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}

// N values at a time: 8 where rows begin at multiples of 16 bytes, else 1.
template <int N>
struct Lanes;

template <>
struct Lanes<8> {
    DEVICE void load(float (&value)[8], const bf16* from) {
        const uint4 packed = *reinterpret_cast<const uint4*>(from);
        const u32 pair[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            value[2 * i] = low_half(pair[i]);
            value[2 * i + 1] = high_half(pair[i]);
        }
    }

    DEVICE void store(bf16* to, const float (&value)[8]) {
        uint4 packed;
        packed.x = narrow_pair(value[0], value[1]);
        packed.y = narrow_pair(value[2], value[3]);
        packed.z = narrow_pair(value[4], value[5]);
        packed.w = narrow_pair(value[6], value[7]);
        *reinterpret_cast<uint4*>(to) = packed;
    }
};

template <>
struct Lanes<1> {
    DEVICE void load(float (&value)[1], const bf16* from) { value[0] = widen(*from); }
    DEVICE void store(bf16* to, const float (&value)[1]) { *to = narrow(value[0]); }
};

// Whether rows of this width begin at multiples of 16 bytes.
DEVICE bool packed(int width) { return width % 8 == 0; }

// f32 parameters beside N values of a row; eight begin at a multiple of 16 bytes, as parameters and rows of tables do.
DEVICE void load_floats(float (&value)[8], const float* from) {
    const uint4* halves = reinterpret_cast<const uint4*>(from);
    const uint4 low = halves[0], high = halves[1];
    value[0] = __uint_as_float(low.x);
    value[1] = __uint_as_float(low.y);
    value[2] = __uint_as_float(low.z);
    value[3] = __uint_as_float(low.w);
    value[4] = __uint_as_float(high.x);
    value[5] = __uint_as_float(high.y);
    value[6] = __uint_as_float(high.z);
    value[7] = __uint_as_float(high.w);
}

template <int N>
DEVICE void load_floats(float (&value)[N], const float* from) {
#pragma unroll
    for (int i = 0; i < N; i++) value[i] = from[i];
}

// The way back.
DEVICE void store_floats(float* to, const float (&value)[8]) {
    u32 bits[8];
#pragma unroll
    for (int i = 0; i < 8; i++) bits[i] = __float_as_uint(value[i]);
    uint4* const halves = reinterpret_cast<uint4*>(to);
    halves[0] = {bits[0], bits[1], bits[2], bits[3]};
    halves[1] = {bits[4], bits[5], bits[6], bits[7]};
}

template <int N>
DEVICE void store_floats(float* to, const float (&value)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = value[i];
}

template <int N>
DEVICE void fill(float (&value)[N], float with) {
#pragma unroll
    for (int i = 0; i < N; i++) value[i] = with;
}

DEVICE int lane() { return threadIdx.x % WARP; }
DEVICE int warp() { return threadIdx.x / WARP; }

// The row of this warp, where each warp has one.
DEVICE int warp_row() { return static_cast<int>(blockIdx.x * (blockDim.x / WARP)) + warp(); }

DEVICE float warp_sum(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

DEVICE float warp_max(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// The sum over the block, for every thread. `scratch` has a place for each warp; it is free again after the next barrier.
DEVICE double block_sum(double value, double* scratch) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    if (lane() == 0) scratch[warp()] = value;
    __syncthreads();
    double total = 0.0;
    for (int i = 0; i < static_cast<int>(blockDim.x / WARP); i++) total += scratch[i];
    return total;
}

// The rows that are summed: all of them in one run, or in each sequence those after the first `skip`.
struct Rows {
    int run;
    int skip;
};

DEVICE size_t row_number(Rows rows, int row) {
    return static_cast<size_t>(row / rows.run) * (rows.run + rows.skip) + rows.skip + row % rows.run;
}

const int COLUMN_WARPS = 8;

// sum[0..N] = sum over the rows first..last of N columns from `column` on; called by COLUMN_WARPS warps, valid in warp 0.
// Each warp takes every eighth row, and warp 0 adds their sums in order. `scratch` has COLUMN_WARPS * WARP * N places.
template <int N>
DEVICE void sum_columns(float (&sum)[N], float* scratch, const bf16* x, Rows rows, int first, int last, int width, int column) {
    fill(sum, 0.0f);
    if (column < width) {
        for (int row = first + warp(); row < last; row += COLUMN_WARPS) {
            float value[N];
            Lanes<N>::load(value, x + row_number(rows, row) * width + column);
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] += value[i];
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++) scratch[(warp() * N + i) * WARP + lane()] = sum[i];
    __syncthreads();
    if (warp() == 0) {
        for (int other = 1; other < COLUMN_WARPS; other++) {
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] += scratch[(other * N + i) * WARP + lane()];
        }
    }
}
