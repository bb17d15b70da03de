// GELU in its exact form; see gelu.rs for the maths.
#include "device.cuh"

DEVICE float cumulative(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

template <int N>
DEVICE void forward_row(bf16* y, const bf16* x, int row, int width) {
    const size_t begin = static_cast<size_t>(row) * width;
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N];
        Lanes<N>::load(value, x + begin + column);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] *= cumulative(value[i]);
        Lanes<N>::store(y + begin + column, value);
    }
}

// y (rows, width) = gelu(x). A warp a row.
KERNEL gelu_forward(bf16* y, const bf16* x, int rows, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    if (packed(width)) {
        forward_row<8>(y, x, row, width);
    } else {
        forward_row<1>(y, x, row, width);
    }
}

template <int N>
DEVICE void backward_row(bf16* dx, bf16* y, const bf16* dy, const bf16* x, int row, int width) {
    const size_t begin = static_cast<size_t>(row) * width;
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], gradient[N];
        Lanes<N>::load(value, x + begin + column);
        Lanes<N>::load(gradient, dy + begin + column);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float below = cumulative(value[i]);
            const float density = 0.3989423f * expf(-0.5f * value[i] * value[i]);
            gradient[i] *= below + value[i] * density;
            value[i] *= below;
        }
        Lanes<N>::store(dx + begin + column, gradient);
        Lanes<N>::store(y + begin + column, value);
    }
}

// dx (rows, width) = dy·gelu′(x), and y = gelu(x), which the gradient of the weights needs next.
// dx may be dy, and y may be x. A warp a row.
KERNEL gelu_backward(bf16* dx, bf16* y, const bf16* dy, const bf16* x, int rows, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    if (packed(width)) {
        backward_row<8>(dx, y, dy, x, row, width);
    } else {
        backward_row<1>(dx, y, dy, x, row, width);
    }
}
