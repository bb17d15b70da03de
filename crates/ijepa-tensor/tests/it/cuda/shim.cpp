// Runs kernels on the CPU. The threads of a block are fibers that give way at barriers and at what a warp does together; who goes
// on is drawn from a seed. Kernels are compiled with -fsanitize=thread, whose calls at every memory access end here instead of
// in the sanitizer: shared memory that two threads use between the same two barriers, one of them writing, is reported, so is
// shared memory that is read before it is written, and every access to the guards around buffers.
//
// This file is compiled without that option.
#include "shim.h"
#include "traffic.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace {

const u32 LANES = 32;
const u32 MOST_THREADS = 1024;
const size_t STACK_BYTES = 128 << 10;
const size_t MOST_SHARED = 227 << 10;
// Bytes of shared memory that are watched together: a bf16.
const size_t GRAIN = 2;

enum State { RUNNABLE, AT_BARRIER, IN_WARP, DONE };
// What the lanes of a warp do together.
enum Together { NOTHING, EXCHANGE, MULTIPLY, LOAD, LOAD_TRANSPOSED, SYNC };
const char* const TOGETHER_NAMES[] = {"nothing", "a shuffle", "a product", "a load", "a transposed load", "a warp barrier"};

struct Fiber {
    ucontext_t context;
    jmp_buf jump;
    bool started;
    State state;
};

struct LaneData {
    u64 value;
    const void* row;
    u32 a[4], b[2];
};

// Data of the lanes' common steps alternate between two places: whoever writes a place again has seen all lanes arrive at the
// step between.
struct Warp {
    Together together;
    u32 arrived;
    u32 step;
    u32 synchronised;  // warp barriers so far
    LaneData lanes[2][LANES];
    float products[2][LANES][4];
    u32 blocks[2][LANES][4];
};

struct Read {
    u64 epoch;
    u32 synchronised;
    u32 lanes;
};

struct Grain {
    u64 write_epoch;
    u32 write_synchronised;
    u32 writer;
    Read reads[MOST_THREADS / LANES];
};

// To shared memory, not waited for yet.
struct Copy {
    void* to;
    const void* from;
    u32 bytes;
    bool there;
};

struct Kernel {
    std::string kinds;
    void (*call)(void**);
};

struct Guarded {
    uintptr_t begin, end;
    size_t guard;
};

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

std::vector<Guarded> guarded;
Fiber* fibers;
Warp warps[MOST_THREADS / LANES];
alignas(256) unsigned char shared_bytes[MOST_SHARED];
std::vector<Grain> grains;
std::vector<u32> runnable;
std::vector<Copy> copies[MOST_THREADS];
jmp_buf scheduler;
u32 current, waiting, done;
Index3 block_number, block_size;
u32 shared_len;
void (*kernel_call)(void**);
void** kernel_arguments;
u64 epoch, first_epoch;  // barriers of blocks, over all launches; the first of this block
u64 random_state;
bool in_order, abandoned, counted;
std::string kernel_name, problem;

void report(const std::string& what) {
    if (problem.empty()) {
        problem = kernel_name + ", block (" + std::to_string(block_number.x) + ", " + std::to_string(block_number.y) + ", " +
                  std::to_string(block_number.z) + "), thread " + std::to_string(current) + ": " + what;
    }
}

u32 draw(u32 below) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<u32>((random_state >> 33) % below);
}

void give_way() {
    if (_setjmp(fibers[current].jump) == 0) _longjmp(scheduler, 1);
}

void fiber_main() {
    kernel_call(kernel_arguments);
    if (!copies[current].empty()) report("leaves without having waited for what it copies");
    fibers[current].state = DONE;
    done++;
    _longjmp(scheduler, 1);
}

// Whether what thread `other` did at this point is ordered before what the current thread does now.
bool ordered(u64 at, u32 other, u32 synchronised) {
    if (at != epoch || other == current) return true;
    return other / LANES == current / LANES && synchronised < warps[current / LANES].synchronised;
}

