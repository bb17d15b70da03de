// Layer norm of rows; see layer_norm.rs for the maths.
#include "device.cuh"

// A row is read three times, the second and third time from the first-level cache.
template <int N>
DEVICE void forward_row(bf16* y, float* stats, const bf16* x, const float* weight, const float* bias, int row, int width,
                        float eps) {
    const size_t begin = static_cast<size_t>(row) * width;
    float total = 0.0f;
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N];
        Lanes<N>::load(value, x + begin + column);
#pragma unroll
        for (int i = 0; i < N; i++) total += value[i];
    }
    const float mean = warp_sum(total) / width;
    float squares = 0.0f;
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N];
        Lanes<N>::load(value, x + begin + column);
#pragma unroll
        for (int i = 0; i < N; i++) squares += (value[i] - mean) * (value[i] - mean);
    }
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / width + eps);
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], scale[N], shift[N];
        Lanes<N>::load(value, x + begin + column);
        fill(scale, 1.0f);
        fill(shift, 0.0f);
        if (weight != nullptr) load_floats(scale, weight + column);
        if (bias != nullptr) load_floats(shift, bias + column);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] = (value[i] - mean) * rstd * scale[i] + shift[i];
        Lanes<N>::store(y + begin + column, value);
    }
    if (lane() == 0) {
        stats[2 * row] = mean;
        stats[2 * row + 1] = rstd;
    }
}

// y (rows, width) = layer norm of x, stats (rows, 2) = mean and rstd; weight and bias (width), or null.
// A warp a row.
KERNEL layer_norm_forward(bf16* y, float* stats, const bf16* x, const float* weight, const float* bias, int rows, int width,
                          float eps) {
    const int row = warp_row();
    if (row >= rows) return;
    if (packed(width)) {
        forward_row<8>(y, stats, x, weight, bias, row, width, eps);
    } else {
        forward_row<1>(y, stats, x, weight, bias, row, width, eps);
    }
}

// Two sums over the block. Scratch alternates between two halves, so that one barrier a row is enough: who writes a half
// again has passed the barrier after which all had read it.
DEVICE void block_sums(float& a, float& b, float* scratch) {
    a = warp_sum(a);
    b = warp_sum(b);
    const int warps = blockDim.x / WARP;
    if (lane() == 0) {
        scratch[warp()] = a;
        scratch[warps + warp()] = b;
    }
    __syncthreads();
    a = 0.0f;
    b = 0.0f;
    for (int i = 0; i < warps; i++) {
        a += scratch[i];
        b += scratch[warps + i];
    }
}

template <int N>
DEVICE void backward_rows(bf16* dx, int accumulate, float* parts, const bf16* dy, const bf16* x, const float* stats,
                          const float* weight, int rows, int width, int stripe, float* scratch) {
    const int column = threadIdx.x * N;
    const bool inside = column < width;
    const int half = 2 * static_cast<int>(blockDim.x / WARP);
    float scale[N], dweight[N], dbias[N];
    fill(scale, 1.0f);
    fill(dweight, 0.0f);
    fill(dbias, 0.0f);
    if (inside && weight != nullptr) load_floats(scale, weight + column);
    const int first = blockIdx.x * stripe;
    const int last = min(first + stripe, rows);
    for (int row = first; row < last; row++) {
        const size_t at = static_cast<size_t>(row) * width + column;
        const float mean = stats[2 * row], rstd = stats[2 * row + 1];
        float g[N], normal[N];
        float g_mean = 0.0f, gx_mean = 0.0f;
        if (inside) {
            Lanes<N>::load(g, dy + at);
            Lanes<N>::load(normal, x + at);
#pragma unroll
            for (int i = 0; i < N; i++) {
                normal[i] = (normal[i] - mean) * rstd;
                dweight[i] += g[i] * normal[i];
                dbias[i] += g[i];
                g[i] *= scale[i];
                g_mean += g[i];
                gx_mean += g[i] * normal[i];
            }
        }
        block_sums(g_mean, gx_mean, scratch + (row - first) % 2 * half);
        g_mean /= width;
        gx_mean /= width;
        if (inside) {
            float old[N];
            fill(old, 0.0f);
            if (accumulate) Lanes<N>::load(old, dx + at);
#pragma unroll
            for (int i = 0; i < N; i++) old[i] += rstd * (g[i] - g_mean - normal[i] * gx_mean);
            Lanes<N>::store(dx + at, old);
        }
    }
    if (inside) {
        float* part = parts + static_cast<size_t>(blockIdx.x) * 2 * width + column;
        store_floats(part, dweight);
        store_floats(part + width, dbias);
    }
}

// Threads of a block that goes over rows back (`NORM_WARPS` of calls.rs): each has the registers that it needs.
const int MOST_THREADS = 24 * WARP;

// dx (rows, width) = or += (the gradient that passes by the norm); parts (blocks, 2, width) = each block's sums over its
// `stripe` rows of dy·x̂ and dy, for add_parts. A thread has one column, or 8 where the width is a multiple of 8.
KERNEL __launch_bounds__(MOST_THREADS)
    layer_norm_backward(bf16* dx, float* parts, const bf16* dy, const bf16* x, const float* stats, const float* weight, int accumulate,
                        int rows, int width, int stripe) {
    DYNAMIC_SHARED(float, scratch);
    if (packed(width)) {
        backward_rows<8>(dx, accumulate, parts, dy, x, stats, weight, rows, width, stripe, scratch);
    } else {
        backward_rows<1>(dx, accumulate, parts, dy, x, stats, weight, rows, width, stripe, scratch);
    }
}
