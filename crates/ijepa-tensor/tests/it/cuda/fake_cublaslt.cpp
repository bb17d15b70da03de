// The functions of cuBLASLt that the program uses, on main memory: products as its documentation says, column by column, sums in f32.
// What the program must not ask for is refused.
#include "streams.h"

#include <stdlib.h>

#include "shim.h"

namespace {

const int INVALID_VALUE = 7, NOT_SUPPORTED = 15;
const int F32 = 0, BF16 = 14, COMPUTE_F32 = 68;

struct Layout {
    int type;
    u64 rows, columns;
    long long leading;
};

struct Product {
    int transposed[2];
    int epilogue;
    u64 bias;
};

struct Preference {
    u64 workspace;
    u32 reductions;
    u32 alignments[4];
};

struct Algorithm {
    u64 data[8];
};

struct Choice {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

const u64 CHOSEN = 0x1dea;
int handles;

float get(const void* values, const Layout& layout, u64 row, u64 column) {
    const u64 at = column * layout.leading + row;
    if (layout.type == F32) return static_cast<const float*>(values)[at];
    return __uint_as_float(static_cast<u32>(static_cast<const unsigned short*>(values)[at]) << 16);
}

void set(void* values, const Layout& layout, u64 row, u64 column, float value) {
    const u64 at = column * layout.leading + row;
    if (layout.type == F32) {
        static_cast<float*>(values)[at] = value;
    } else {
        static_cast<unsigned short*>(values)[at] = static_cast<unsigned short>(shim_narrow(value));
    }
}

// Rows and columns of an operand as it is multiplied, and whether they fit the result.
bool fits(const Product* product, const Layout* a, const Layout* b, const Layout* d) {
    const u64 m = product->transposed[0] ? a->columns : a->rows, k = product->transposed[0] ? a->rows : a->columns;
    const u64 n = product->transposed[1] ? b->rows : b->columns, depth = product->transposed[1] ? b->columns : b->rows;
    return a->type == BF16 && b->type == BF16 && k == depth && d->rows == m && d->columns == n;
}

void multiply(const Product& product, const void* a, const Layout& of_a, const void* b, const Layout& of_b, const void* c, void* d,
              const Layout& of_d, float alpha, float beta) {
    const unsigned short* bias = reinterpret_cast<const unsigned short*>(product.bias);
    const u64 depth = product.transposed[0] ? of_a.rows : of_a.columns;
    for (u64 column = 0; column < of_d.columns; column++) {
        for (u64 row = 0; row < of_d.rows; row++) {
            float sum = 0.0f;
            for (u64 i = 0; i < depth; i++) {
                const float left = product.transposed[0] ? get(a, of_a, i, row) : get(a, of_a, row, i);
                const float right = product.transposed[1] ? get(b, of_b, column, i) : get(b, of_b, i, column);
                sum += left * right;
            }
            sum *= alpha;
            // C is not read where its share is 0: it may hold anything.
            if (beta != 0.0f) sum += beta * get(c, of_d, row, column);
            if (product.epilogue == 4) sum += __uint_as_float(static_cast<u32>(bias[row]) << 16);
            set(d, of_d, row, column, sum);
        }
    }
}

}  // namespace

extern "C" {

int cublasLtCreate(void** handle) {
    handles++;
    *handle = &handles;
    return 0;
}
int cublasLtDestroy(void* handle) { return handle == &handles && --handles >= 0 ? 0 : INVALID_VALUE; }
const char* cublasLtGetStatusString(int code) { return code == NOT_SUPPORTED ? "not supported" : "invalid value"; }

int cublasLtMatmulDescCreate(void** product, int compute, int scale) {
    if (compute != COMPUTE_F32 || scale != F32) return NOT_SUPPORTED;
    *product = new Product{{0, 0}, 1, 0};
    return 0;
}
int cublasLtMatmulDescDestroy(void* product) {
    delete static_cast<Product*>(product);
    return 0;
}
int cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    Product* product = static_cast<Product*>(handle);
    if (bytes != (attribute == 8 ? sizeof(u64) : sizeof(int))) return INVALID_VALUE;
    switch (attribute) {
        case 3:
        case 4: memcpy(&product->transposed[attribute - 3], value, bytes); return 0;
        case 7: memcpy(&product->epilogue, value, bytes); return product->epilogue == 1 || product->epilogue == 4 ? 0 : NOT_SUPPORTED;
        case 8: memcpy(&product->bias, value, bytes); return 0;
        default: return NOT_SUPPORTED;
    }
}
int cublasLtMatrixLayoutCreate(void** layout, int type, u64 rows, u64 columns, long long leading) {
    if ((type != F32 && type != BF16) || leading < static_cast<long long>(rows)) return INVALID_VALUE;
    *layout = new Layout{type, rows, columns, leading};
    return 0;
}
int cublasLtMatrixLayoutDestroy(void* layout) {
    delete static_cast<Layout*>(layout);
    return 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) {
    *preference = new Preference{0, 7, {256, 256, 256, 256}};
    return 0;
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
    delete static_cast<Preference*>(preference);
    return 0;
}
int cublasLtMatmulPreferenceSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    Preference* preference = static_cast<Preference*>(handle);
    if (attribute == 1 && bytes == sizeof(u64)) {
        memcpy(&preference->workspace, value, bytes);
        return 0;
    }
    if (attribute == 3 && bytes == sizeof(u32)) {
        memcpy(&preference->reductions, value, bytes);
        return 0;
    }
    if (attribute < 5 || attribute > 8 || bytes != sizeof(u32)) return INVALID_VALUE;
    memcpy(&preference->alignments[attribute - 5], value, bytes);
    return 0;
}
// The choice holds for the alignments that it was asked for.
int cublasLtMatmulAlgoGetHeuristic(void* handle, void* product, void* a, void* b, void* c, void* d, void* preference, int wanted,
                                   Choice* choices, int* found) {
    *found = 0;
    if (handle != &handles || wanted != 1) return INVALID_VALUE;
    if (!fits(static_cast<Product*>(product), static_cast<Layout*>(a), static_cast<Layout*>(b), static_cast<Layout*>(d))) return INVALID_VALUE;
    if (c != d) return NOT_SUPPORTED;
    // Some versions look at the bias before they choose, and none likes a matrix of one row or column.
    const Product* described = static_cast<Product*>(product);
    if (described->epilogue == 4 && described->bias == 0) return INVALID_VALUE;
    for (const void* layout : {a, b, d}) {
        const Layout* matrix = static_cast<const Layout*>(layout);
        if (matrix->rows == 1 || matrix->columns == 1) return INVALID_VALUE;
    }
    // Parts of sums are added in f32, or there are none.
    if (static_cast<Preference*>(preference)->reductions != (static_cast<Layout*>(d)->type == BF16 ? 0u : 2u)) return INVALID_VALUE;
    const Preference* asked = static_cast<Preference*>(preference);
    choices[0] = Choice{};
    choices[0].algorithm.data[0] = CHOSEN;
    choices[0].algorithm.data[1] = asked->workspace;
    for (int i = 0; i < 4; i++) choices[0].algorithm.data[2 + i] = asked->alignments[i];
    *found = 1;
    return 0;
}
int cublasLtMatmul(void* handle, void* description, const float* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                   const float* beta, const void* c, void* c_layout, void* d, void* d_layout, const Algorithm* algorithm,
                   void* workspace, size_t workspace_bytes, void* stream) {
    const Product* product = static_cast<Product*>(description);
    const Layout *of_a = static_cast<Layout*>(a_layout), *of_b = static_cast<Layout*>(b_layout), *of_d = static_cast<Layout*>(d_layout);
    if (handle != &handles || workspace == nullptr || !fits(product, of_a, of_b, of_d)) return INVALID_VALUE;
    if (algorithm->data[0] != CHOSEN || algorithm->data[1] > workspace_bytes || c_layout != d_layout) return INVALID_VALUE;
    const void* pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (reinterpret_cast<u64>(pointers[i]) % algorithm->data[2 + i] != 0) return INVALID_VALUE;
    }
    if (product->epilogue == 4 && (product->bias == 0 || product->bias % 16 != 0 || of_d->type != BF16)) return INVALID_VALUE;
    // What describes the product is the caller's, and gone when it is computed.
    const auto work = [=, product = *product, of_a = *of_a, of_b = *of_b, of_d = *of_d, alpha = *alpha, beta = *beta] {
        // The bottom of memory that was asked for, so that reading it is seen to be wrong.
        memset(workspace, 0xff, workspace_bytes < 4096 ? workspace_bytes : 4096);
        multiply(product, a, of_a, b, of_b, c, d, of_d, alpha, beta);
        return true;
    };
    return shim_enqueue(stream, work) ? 0 : INVALID_VALUE;
}
}
