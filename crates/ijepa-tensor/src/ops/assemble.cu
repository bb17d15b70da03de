// The predictor's input: context tokens, then one mask token at the position of each target patch; see assemble.rs.
#include "device.cuh"

template <int N>
DEVICE void context_row(bf16* y, const bf16* z, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N];
        Lanes<N>::load(value, z + column);
        Lanes<N>::store(y + column, value);
    }
}

template <int N>
DEVICE void mask_row(bf16* y, const float* mask, const float* position, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], shift[N];
        load_floats(value, mask + column);
        load_floats(shift, position + column);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] += shift[i];
        Lanes<N>::store(y + column, value);
    }
}

// y (m·b·(c+t), d) =; z (b·c, d), mask (d), table (n, d), targets (m, b, t). A warp a row.
KERNEL assemble_forward(bf16* y, const bf16* z, const float* mask, const float* table, const u32* targets, int rows, int batch,
                        int context, int target, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    const int sequence = row / (context + target), token = row % (context + target);
    bf16* to = y + static_cast<size_t>(row) * width;
    if (token < context) {
        const bf16* from = z + (static_cast<size_t>(sequence % batch) * context + token) * width;
        if (packed(width)) {
            context_row<8>(to, from, width);
        } else {
            context_row<1>(to, from, width);
        }
        return;
    }
    const u32 patch = targets[static_cast<size_t>(sequence) * target + token - context];
    const float* position = table + static_cast<size_t>(patch) * width;
    if (packed(width)) {
        mask_row<8>(to, mask, position, width);
    } else {
        mask_row<1>(to, mask, position, width);
    }
}

template <int N>
DEVICE void add_blocks(bf16* dz, int accumulate, const bf16* dy, int blocks, size_t stride, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float sum[N], value[N];
        fill(sum, 0.0f);
        if (accumulate) Lanes<N>::load(sum, dz + column);
        for (int block = 0; block < blocks; block++) {
            Lanes<N>::load(value, dy + block * stride + column);
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] += value[i];
        }
        Lanes<N>::store(dz + column, sum);
    }
}

// dz (b·c, d) = or += the sum of dy over blocks. A warp a row of dz. (The mask token's gradient is column_parts over the
// others of dy's rows.)
KERNEL assemble_backward_context(bf16* dz, const bf16* dy, int accumulate, int blocks, int batch, int context, int target,
                                 int width) {
    const int row = warp_row();
    if (row >= batch * context) return;
    const int tokens = context + target;
    bf16* to = dz + static_cast<size_t>(row) * width;
    const bf16* from = dy + (static_cast<size_t>(row / context) * tokens + row % context) * width;
    const size_t stride = static_cast<size_t>(batch) * tokens * width;
    if (packed(width)) {
        add_blocks<8>(to, accumulate, from, blocks, stride, width);
    } else {
        add_blocks<1>(to, accumulate, from, blocks, stride, width);
    }
}