void check_shared(size_t offset, size_t size, bool write) {
    if (offset + size > shared_len) {
        report("shared memory at byte " + std::to_string(offset) + " of " + std::to_string(shared_len));
        return;
    }
    const u32 synchronised = warps[current / LANES].synchronised;
    for (size_t at = offset / GRAIN; at <= (offset + size - 1) / GRAIN; at++) {
        Grain& grain = grains[at];
        const std::string place = "byte " + std::to_string(at * GRAIN) + " of shared memory";
        if (!ordered(grain.write_epoch, grain.writer, grain.write_synchronised)) {
            report((write ? "writes " : "reads ") + place + ", which thread " + std::to_string(grain.writer) +
                   " wrote since the last barrier");
        }
        if (!write) {
            if (grain.write_epoch < first_epoch) report("reads " + place + ", which no thread has written");
            Read& read = grain.reads[current / LANES];
            if (read.epoch != epoch || read.synchronised != synchronised) read = {epoch, synchronised, 0};
            read.lanes |= 1u << current % LANES;
            continue;
        }
        for (u32 warp = 0; warp < (block_size.x + LANES - 1) / LANES; warp++) {
            const Read& read = grain.reads[warp];
            if (read.epoch != epoch) continue;
            const bool own = warp == current / LANES;
            const u32 others = own ? read.lanes & ~(1u << current % LANES) : read.lanes;
            if (others != 0 && !(own && read.synchronised < synchronised)) {
                report("writes " + place + ", which a thread of warp " + std::to_string(warp) + " read since the last barrier");
            }
        }
        grain.write_epoch = epoch;
        grain.write_synchronised = synchronised;
        grain.writer = current;
    }
}

// An access from one place of the text.
void check(const void* place, const void* pointer, size_t size, bool write) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer), shared = reinterpret_cast<uintptr_t>(shared_bytes);
    if (address - shared < MOST_SHARED) {
        if (counted) traffic_access(current, place, address - shared, static_cast<u32>(size), write, true);
        check_shared(address - shared, size, write);
        return;
    }
    const char* wrong = shim_outside(pointer, size, write);
    if (wrong != nullptr) report(wrong);
    // Fibers have their own variables beside.
    const uintptr_t stack = reinterpret_cast<uintptr_t>(fibers[current].context.uc_stack.ss_sp);
    if (counted && address - stack >= STACK_BYTES) traffic_access(current, place, address, static_cast<u32>(size), write, false);
}

float wide(u32 half) { return __uint_as_float(half << 16); }

