// Products of small tiles of bf16 in shared memory, by a warp: m16n8k16 of the tensor cores, sums in f32.
//
// Lane l holds, with g = l / 4 and q = l % 4:
// of A (16, 16): rows g and g + 8, columns 2q, 2q + 1 and 8 more; of B (16, 8): rows 2q, 2q + 1 and 8 more, column g;
// of the sum (16, 8): rows g and g + 8, columns 2q and 2q + 1.
#pragma once
#include "device.cuh"

// Rows of a tile.
const int TILE = 64;
const int TILE_WARPS = TILE / 16;

// Values from row to row of a tile of E columns: 8 rows at a time lie in different banks.
template <int E>
struct Stride {
    static const int VALUE = E + 8;
};

// Values of a tile with what lies between its rows.
template <int E>
struct Size {
    static const int VALUE = TILE * Stride<E>::VALUE;
};

// sum (16, 8) += a (16, 16) · b (16, 8).
DEVICE void multiply_add(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef IJEPA_SHIM
    shim_multiply_add(sum, a, b0, b1);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four blocks (8, 8): lane 8·i + r gives where row r of block i begins; lane l gets columns 2q and 2q + 1 of row g of each.
DEVICE void load_blocks(u32 (&block)[4], const bf16* row) {
#ifdef IJEPA_SHIM
    shim_load_blocks(block, row, false);
#else
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
                 : "r"(address)
                 : "memory");
#endif
}

// The same of the transposed blocks.
DEVICE void load_blocks_transposed(u32 (&block)[4], const bf16* row) {
#ifdef IJEPA_SHIM
    shim_load_blocks(block, row, true);
#else
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
                 : "r"(address)
                 : "memory");
#endif
}

// BYTES (16 or 4) from global to shared memory, or zeros where the source is not `there`, while the program goes on: it is there after arrive().
template <int BYTES>
DEVICE void copy_later(void* to, const void* from, bool there) {
#ifdef IJEPA_SHIM
    shim_copy_later(to, from, BYTES, there);
#else
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(to)), bytes = there ? BYTES : 0;
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    }
#endif
}

// Waits until all that the threads of the block copy is there, and until each has come this far.
DEVICE void arrive() {
#ifdef IJEPA_SHIM
    shim_copies_done();
#else
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
    __syncthreads();
}

// tile (TILE, E) = `count` rows of `head` values, `stride` apart; zeros elsewhere. By the whole block, and there after arrive().
template <int E>
DEVICE void load_tile(bf16* tile, const bf16* from, int stride, int count, int head) {
    if (head % 8 == 0 && stride % 8 == 0) {
#pragma unroll
        for (int part = 0; part < E / 16; part++) {
            const int i = threadIdx.x + part * TILE_WARPS * WARP, row = i / (E / 8), column = i % (E / 8) * 8;
            const bool there = row < count && column < head;
            copy_later<16>(tile + row * Stride<E>::VALUE + column, from + (there ? row * stride + column : 0), there);
        }
        return;
    }
    for (int i = threadIdx.x; i < TILE * E; i += TILE_WARPS * WARP) {
        const int row = i / E, column = i % E;
        bf16 value = {0};
        if (row < count && column < head) value = from[static_cast<size_t>(row) * stride + column];
        tile[row * Stride<E>::VALUE + column] = value;
    }
}

// The 16 rows of this warp as left operand.
template <int E>
DEVICE void load_left(u32 (&left)[E / 16][4], const bf16* tile) {
    const bf16* row = tile + (warp() * 16 + lane() % 16) * Stride<E>::VALUE + lane() / 16 * 8;
#pragma unroll
    for (int k = 0; k < E / 16; k++) load_blocks(left[k], row + k * 16);
}

// sum (16, 16) += left (16, E) · rows first.. of the tile, transposed (E, 16).
template <int E>
DEVICE void multiply_rows(float (&sum)[2][4], const u32 (&left)[E / 16][4], const bf16* tile, int first) {
    const bf16* row = tile + (first + lane() / 16 * 8 + lane() % 8) * Stride<E>::VALUE + lane() / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < E / 16; k++) {
        u32 right[4];
        load_blocks(right, row + k * 16);
        multiply_add(sum[0], left[k], right[0], right[1]);
        multiply_add(sum[1], left[k], right[2], right[3]);
    }
}

// sum (16, E) += left (16, 16) · rows first.. of the tile (16, E).
template <int E>
DEVICE void multiply_columns(float (&sum)[E / 8][4], const u32 (&left)[4], const bf16* tile, int first) {
    const bf16* row = tile + (first + lane() % 16) * Stride<E>::VALUE + lane() / 16 * 8;
#pragma unroll
    for (int k = 0; k < E / 16; k++) {
        u32 right[4];
        load_blocks_transposed(right, row + k * 16);
        multiply_add(sum[2 * k], left, right[0], right[1]);
        multiply_add(sum[2 * k + 1], left, right[2], right[3]);
    }
}

// A sum (16, 16) as left operand of the next product, rounded.
DEVICE void as_left(u32 (&left)[4], const float (&sum)[2][4]) {
    left[0] = narrow_pair(sum[0][0], sum[0][1]);
    left[1] = narrow_pair(sum[0][2], sum[0][3]);
    left[2] = narrow_pair(sum[1][0], sum[1][1]);
    left[3] = narrow_pair(sum[1][2], sum[1][3]);
}

// Stores the rows of this warp that lie below `count`, times `factor` (of rows g and g + 8). `tile` is a place that no other warp uses the
// rows of this one of: there they are put together, so that memory gets them in one piece.
template <int E>
DEVICE void store_rows(bf16* to, int stride, int count, int head, const float (&sum)[E / 8][4], float factor0, float factor1, bf16* tile) {
    bf16* const rows = tile + warp() * 16 * Stride<E>::VALUE;
    const int own = warp() * 16;
#pragma unroll
    for (int k = 0; k < E / 8; k++) {
        u32* const pair = reinterpret_cast<u32*>(rows + lane() / 4 * Stride<E>::VALUE + k * 8 + lane() % 4 * 2);
        pair[0] = narrow_pair(sum[k][0] * factor0, sum[k][1] * factor0);
        pair[8 * Stride<E>::VALUE / 2] = narrow_pair(sum[k][2] * factor1, sum[k][3] * factor1);
    }
    __syncwarp();
    if (head % 8 == 0 && stride % 8 == 0) {
#pragma unroll
        for (int part = 0; part < E / 16; part++) {
            const int i = lane() + part * WARP, row = i / (E / 8), column = i % (E / 8) * 8;
            if (own + row < count && column < head) {
                *reinterpret_cast<uint4*>(to + static_cast<size_t>(own + row) * stride + column) =
                    *reinterpret_cast<const uint4*>(rows + row * Stride<E>::VALUE + column);
            }
        }
        return;
    }
    for (int i = lane(); i < 16 * E; i += WARP) {
        const int row = i / E, column = i % E;
        if (own + row < count && column < head) to[static_cast<size_t>(own + row) * stride + column] = rows[row * Stride<E>::VALUE + column];
    }
}
