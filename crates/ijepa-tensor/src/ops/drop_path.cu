// Stochastic depth: a residual branch with a scale for each sequence.
#include "device.cuh"

template <int N>
DEVICE void scaled_row(bf16* y, const bf16* x, const bf16* branch, float scale, size_t begin, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float sum[N], value[N];
        fill(sum, 0.0f);
        if (x != nullptr) Lanes<N>::load(sum, x + begin + column);
        Lanes<N>::load(value, branch + begin + column);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += scale * value[i];
        Lanes<N>::store(y + begin + column, sum);
    }
}

// y (rows, width) = x + scale·branch, scales (rows / tokens); without x, scale·branch, which is the way back. A warp a row.
KERNEL drop_path(bf16* y, const bf16* x, const bf16* branch, const float* scales, int rows, int tokens, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    const size_t begin = static_cast<size_t>(row) * width;
    if (packed(width)) {
        scaled_row<8>(y, x, branch, scales[row / tokens], begin, width);
    } else {
        scaled_row<1>(y, x, branch, scales[row / tokens], begin, width);
    }
}