// Products of a warp, from the operands as lanes hold them.
void multiply(const LaneData* lanes, float (*products)[4]) {
    float a[16][16], b[16][8];
    for (u32 lane = 0; lane < LANES; lane++) {
        const u32 g = lane / 4, q = lane % 4;
        for (u32 i = 0; i < 8; i++) {
            const u32 half = lanes[lane].a[i / 2] >> (i % 2 * 16) & 0xffff;
            a[g + i / 2 % 2 * 8][2 * q + i % 2 + i / 4 * 8] = wide(half);
        }
        for (u32 i = 0; i < 4; i++) {
            b[2 * q + i % 2 + i / 2 * 8][g] = wide(lanes[lane].b[i / 2] >> (i % 2 * 16) & 0xffff);
        }
    }
    float sum[16][8] = {};
    for (u32 row = 0; row < 16; row++)
        for (u32 k = 0; k < 16; k++)
            for (u32 column = 0; column < 8; column++) sum[row][column] += a[row][k] * b[k][column];
    for (u32 lane = 0; lane < LANES; lane++)
        for (u32 i = 0; i < 4; i++) products[lane][i] = sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

// Blocks (8, 8) of a warp, from the rows that lanes point to.
void load(const LaneData* lanes, u32 (*blocks)[4], bool transposed) {
    for (u32 block = 0; block < 4; block++) {
        unsigned short value[8][8];
        for (u32 row = 0; row < 8; row++) memcpy(value[row], lanes[block * 8 + row].row, sizeof value[row]);
        for (u32 lane = 0; lane < LANES; lane++) {
            const u32 g = lane / 4, q = lane % 4;
            const u32 low = transposed ? value[2 * q][g] : value[g][2 * q];
            const u32 high = transposed ? value[2 * q + 1][g] : value[g][2 * q + 1];
            blocks[lane][block] = low | high << 16;
        }
    }
}

// Joins the other lanes in a common step; returns the place of its data.
u32 meet(Together together, const LaneData& data) {
    Warp& warp = warps[current / LANES];
    if (warp.arrived == 0) warp.together = together;
    if (warp.together != together) {
        report(std::string("is at ") + TOGETHER_NAMES[together] + " while others of its warp are at " +
               TOGETHER_NAMES[warp.together]);
        abandoned = true;
        _longjmp(scheduler, 1);
    }
    const u32 place = warp.step % 2;
    warp.lanes[place][current % LANES] = data;
    if (++warp.arrived < LANES) {
        fibers[current].state = IN_WARP;
        give_way();
        return place;
    }
    warp.arrived = 0;
    warp.step++;
    if (together == SYNC) warp.synchronised++;
    if (together == MULTIPLY) multiply(warp.lanes[place], warp.products[place]);
    if (together == LOAD || together == LOAD_TRANSPOSED) load(warp.lanes[place], warp.blocks[place], together == LOAD_TRANSPOSED);
    const u32 first = current / LANES * LANES;
    for (u32 thread = first; thread < first + LANES; thread++) {
        if (thread == current) continue;
        fibers[thread].state = RUNNABLE;
        runnable.push_back(thread);
    }
    return place;
}

void start_block(u32 threads) {
    memset(shared_bytes, 0xff, shared_len);  // NaN in every type
    first_epoch = ++epoch;
    waiting = done = 0;
    abandoned = false;
    runnable.clear();
    for (u32 thread = 0; thread < threads; thread++) {
        fibers[thread].started = false;
        fibers[thread].state = RUNNABLE;
        copies[thread].clear();
        // Lanes of a warp come one after the other: last in, first out.
        runnable.push_back(threads - 1 - thread);
    }
    for (Warp& warp : warps) warp.arrived = 0;
}

void run_block(u32 threads) {
    start_block(threads);
    _setjmp(scheduler);
    while (done < threads && !abandoned) {
        if (runnable.empty()) {
            if (waiting < threads) {
                report("some threads wait at a barrier or for their warp while others have left or wait elsewhere");
                return;
            }
            waiting = 0;
            epoch++;
            for (u32 thread = 0; thread < threads; thread++) {
                fibers[thread].state = RUNNABLE;
                runnable.push_back(threads - 1 - thread);
            }
        }
        const size_t pick = in_order ? runnable.size() - 1 : draw(static_cast<u32>(runnable.size()));
        current = runnable[pick];
        runnable[pick] = runnable.back();
        runnable.pop_back();
        Fiber& fiber = fibers[current];
        if (fiber.started) _longjmp(fiber.jump, 1);
        fiber.started = true;
        makecontext(&fiber.context, fiber_main, 0);
        setcontext(&fiber.context);
    }
}

void make_fibers() {
    if (fibers != nullptr) return;
    fibers = new Fiber[MOST_THREADS];
    char* stacks = static_cast<char*>(malloc(MOST_THREADS * STACK_BYTES));
    for (u32 i = 0; i < MOST_THREADS; i++) {
        getcontext(&fibers[i].context);
        fibers[i].context.uc_stack.ss_sp = stacks + i * STACK_BYTES;
        fibers[i].context.uc_stack.ss_size = STACK_BYTES;
        fibers[i].context.uc_link = nullptr;
    }
    grains.resize(MOST_SHARED / GRAIN);
}

}  // namespace

extern "C" {

Index3 shim_thread() { return {current, 0, 0}; }
Index3 shim_block() { return block_number; }
Index3 shim_block_size() { return block_size; }
void* shim_shared() { return shared_bytes; }

void shim_sync_threads() {
    fibers[current].state = AT_BARRIER;
    waiting++;
    give_way();
}

void shim_sync_warp() { meet(SYNC, LaneData()); }

u64 shim_exchange(u64 value, u32 distance) {
    LaneData data = {};
    data.value = value;
    const u32 place = meet(EXCHANGE, data);
    return warps[current / LANES].lanes[place][current % LANES ^ distance].value;
}

void shim_multiply_add(float* sum, const u32* a, u32 b0, u32 b1) {
    LaneData data = {};
    memcpy(data.a, a, sizeof data.a);
    data.b[0] = b0;
    data.b[1] = b1;
    const u32 place = meet(MULTIPLY, data);
    for (u32 i = 0; i < 4; i++) sum[i] += warps[current / LANES].products[place][current % LANES][i];
}

void shim_load_blocks(u32* block, const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) report("loads a block whose row is not at a multiple of 16 bytes");
    check(__builtin_return_address(0), row, 16, false);
    LaneData data = {};
    data.row = row;
    const u32 place = meet(transposed ? LOAD_TRANSPOSED : LOAD, data);
    memcpy(block, warps[current / LANES].blocks[place][current % LANES], 4 * sizeof(u32));
}

// A copy may write from now on, and has written when its thread has waited for it; not earlier, so that whoever does not wait sees it.
void shim_copy_later(void* to, const void* from, u32 bytes, bool there) {
    const uintptr_t misplaced = reinterpret_cast<uintptr_t>(to) | (there ? reinterpret_cast<uintptr_t>(from) : 0);
    if (misplaced % bytes != 0) report("copies " + std::to_string(bytes) + " bytes from or to no multiple of as many");
    if (there) check(__builtin_return_address(0), from, bytes, false);
    check(__builtin_return_address(0), to, bytes, true);
    copies[current].push_back({to, from, bytes, there});
}

