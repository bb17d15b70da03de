// As the PTX ISA has it, as far as kernels use it: registers have 64 bits, threads run one after the other up to what a warp or a block does
// together, copies to shared memory are done when they are waited for. Races are the business of shim.cpp.
#include "ptx.h"
#include "ptx_functions.h"

#include <stdlib.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace {

const u32 LANES = 32;

struct Failure {
    std::string what;
};

struct Operand {
    bool is_register = false;
    u32 number = 0;
    u64 value = 0;  // of what is no register; bytes beyond one in an address
};

struct Instruction {
    std::string text;
    std::vector<std::string> words;  // of the operation, between its points
    std::vector<std::vector<Operand>> operands;  // those in braces together
    bool has_guard = false, guard_is_not = false;
    u32 guard = 0, target = 0;
    Compute compute = nullptr;
    u32 kind = 0;
};

// What is more than a function of operands.
enum {
    COMPUTES, LOADS, STORES, LOADS_ARGUMENT, COPIES, WAITS_FOR_COPIES, BRANCHES, RETURNS, UNPACKS,
    MEETS_BLOCK, MEETS_WARP, SHUFFLES, MULTIPLIES, LOADS_BLOCKS
};

const std::map<std::string, u32> KINDS = {
    {"ret", RETURNS},
    {"bra", BRANCHES},
    {"bra.uni", BRANCHES},
    {"bar.sync", MEETS_BLOCK},
    {"bar.warp.sync", MEETS_WARP},
    {"shfl.sync.bfly.b32", SHUFFLES},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", MULTIPLIES},
    {"ldmatrix.sync.aligned.m8n8.x4.shared.b16", LOADS_BLOCKS},
    {"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", LOADS_BLOCKS},
    {"cp.async.cg.shared.global", COPIES},
    {"cp.async.ca.shared.global", COPIES},
    {"cp.async.wait_all", WAITS_FOR_COPIES},
};

// Registers that say which thread this is.
const char* const SPECIAL[] = {"%tid.x", "%ntid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z"};

struct Kernel {
    std::vector<Instruction> code;
    std::vector<u32> parameter_sizes;
    size_t registers = 0;
    u32 special[5] = {};
};

struct Copy {
    u32 to;
    const void* from;
    u32 bytes, given;
};

enum State { RUNS, AT_WARP, AT_BLOCK, DONE };

struct Thread {
    std::vector<u64> registers;
    std::vector<Copy> copies;
    u32 at = 0;
    State state = RUNS;
};

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

std::vector<unsigned char> shared_memory;
std::vector<Thread> threads_of_block;
void** kernel_arguments;
const Kernel* kernel;
u32 block_of[3], block_threads;
std::string problem;

// Reading.

struct Reader {
    Kernel kernel;
    std::map<std::string, u32> declared;  // how many registers of a name
    std::map<std::string, u32> registers, labels, parameters;
    std::map<u32, std::string> targets;  // of branches, by number of the instruction

    u32 register_of(const std::string& name) {
        const size_t digits = name.find_first_of("0123456789");
        const bool special = std::find(std::begin(SPECIAL), std::end(SPECIAL), name) != std::end(SPECIAL);
        const auto known = declared.find(name.substr(0, digits));
        const bool there = digits != std::string::npos && known != declared.end() && static_cast<u32>(atoi(name.c_str() + digits)) < known->second;
        if (!special && !there) throw Failure{"the register " + name};
        return registers.emplace(name, static_cast<u32>(registers.size())).first->second;
    }

    // .reg .b32 %r<77>
    void declare(const std::string& line) {
        const size_t name = line.find('%'), count = line.find('<');
        declared[line.substr(name, count - name)] = static_cast<u32>(atoi(line.c_str() + count + 1));
    }

    Operand operand(std::string text) {
        Operand result;
        const size_t plus = text.find('+', 1);
        if (plus != std::string::npos) {
            result.value = strtoull(text.c_str() + plus + 1, nullptr, 0);
            text.resize(plus);
        }
        if (text[0] == '%') {
            result.is_register = true;
            result.number = register_of(text);
        } else if (text.compare(0, 2, "0f") == 0 || text.compare(0, 2, "0d") == 0) {
            result.value = strtoull(text.c_str() + 2, nullptr, 16);
        } else if (text[0] == '-' || (text[0] >= '0' && text[0] <= '9')) {
            result.value = static_cast<u64>(strtoll(text.c_str(), nullptr, 0));
        } else if (parameters.count(text) && result.value == 0) {
            result.value = parameters[text];
        } else if (text != "shared_bytes" && text != "scratch_bytes") {
            throw Failure{"the operand " + text};
        }
        return result;
    }

