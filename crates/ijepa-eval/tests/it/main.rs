//! Claims about the probes, from outside.