void shim_copies_done() {
    for (const Copy& copy : copies[current]) {
        if (copy.there) memcpy(copy.to, copy.from, copy.bytes);
        if (!copy.there) memset(copy.to, 0, copy.bytes);
        check_shared(static_cast<unsigned char*>(copy.to) - shared_bytes, copy.bytes, true);
    }
    copies[current].clear();
}

void shim_register(const char* name, const char* kinds, void (*call)(void**)) { kernels()[name] = {kinds, call}; }

// A buffer with `guard` bytes before and behind it that no kernel may touch.
void shim_guard(const void* begin, u64 len, u64 guard) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
    guarded.push_back({address, address + len, guard});
}

void shim_forget(const void* begin) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
    guarded.erase(std::remove_if(guarded.begin(), guarded.end(), [=](const Guarded& it) { return it.begin == address; }),
                  guarded.end());
}

// What an access does wrong that touches what lies around a buffer, or null.
const char* shim_outside(const void* pointer, size_t size, bool write) {
    static std::string said;
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    for (const Guarded& buffer : guarded) {
        if (address + size <= buffer.begin - buffer.guard || address >= buffer.end + buffer.guard) continue;
        if (address >= buffer.begin && address + size <= buffer.end) break;
        const long long at = static_cast<long long>(address) - static_cast<long long>(buffer.begin);
        said = std::string(write ? "writes" : "reads") + " byte " + std::to_string(at) + " of a buffer of " + std::to_string(buffer.end - buffer.begin);
        return said.c_str();
    }
    return nullptr;
}

// The name of a kernel as it is kept here, or null.
const char* shim_find(const char* name) {
    const auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : found->first.c_str();
}

// The types of a kernel's arguments, a letter each.
const char* shim_kinds(const char* name) { return kernels().at(name).kinds.c_str(); }

// Runs a kernel; returns what was wrong, or null. Seed 0 lets threads and blocks run in order.
const char* shim_launch(const char* name, const char* kinds, const u32* grid, u32 threads, u32 shared, void** arguments, u64 seed) {
    make_fibers();
    kernel_name = name;
    problem.clear();
    current = 0;
    const auto found = kernels().find(name);
    if (found == kernels().end()) {
        problem = kernel_name + ": there is no such kernel";
    } else if (kinds != nullptr && found->second.kinds != kinds) {
        problem = kernel_name + ": takes " + found->second.kinds + ", is given " + kinds;
    } else if (threads == 0 || threads > MOST_THREADS || threads % LANES != 0 || shared > MOST_SHARED) {
        problem = kernel_name + ": " + std::to_string(threads) + " threads, " + std::to_string(shared) + " bytes of shared memory";
    }
    if (!problem.empty()) return problem.c_str();
    kernel_call = found->second.call;
    kernel_arguments = arguments;
    block_size = {threads, 1, 1};
    shared_len = shared;
    random_state = seed * 2654435761u + 12345;
    in_order = seed == 0;
    counted = traffic_is_counted();
    const u64 count = static_cast<u64>(grid[0]) * grid[1] * grid[2];
    std::vector<u64> order(count);
    for (u64 i = 0; i < count; i++) order[i] = i;
    for (u64 i = count; !in_order && i > 1; i--) std::swap(order[i - 1], order[draw(static_cast<u32>(i))]);
    for (u64 i = 0; i < count && problem.empty(); i++) {
        const u64 block = order[i];
        block_number = {static_cast<u32>(block % grid[0]), static_cast<u32>(block / grid[0] % grid[1]),
                        static_cast<u32>(block / grid[0] / grid[1])};
        if (counted) traffic_begin(name);
        run_block(threads);
        if (counted) traffic_end();
    }
    return problem.empty() ? nullptr : problem.c_str();
}

#define ACCESS(name, size, write) \
    void __tsan_##name(void* address) { check(__builtin_return_address(0), address, size, write); }
#define ACCESSES(size)                             \
    ACCESS(read##size, size, false)                \
    ACCESS(write##size, size, true)                \
    ACCESS(unaligned_read##size, size, false)      \
    ACCESS(unaligned_write##size, size, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* address, u64 size) { check(__builtin_return_address(0), address, size, false); }
void __tsan_write_range(void* address, u64 size) { check(__builtin_return_address(0), address, size, true); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
