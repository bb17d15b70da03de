// Smooth L1 loss against targets that are layer-normed on the way, so that normed targets are never in memory.
//
// Target row of prediction row r: target[index[r]], or target[r] without an index; normed with `normalise`, else as it is.
#include "device.cuh"

template <int N>
DEVICE float row_loss(float* stats, const bf16* prediction, const bf16* target, int normalise, int width, float eps) {
    float mean = 0.0f, rstd = 1.0f;
    if (normalise) {
        float total = 0.0f, squares = 0.0f;
        for (int column = lane() * N; column < width; column += WARP * N) {
            float value[N];
            Lanes<N>::load(value, target + column);
#pragma unroll
            for (int i = 0; i < N; i++) total += value[i];
        }
        mean = warp_sum(total) / width;
        for (int column = lane() * N; column < width; column += WARP * N) {
            float value[N];
            Lanes<N>::load(value, target + column);
#pragma unroll
            for (int i = 0; i < N; i++) squares += (value[i] - mean) * (value[i] - mean);
        }
        rstd = 1.0f / sqrtf(warp_sum(squares) / width + eps);
    }
    float loss = 0.0f;
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], aim[N];
        Lanes<N>::load(value, prediction + column);
        Lanes<N>::load(aim, target + column);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float error = fabsf(value[i] - (aim[i] - mean) * rstd);
            loss += error < 1.0f ? 0.5f * error * error : error - 0.5f;
        }
    }
    if (lane() == 0) {
        stats[0] = mean;
        stats[1] = rstd;
    }
    return warp_sum(loss);
}

// losses (rows) = the sum of each row's losses, stats (rows, 2) = mean and rstd of the target row; prediction (rows, width).
// The loss is the sum of `losses` over rows·width (sum_values). A warp a row.
KERNEL smooth_l1_forward(float* losses, float* stats, const bf16* prediction, const bf16* target, const u32* index,
                         int normalise, int rows, int width, float eps) {
    const int row = warp_row();
    if (row >= rows) return;
    const bf16* from = prediction + static_cast<size_t>(row) * width;
    const bf16* aim = target + static_cast<size_t>(index != nullptr ? index[row] : row) * width;
    const float loss = packed(width) ? row_loss<8>(stats + 2 * row, from, aim, normalise, width, eps)
                                     : row_loss<1>(stats + 2 * row, from, aim, normalise, width, eps);
    if (lane() == 0) losses[row] = loss;
}

template <int N>
DEVICE void gradient_row(bf16* dprediction, float scale, float mean, float rstd, const bf16* prediction, const bf16* target,
                         int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], aim[N];
        Lanes<N>::load(value, prediction + column);
        Lanes<N>::load(aim, target + column);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float error = value[i] - (aim[i] - mean) * rstd;
            value[i] = scale * fminf(fmaxf(error, -1.0f), 1.0f);
        }
        Lanes<N>::store(dprediction + column, value);
    }
}

// dprediction (rows, width) = dloss·clamp(error, −1, 1) / (rows·width); dloss (1), stats of the forward pass. A warp a row.
KERNEL smooth_l1_backward(bf16* dprediction, const float* dloss, const float* stats, const bf16* prediction, const bf16* target,
                          const u32* index, int rows, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    const size_t begin = static_cast<size_t>(row) * width;
    const bf16* aim = target + static_cast<size_t>(index != nullptr ? index[row] : row) * width;
    const float scale = *dloss / (static_cast<float>(rows) * static_cast<float>(width));
    const float mean = stats[2 * row], rstd = stats[2 * row + 1];
    if (packed(width)) {
        gradient_row<8>(dprediction + begin, scale, mean, rstd, prediction + begin, aim, width);
    } else {
        gradient_row<1>(dprediction + begin, scale, mean, rstd, prediction + begin, aim, width);
    }
}
