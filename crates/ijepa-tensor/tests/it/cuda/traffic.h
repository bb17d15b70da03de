// Counts what kernels ask of memory, warp by warp: between shim_traffic_start and shim_traffic, or in all of a process where the variable
// SHIM_TRAFFIC names a file, which gets a line a kernel when the process ends.
#pragma once
#include "shim.h"

// Whether anybody wants to know.
bool traffic_is_counted();
// A block of this kernel begins.
void traffic_begin(const char* kernel);
// A thread's access from one place of the text; `shared` memory has addresses from 0 on.
void traffic_access(u32 thread, const void* place, u64 address, u32 size, bool write, bool shared);
// The block has ended.
void traffic_end();
