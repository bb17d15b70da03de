// Average over the tokens of each sequence.
#include "device.cuh"

template <int N>
DEVICE void mean_of_columns(bf16* y, const bf16* x, int tokens, int width, float* scratch) {
    const int column = (blockIdx.x * WARP + lane()) * N;
    const Rows rows = {tokens, 0};
    const int first = blockIdx.y * tokens;
    float sum[N];
    sum_columns(sum, scratch, x, rows, first, first + tokens, width, column);
    if (warp() == 0 && column < width) {
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] /= tokens;
        Lanes<N>::store(y + static_cast<size_t>(blockIdx.y) * width + column, sum);
    }
}

// y (b, width) = the mean of x (b, n, width) over n. Blocks are (columns, sequences) of COLUMN_WARPS warps.
KERNEL mean_tokens_forward(bf16* y, const bf16* x, int tokens, int width) {
    DYNAMIC_SHARED(float, scratch);
    if (packed(width)) {
        mean_of_columns<8>(y, x, tokens, width, scratch);
    } else {
        mean_of_columns<1>(y, x, tokens, width, scratch);
    }
}

template <int N>
DEVICE void spread_row(bf16* dx, int accumulate, const bf16* dy, int tokens, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], old[N];
        Lanes<N>::load(value, dy + column);
        fill(old, 0.0f);
        if (accumulate) Lanes<N>::load(old, dx + column);
#pragma unroll
        for (int i = 0; i < N; i++) old[i] += value[i] / tokens;
        Lanes<N>::store(dx + column, old);
    }
}

// dx (rows, width) = or += dy (rows / n, width) / n. A warp a row of dx.
KERNEL mean_tokens_backward(bf16* dx, const bf16* dy, int accumulate, int rows, int tokens, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    bf16* to = dx + static_cast<size_t>(row) * width;
    const bf16* from = dy + static_cast<size_t>(row / tokens) * width;
    if (packed(width)) {
        spread_row<8>(to, accumulate, from, tokens, width);
    } else {
        spread_row<1>(to, accumulate, from, tokens, width);
    }
}
