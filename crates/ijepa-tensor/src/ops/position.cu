// Fixed positions added to rows.
#include "device.cuh"

template <int N>
DEVICE void add_position(bf16* y, const bf16* x, const float* position, int width) {
    for (int column = lane() * N; column < width; column += WARP * N) {
        float value[N], shift[N];
        Lanes<N>::load(value, x + column);
        load_floats(shift, position + column);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] += shift[i];
        Lanes<N>::store(y + column, value);
    }
}

// y (rows, width) = x + table[index]. A warp a row.
KERNEL position_forward(bf16* y, const bf16* x, const float* table, const u32* index, int rows, int width) {
    const int row = warp_row();
    if (row >= rows) return;
    const size_t begin = static_cast<size_t>(row) * width;
    const float* position = table + static_cast<size_t>(index[row]) * width;
    if (packed(width)) {
        add_position<8>(y + begin, x + begin, position, width);
    } else {
        add_position<1>(y + begin, x + begin, position, width);
    }
}
