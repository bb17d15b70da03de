// Runs kernels of PTX, instruction by instruction: what the program hands to a driver, and not the text that it was made of.
#pragma once
#include "shim.h"

// Whether this thread's kernels are those of loaded PTX: where it was told so, or the variable SHIM_PTX is set.
bool ptx_is_wanted();
// Reads PTX; what is wrong with it, or null.
const char* ptx_load(const char* text);
// Runs a kernel that was read, with arguments of these types (the letters of launch.rs); returns what was wrong, or null.
const char* ptx_launch(const char* name, const char* kinds, const u32* grid, u32 threads, u32 shared, void** arguments);
