// Smooth L1 loss; see smooth_l1.rs for the maths.
#include "device.cuh"

template <int N>
DEVICE float row_loss(const bf16* prediction, const bf16* target, int width) {
    float loss = 0.0f;
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], aim[N];
        Lanes<N>::load(value, prediction + column);
        Lanes<N>::load(aim, target + column);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float error = fabsf(value[i] - aim[i]);
            loss += error < 1.0f ? 0.5f * error * error : error - 0.5f;
        }
    }
    return warp_sum(loss);
}

// losses (rows) = the sum of each row's losses; prediction and target (rows, width). The loss is the sum of `losses` over rows·width
// (sum_values). A warp a row.
KERNEL smooth_l1_forward(float* losses, const bf16* prediction, const bf16* target, int rows, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    const size_t begin = static_cast<size_t>(row) * width;
    const float loss = packed(width) ? row_loss<8>(prediction + begin, target + begin, width)
                                     : row_loss<1>(prediction + begin, target + begin, width);
    if (lane() == 0) losses[row] = loss;
}

template <int N>
DEVICE void gradient_row(bf16* dprediction, float scale, const bf16* prediction, const bf16* target, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], aim[N];
        Lanes<N>::load(value, prediction + column);
        Lanes<N>::load(aim, target + column);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] = scale * fminf(fmaxf(value[i] - aim[i], -1.0f), 1.0f);
        Lanes<N>::store(dprediction + column, value);
    }
}

// dprediction (rows, width) = dloss·clamp(prediction − target, −1, 1) / (rows·width); dloss (1). A warp a row.
KERNEL smooth_l1_backward(bf16* dprediction, const float* dloss, const bf16* prediction, const bf16* target, int rows,
                          int width) {
    const int row = warp_row();
    if (row >= rows) return;
    const size_t begin = static_cast<size_t>(row) * width;
    const float scale = *dloss / (static_cast<float>(rows) * static_cast<float>(width));
    if (packed(width)) {
        gradient_row<8>(dprediction + begin, scale, prediction + begin, target + begin, width);
    } else {
        gradient_row<1>(dprediction + begin, scale, prediction + begin, target + begin, width);
    }
}
