//! How far are our transforms from those of Pillow, torchvision and timm? Reads cases on stdin, prints for each operation the largest
//! difference and the share of equal values, and fails where a bar is not met. Run by `cargo xtask peers transforms`.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

mod cases;

use std::collections::BTreeMap;
use std::io::BufReader;
use std::process::ExitCode;

use cases::Case;

#[derive(Default)]
struct Summary {
    cases: usize,
    most: u8,
    equal: usize,
    values: usize,
}

impl Summary {
    fn add(&mut self, expected: &[u8], got: &[u8]) {
        self.cases += 1;
        self.values += expected.len().max(got.len());
        if expected.len() != got.len() {
            self.most = u8::MAX;
            return;
        }
        for (a, b) in expected.iter().zip(got) {
            self.most = self.most.max(a.abs_diff(*b));
            self.equal += usize::from(a == b);
        }
    }

    /// At most one grey level, and that in at most one of a hundred values.
    fn is_good(&self) -> bool {
        self.most <= 1 && self.equal * 100 >= self.values * 99
    }
}

fn main() -> ExitCode {
    let mut input = BufReader::new(std::io::stdin().lock());
    let mut summaries = BTreeMap::<String, Summary>::new();
    let mut worst = Vec::new();
    loop {
        match Case::read(&mut input) {
            Ok(None) => break,
            Err(error) => {
                eprintln!("error: the cases end too early: {error}");
                return ExitCode::FAILURE;
            }
            Ok(Some(case)) => {
                let got = case.ours();
                let mut own = Summary::default();
                own.add(&case.expected, &got);
                if own.most > 1 {
                    worst.push(format!("{} differs by {}: {}", case.name(), own.most, case.head));
                }
                summaries.entry(case.name().to_owned()).or_default().add(&case.expected, &got);
            }
        }
    }
    println!("| operation | cases | values | largest difference | equal |");
    println!("|---|---|---|---|---|");
    for (name, summary) in &summaries {
        let share = 100.0 * summary.equal as f64 / summary.values.max(1) as f64;
        println!("| {name} | {} | {} | {} | {share:.4} % |", summary.cases, summary.values, summary.most);
    }
    worst.iter().take(10).for_each(|line| eprintln!("{line}"));
    let good = !summaries.is_empty() && summaries.values().all(Summary::is_good);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