    void statement(std::string text) {
        Instruction made;
        made.text = text;
        if (text[0] == '@') {
            made.has_guard = true;
            made.guard_is_not = text[1] == '!';
            const size_t end = text.find_first_of(" \t");
            made.guard = register_of(text.substr(made.guard_is_not ? 2 : 1, end - (made.guard_is_not ? 2 : 1)));
            text = text.substr(text.find_first_not_of(" \t", end));
        }
        const size_t end = text.find_first_of(" \t");
        std::string operation = text.substr(0, end), rest = end == std::string::npos ? "" : text.substr(end);
        for (size_t at = 0; at != std::string::npos;) {
            const size_t point = operation.find('.', at);
            made.words.push_back(operation.substr(at, point == std::string::npos ? point : point - at));
            at = point == std::string::npos ? point : point + 1;
        }
        if (made.words[0] == "bra") {
            targets[static_cast<u32>(kernel.code.size())] = rest.substr(rest.find_first_not_of(" \t"));
        } else {
            split(rest, made);
        }
        decide(made, operation);
        kernel.code.push_back(made);
    }

    // Operands between commas, those in braces together.
    void split(const std::string& text, Instruction& made) {
        std::vector<Operand> together;
        std::string word;
        bool braces = false;
        const auto finish = [&] {
            if (!word.empty()) together.push_back(operand(word));
            word.clear();
            if (!braces && !together.empty()) {
                made.operands.push_back(together);
                together.clear();
            }
        };
        for (const char letter : text) {
            if (letter == '{') braces = true;
            else if (letter == '}') braces = false;
            else if (letter == ',' || letter == '|') finish();
            else if (strchr(" \t[]", letter) == nullptr) word += letter;
        }
        finish();
    }

    void decide(Instruction& made, const std::string& operation) {
        const std::string& name = made.words[0];
        const bool packs = name == "mov" && (made.operands[0].size() > 1 || made.operands[1].size() > 1);
        const auto known = KINDS.find(operation);
        if (known != KINDS.end()) made.kind = known->second;
        else if (name == "ld" || name == "st") made.kind = memory(made);
        else if (packs && operation == "mov.b64") made.kind = UNPACKS;
        else if (!packs && made.operands.size() <= 5) made.compute = function_of(made.words);
        if (made.kind == COMPUTES && made.compute == nullptr) throw Failure{made.text};
    }

    // Loads and stores of one value or of a vector of 16 bytes or less.
    u32 memory(const Instruction& made) {
        const size_t count = made.words.size();
        const bool vector = count == 4 && (made.words[2] == "v2" || made.words[2] == "v4");
        if (made.words[0] == "ld" && made.words[1] == "param" && count == 3) return LOADS_ARGUMENT;
        if ((made.words[1] != "global" && made.words[1] != "shared") || (count != 3 && !vector)) throw Failure{made.text};
        return made.words[0] == "ld" ? LOADS : STORES;
    }
};

std::string trimmed(std::string line) {
    const size_t comment = line.find("//");
    if (comment != std::string::npos) line.resize(comment);
    const size_t begin = line.find_first_not_of(" \t"), end = line.find_last_not_of(" \t;");
    return begin == std::string::npos ? "" : line.substr(begin, end - begin + 1);
}

void read(const char* text) {
    Reader reader;
    std::string name;
    while (*text != 0) {
        const char* end = strchr(text, '\n');
        const std::string line = trimmed(end == nullptr ? std::string(text) : std::string(text, end));
        text = end == nullptr ? text + strlen(text) : end + 1;
        const size_t entry = line.find(".entry ");
        if (entry != std::string::npos) {
            reader = Reader();
            name = line.substr(entry + 7, line.find('(') - entry - 7);
        } else if (line.compare(0, 6, ".param") == 0) {
            const size_t type = line.find('.', 6);
            const std::string parameter = line.substr(line.find_last_of(" \t") + 1);
            reader.parameters[parameter.substr(0, parameter.find(','))] = static_cast<u32>(reader.kernel.parameter_sizes.size());
            reader.kernel.parameter_sizes.push_back(static_cast<u32>(atoi(line.c_str() + type + 2)) / 8);
        } else if (line[0] == '$') {
            reader.labels[line.substr(0, line.find(':'))] = static_cast<u32>(reader.kernel.code.size());
        } else if (line == "}" && !name.empty()) {
            for (const auto& [at, label] : reader.targets) {
                if (reader.labels.count(label) == 0) throw Failure{"the label " + label};
                reader.kernel.code[at].target = reader.labels[label];
            }
            for (u32 i = 0; i < 5; i++) reader.kernel.special[i] = reader.register_of(SPECIAL[i]);
            reader.kernel.registers = reader.registers.size();
            kernels()[name] = reader.kernel;
            name.clear();
        } else if (line.compare(0, 4, ".reg") == 0) {
            reader.declare(line);
        } else if (!name.empty() && !line.empty() && line[0] != '.' && line != "{" && line != ")") {
            reader.statement(line);
        }
    }
}

