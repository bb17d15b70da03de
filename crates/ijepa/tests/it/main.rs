//! The program as its users meet it: the real binary, its output, its exit codes.
