// Cross-entropy of class scores against distributions over the classes; see cross_entropy.rs for the maths.
#include "device.cuh"

// log of the sum of e^score over the row, for every lane.
template <int N>
DEVICE float log_sum(const bf16* scores, int classes) {
    float largest = __uint_as_float(0xff800000u);  // −∞
    for (int column = lane() * N; column < classes; column += WARP * N) {
        float value[N];
        Lanes<N>::load(value, scores + column);
#pragma unroll
        for (int i = 0; i < N; i++) largest = fmaxf(largest, value[i]);
    }
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int column = lane() * N; column < classes; column += WARP * N) {
        float value[N];
        Lanes<N>::load(value, scores + column);
#pragma unroll
        for (int i = 0; i < N; i++) sum += expf(value[i] - largest);
    }
    return largest + logf(warp_sum(sum));
}

template <int N>
DEVICE float row_loss(const bf16* scores, const float* targets, int classes) {
    const float log_total = log_sum<N>(scores, classes);
    float loss = 0.0f;
    for (int column = lane() * N; column < classes; column += WARP * N) {
        float value[N], aim[N];
        Lanes<N>::load(value, scores + column);
        load_floats(aim, targets + column);
#pragma unroll
        for (int i = 0; i < N; i++) loss += aim[i] * (log_total - value[i]);
    }
    return warp_sum(loss);
}

// losses (rows) = each row's loss; the loss is their sum (sum_values). scores and targets (rows, classes). A warp a row.
KERNEL cross_entropy_forward(float* losses, const bf16* scores, const float* targets, int rows, int classes) {
    const int row = warp_row();
    if (row >= rows) return;
    const size_t begin = static_cast<size_t>(row) * classes;
    const float loss = packed(classes) ? row_loss<8>(scores + begin, targets + begin, classes)
                                       : row_loss<1>(scores + begin, targets + begin, classes);
    if (lane() == 0) losses[row] = loss;
}

template <int N>
DEVICE void gradient_row(bf16* dscores, float scale, const bf16* scores, const float* targets, int classes) {
    const float log_total = log_sum<N>(scores, classes);
    float weight = 0.0f;
    for (int column = lane() * N; column < classes; column += WARP * N) {
        float aim[N];
        load_floats(aim, targets + column);
#pragma unroll
        for (int i = 0; i < N; i++) weight += aim[i];
    }
    weight = warp_sum(weight);
    for (int column = lane() * N; column < classes; column += WARP * N) {
        float value[N], aim[N];
        Lanes<N>::load(value, scores + column);
        load_floats(aim, targets + column);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] = (expf(value[i] - log_total) * weight - aim[i]) * scale;
        Lanes<N>::store(dscores + column, value);
    }
}

// dscores (rows, classes) =; dloss (1). A warp a row.
KERNEL cross_entropy_backward(bf16* dscores, const float* dloss, const bf16* scores, const float* targets, int rows,
                              int classes) {
    const int row = warp_row();
    if (row >= rows) return;
    const size_t begin = static_cast<size_t>(row) * classes;
    if (packed(classes)) {
        gradient_row<8>(dscores + begin, *dloss, scores + begin, targets + begin, classes);
    } else {
        gradient_row<1>(dscores + begin, *dloss, scores + begin, targets + begin, classes);
    }
}