// Running.

u32 size_of(const std::string& type) { return static_cast<u32>(atoi(type.c_str() + 1)) / 8; }

u64 value(const Thread& thread, const Operand& operand) { return operand.is_register ? thread.registers[operand.number] : operand.value; }
u64 address(const Thread& thread, const Operand& operand) { return operand.is_register ? thread.registers[operand.number] + operand.value : operand.value; }

unsigned char* shared_at(u64 address, u32 size) {
    if (address > shared_memory.size() || size > shared_memory.size() - address) throw Failure{"shared memory at byte " + std::to_string(address) + " of " + std::to_string(shared_memory.size())};
    if (address % size != 0) throw Failure{"shared memory at byte " + std::to_string(address) + ", " + std::to_string(size) + " bytes at once"};
    return shared_memory.data() + address;
}

unsigned char* global_at(u64 address, u32 size, bool write) {
    const char* wrong = shim_outside(reinterpret_cast<void*>(address), size, write);
    if (wrong != nullptr) throw Failure{wrong};
    if (!shim_is_memory(address, size)) throw Failure{"memory at " + std::to_string(address) + ", which is not the GPU's"};
    if (address % size != 0) throw Failure{"memory at " + std::to_string(address) + ", " + std::to_string(size) + " bytes at once"};
    return reinterpret_cast<unsigned char*>(address);
}

// Loads and stores: one value, or a vector of them in one piece.
void move(Thread& thread, const Instruction& it, bool write) {
    const auto &values = it.operands[write ? 1 : 0], &place = it.operands[write ? 0 : 1];
    const u32 each = size_of(it.words.back()), all = each * static_cast<u32>(values.size());
    const u64 where = address(thread, place[0]);
    unsigned char* memory = it.words[1] == "shared" ? shared_at(where, all) : global_at(where, all, write);
    for (size_t i = 0; i < values.size(); i++) {
        if (write) {
            const u64 bits = value(thread, values[i]);
            memcpy(memory + i * each, &bits, each);
        } else {
            u64 bits = 0;
            memcpy(&bits, memory + i * each, each);
            thread.registers[values[i].number] = bits;
        }
    }
}

void copy_later(Thread& thread, const Instruction& it) {
    const u32 bytes = static_cast<u32>(value(thread, it.operands[2][0]));
    const u32 given = it.operands.size() > 3 ? static_cast<u32>(value(thread, it.operands[3][0])) : bytes;
    const u64 to = address(thread, it.operands[0][0]), from = address(thread, it.operands[1][0]);
    shared_at(to, bytes);
    thread.copies.push_back({static_cast<u32>(to), given == 0 ? nullptr : global_at(from, bytes, false), bytes, given});
}

void finish_copies(Thread& thread) {
    for (const Copy& copy : thread.copies) {
        memset(&shared_memory[copy.to], 0, copy.bytes);
        if (copy.given > 0) memcpy(&shared_memory[copy.to], copy.from, copy.given);
    }
    thread.copies.clear();
}

// mov between two registers of 32 bits and one of 64.
void unpack(Thread& thread, const Instruction& it) {
    const auto &to = it.operands[0], &from = it.operands[1];
    if (to.size() == 2) {
        const u64 bits = value(thread, from[0]);
        thread.registers[to[0].number] = bits & 0xffffffffu;
        thread.registers[to[1].number] = bits >> 32;
    } else {
        thread.registers[to[0].number] = (value(thread, from[0]) & 0xffffffffu) | value(thread, from[1]) << 32;
    }
}

void compute(Thread& thread, const Instruction& it) {
    u64 input[4] = {};
    for (size_t i = 1; i < it.operands.size(); i++) input[i - 1] = value(thread, it.operands[i][0]);
    thread.registers[it.operands[0][0].number] = it.compute(input[0], input[1], input[2], input[3]);
}

