//! Every claim about numbers holds on every instruction set that this CPU has, not only on the widest.

use ijepa_tensor::{instruction_set, instruction_sets};
use std::process::Command;

#[test]
fn parity_gradients_and_threads_hold_on_every_instruction_set() {
    for name in ["avx512", "avx2", "neon", "portable"] {
        if !instruction_sets().contains(&name) {
            eprintln!("skipped: {name} is not an instruction set of this CPU");
            continue;
        }
        if instruction_set() == Ok(name) {
            continue; // this very run
        }
        // The choice is made once in a process: the other modules of this binary run again in a process of their own.
        let again = std::env::current_exe().expect("the path of this test");
        let output = Command::new(again)
            .args(["parity::", "bfloat16::", "gradients::", "threads::", "optimiser::"])
            .env("IJEPA_CPU", name)
            .output()
            .expect("this test starts again");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
