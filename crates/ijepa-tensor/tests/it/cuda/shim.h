// Lets a C++ compiler build the kernels for the CPU: what CUDA has beyond C++, as far as kernels use it. The functions are in
// shim.cpp, which also checks what the kernels do.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// Read and written in one go, as a GPU does it.
struct uint4 {
    union {
        struct {
            u32 x, y, z, w;
        };
        unsigned __int128 all;
    };
    uint4() {}
    uint4(u32 x, u32 y, u32 z, u32 w) : x(x), y(y), z(z), w(w) {}
    uint4(const uint4& other) : all(other.all) {}
    uint4& operator=(const uint4& other) {
        all = other.all;
        return *this;
    }
};

struct Index3 {
    u32 x, y, z;
};

extern "C" {
Index3 shim_thread();
Index3 shim_block();
Index3 shim_block_size();
void* shim_shared();
void shim_sync_threads();
void shim_sync_warp();
u64 shim_exchange(u64 value, u32 distance);
void shim_multiply_add(float* sum, const u32* a, u32 b0, u32 b1);
void shim_copy_later(void* to, const void* from, u32 bytes, bool there);
void shim_copies_done();
void shim_load_blocks(u32* block, const void* row, bool transposed);
// What an access does wrong that touches what lies around a buffer, or null; and whether all of it is memory of the GPU.
const char* shim_outside(const void* pointer, size_t size, bool write);
bool shim_is_memory(u64 address, size_t size);
void shim_register(const char* name, const char* kinds, void (*call)(void**));
}

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx shim_thread()
#define blockIdx shim_block()
#define blockDim shim_block_size()
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(shim_shared())

static inline void __syncthreads() { shim_sync_threads(); }
static inline void __syncwarp() { shim_sync_warp(); }

static inline float __uint_as_float(u32 bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline u32 __float_as_uint(float value) {
    u32 bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// The upper half, rounded to nearest even.
static inline u32 shim_narrow(float value) {
    const u32 bits = __float_as_uint(value);
    if (value != value) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline float __shfl_xor_sync(u32, float value, int distance) {
    return __uint_as_float(static_cast<u32>(shim_exchange(__float_as_uint(value), distance)));
}

static inline double __shfl_xor_sync(u32, double value, int distance) {
    u64 bits;
    memcpy(&bits, &value, sizeof bits);
    bits = shim_exchange(bits, distance);
    memcpy(&value, &bits, sizeof bits);
    return value;
}

static inline int min(int a, int b) { return a < b ? a : b; }

// The letter of an argument's type, as in launch.rs.
struct bf16;
template <class T> struct Kind { static const char LETTER = 'S'; };
template <> struct Kind<bf16> { static const char LETTER = 'B'; };
template <> struct Kind<float> { static const char LETTER = 'F'; };
template <> struct Kind<double> { static const char LETTER = 'D'; };
template <> struct Kind<u32> { static const char LETTER = 'U'; };
template <> struct Kind<u8> { static const char LETTER = 'Y'; };
template <class T> struct Parameter;
template <> struct Parameter<int> { static const char LETTER = 'i'; };
template <> struct Parameter<u64> { static const char LETTER = 'l'; };
template <> struct Parameter<float> { static const char LETTER = 'f'; };
template <> struct Parameter<double> { static const char LETTER = 'd'; };
template <class T> struct Parameter<T*> : Kind<T> {};
template <class T> struct Parameter<const T*> : Kind<T> {};

// A kernel under its name, called with pointers to its arguments as the driver calls it.
template <auto KERNEL> struct Registration;
template <class... A, void (*KERNEL)(A...)>
struct Registration<KERNEL> {
    // What the host reads of its arguments is nobody's business.
    template <size_t... I>
    __attribute__((no_sanitize("thread"))) static void spread(void** arguments, std::index_sequence<I...>) {
        KERNEL(*static_cast<A*>(arguments[I])...);
    }
    static void call(void** arguments) { spread(arguments, std::index_sequence_for<A...>()); }
    explicit Registration(const char* name) {
        static const char kinds[] = {Parameter<A>::LETTER..., 0};
        shim_register(name, kinds, call);
    }
};
#define REGISTER(kernel) static const Registration<&kernel> registration_of_##kernel(#kernel);