// Up to what a thread does together with others.
void run(Thread& thread) {
    while (true) {
        const Instruction& it = kernel->code[thread.at];
        if (it.has_guard && (thread.registers[it.guard] != 0) == it.guard_is_not) {
            thread.at++;
            continue;
        }
        switch (it.kind) {
            case COMPUTES: compute(thread, it); break;
            case LOADS: move(thread, it, false); break;
            case STORES: move(thread, it, true); break;
            case LOADS_ARGUMENT: {
                const u32 number = static_cast<u32>(it.operands[1][0].value);
                u64 bits = 0;
                memcpy(&bits, kernel_arguments[number], kernel->parameter_sizes[number]);
                thread.registers[it.operands[0][0].number] = bits;
                break;
            }
            case COPIES: copy_later(thread, it); break;
            case WAITS_FOR_COPIES: finish_copies(thread); break;
            case UNPACKS: unpack(thread, it); break;
            case BRANCHES: thread.at = it.target; continue;
            case RETURNS:
                if (!thread.copies.empty()) throw Failure{"a thread leaves without having waited for what it copies"};
                thread.state = DONE;
                return;
            case MEETS_BLOCK: thread.state = AT_BLOCK; return;
            default: thread.state = AT_WARP; return;
        }
        thread.at++;
    }
}

// What a warp does together, as the figures of the PTX ISA place values: lane l has group l / 4 and number l % 4 in it.

void shuffle(Thread* lanes, const Instruction& it) {
    u64 given[LANES];
    for (u32 lane = 0; lane < LANES; lane++) given[lane] = value(lanes[lane], it.operands[it.operands.size() - 4][0]);
    for (u32 lane = 0; lane < LANES; lane++) {
        const u32 distance = static_cast<u32>(value(lanes[lane], it.operands[it.operands.size() - 3][0]));
        const u32 clamp = static_cast<u32>(value(lanes[lane], it.operands[it.operands.size() - 2][0]));
        const u32 mask = static_cast<u32>(value(lanes[lane], it.operands[it.operands.size() - 1][0]));
        if (clamp != 31 || mask != ~0u || distance >= LANES) throw Failure{it.text + ", not of a whole warp"};
        lanes[lane].registers[it.operands[0][0].number] = given[lane ^ distance];
        if (it.operands.size() == 6) lanes[lane].registers[it.operands[1][0].number] = 1;
    }
}

// m16n8k16: the row and column of value i of a lane.
u32 row_of_a(u32 lane, u32 i) { return lane / 4 + (i / 2 % 2 == 0 ? 0 : 8); }
u32 column_of_a(u32 lane, u32 i) { return lane % 4 * 2 + i % 2 + (i < 4 ? 0 : 8); }
u32 row_of_b(u32 lane, u32 i) { return lane % 4 * 2 + i % 2 + (i < 2 ? 0 : 8); }
u32 row_of_c(u32 lane, u32 i) { return lane / 4 + (i < 2 ? 0 : 8); }
u32 column_of_c(u32 lane, u32 i) { return lane % 4 * 2 + i % 2; }

float half_of(u64 pair, u32 which) { return __uint_as_float(static_cast<u32>(which == 0 ? pair << 16 : pair & 0xffff0000u)); }

void multiply(Thread* lanes, const Instruction& it) {
    float a[16][16], b[16][8];
    for (u32 lane = 0; lane < LANES; lane++) {
        for (u32 i = 0; i < 8; i++) a[row_of_a(lane, i)][column_of_a(lane, i)] = half_of(value(lanes[lane], it.operands[1][i / 2]), i % 2);
        for (u32 i = 0; i < 4; i++) b[row_of_b(lane, i)][lane / 4] = half_of(value(lanes[lane], it.operands[2][i / 2]), i % 2);
    }
    for (u32 lane = 0; lane < LANES; lane++) {
        u64 results[4];
        for (u32 i = 0; i < 4; i++) {
            float sum = 0.0f;
            for (u32 k = 0; k < 16; k++) sum += a[row_of_c(lane, i)][k] * b[k][column_of_c(lane, i)];
            results[i] = bits_of<float>(as<float>(value(lanes[lane], it.operands[3][i])) + sum);
        }
        for (u32 i = 0; i < 4; i++) lanes[lane].registers[it.operands[0][i].number] = results[i];
    }
}

