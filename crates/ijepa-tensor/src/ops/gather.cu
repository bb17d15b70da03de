// Rows picked by number, and their adjoint.
#include "device.cuh"

template <int N>
DEVICE void copy_row(bf16* y, const bf16* x, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N];
        Lanes<N>::load(value, x + column);
        Lanes<N>::store(y + column, value);
    }
}

// y (rows, width) = x[index]. A warp a row.
KERNEL gather_forward(bf16* y, const bf16* x, const u32* index, int rows, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    bf16* to = y + static_cast<size_t>(row) * width;
    const bf16* from = x + static_cast<size_t>(index[row]) * width;
    if (packed(width)) {
        copy_row<8>(to, from, width);
    } else {
        copy_row<1>(to, from, width);
    }
}

template <int N>
DEVICE void add_rows(bf16* dx, int accumulate, const bf16* dy, const u32* order, u32 first, u32 last, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float sum[N], value[N];
        fill(sum, 0.0f);
        if (accumulate) Lanes<N>::load(sum, dx + column);
        for (u32 at = first; at < last; at++) {
            Lanes<N>::load(value, dy + static_cast<size_t>(order[at]) * width + column);
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] += value[i];
        }
        Lanes<N>::store(dx + column, sum);
    }
}

// dx (rows, width) = or += the rows of dy that were picked from it: for row r, dy[order[starts[r]..starts[r + 1]]], in this
// order. The host inverts the index, so that nothing is scattered and nothing collides. A warp a row of dx.
KERNEL gather_backward(bf16* dx, const bf16* dy, const u32* starts, const u32* order, int accumulate, int rows, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    bf16* to = dx + static_cast<size_t>(row) * width;
    if (packed(width)) {
        add_rows<8>(to, accumulate, dy, order, starts[row], starts[row + 1], width);
    } else {
        add_rows<1>(to, accumulate, dy, order, starts[row], starts[row + 1], width);
    }
}