// x4: lane 8·m + r says where row r of matrix m is; a lane gets two values of its group's row, or column, of each.
void load_blocks(Thread* lanes, const Instruction& it) {
    bool transposed = false;
    for (const std::string& word : it.words) transposed |= word == "trans";
    u64 results[LANES][4];
    for (u32 m = 0; m < 4; m++) {
        unsigned short matrix[8][8];
        for (u32 row = 0; row < 8; row++) memcpy(matrix[row], shared_at(address(lanes[8 * m + row], it.operands[1][0]), 16), 16);
        for (u32 lane = 0; lane < LANES; lane++) {
            const u32 group = lane / 4, first = lane % 4 * 2;
            const u32 low = transposed ? matrix[first][group] : matrix[group][first];
            const u32 high = transposed ? matrix[first + 1][group] : matrix[group][first + 1];
            results[lane][m] = low | high << 16;
        }
    }
    for (u32 lane = 0; lane < LANES; lane++)
        for (u32 m = 0; m < 4; m++) lanes[lane].registers[it.operands[0][m].number] = results[lane][m];
}

void meet(Thread* lanes) {
    const Instruction& it = kernel->code[lanes[0].at];
    for (u32 lane = 0; lane < LANES; lane++) {
        if (lanes[lane].state != AT_WARP || lanes[lane].at != lanes[0].at) throw Failure{"lanes of a warp are not together at " + it.text};
    }
    if (it.kind == SHUFFLES) shuffle(lanes, it);
    if (it.kind == MULTIPLIES) multiply(lanes, it);
    if (it.kind == LOADS_BLOCKS) load_blocks(lanes, it);
    for (u32 lane = 0; lane < LANES; lane++) {
        lanes[lane].at++;
        lanes[lane].state = RUNS;
    }
}

void run_warp(Thread* lanes) {
    while (true) {
        u32 together = 0;
        for (u32 lane = 0; lane < LANES; lane++) {
            if (lanes[lane].state == RUNS) run(lanes[lane]);
            together += lanes[lane].state == AT_WARP;
        }
        if (together == 0) return;
        meet(lanes);
    }
}

void run_block() {
    for (u32 number = 0; number < block_threads; number++) {
        Thread& thread = threads_of_block[number];
        thread.registers.assign(kernel->registers, ~0ull);
        thread.copies.clear();
        thread.at = 0;
        thread.state = RUNS;
        const u32 values[] = {number, block_threads, block_of[0], block_of[1], block_of[2]};
        for (u32 i = 0; i < 5; i++) thread.registers[kernel->special[i]] = values[i];
    }
    while (true) {
        for (u32 first = 0; first < block_threads; first += LANES) run_warp(&threads_of_block[first]);
        u32 done = 0;
        for (u32 number = 0; number < block_threads; number++) done += threads_of_block[number].state == DONE;
        if (done == block_threads) return;
        if (done > 0) throw Failure{"some threads wait at a barrier while others have left"};
        for (u32 number = 0; number < block_threads; number++) {
            if (threads_of_block[number].at != threads_of_block[number / LANES * LANES].at) throw Failure{"lanes of a warp are at different barriers"};
        }
        for (u32 number = 0; number < block_threads; number++) {
            threads_of_block[number].at++;
            threads_of_block[number].state = RUNS;
        }
    }
}

thread_local bool wanted;

}  // namespace

bool ptx_is_wanted() {
    static const bool always = getenv("SHIM_PTX") != nullptr;
    return always || wanted;
}

const char* ptx_load(const char* text) {
    try {
        read(text);
    } catch (const Failure& failure) {
        problem = "PTX is not understood: " + failure.what;
        return problem.c_str();
    }
    return nullptr;
}

const char* ptx_launch(const char* name, const char* kinds, const u32* grid, u32 threads, u32 shared, void** arguments) {
    problem.clear();
    const auto found = kernels().find(name);
    if (found == kernels().end() || threads % LANES != 0) return "there is no such kernel in the PTX, or half a warp";
    kernel = &found->second;
    std::vector<u32> sizes;
    for (const char* kind = kinds; *kind != 0; kind++) sizes.push_back(*kind == 'i' || *kind == 'f' ? 4 : 8);
    if (sizes != kernel->parameter_sizes) return "the PTX has parameters of other sizes than the text";
    kernel_arguments = arguments;
    block_threads = threads;
    threads_of_block.resize(threads);
    try {
        for (block_of[2] = 0; block_of[2] < grid[2]; block_of[2]++)
            for (block_of[1] = 0; block_of[1] < grid[1]; block_of[1]++)
                for (block_of[0] = 0; block_of[0] < grid[0]; block_of[0]++) {
                    shared_memory.assign(shared, 0xff);
                    run_block();
                }
    } catch (const Failure& failure) {
        problem = std::string(name) + ": " + failure.what;
        return problem.c_str();
    }
    return nullptr;
}

// Whether kernels that this thread starts are those of the PTX that it loads.
extern "C" void shim_ptx(bool yes) { wanted = yes; }
