//! Rules about one file.

use super::File;

/// Lines of a source file.
const FILE_LINES: usize = 800;
/// Lines of a function, signature and braces included.
const FUNCTION_LINES: usize = 100;
/// Bytes of a file that is not a golden.
const FILE_BYTES: u64 = 256 << 10;

/// Files that no hand writes, and a program needs whole.
const GENERATED: [&str; 2] = ["Cargo.lock", "crates/ijepa-tensor/src/cuda/kernels.ptx.gz"];

/// Everything that is wrong with a file.
pub(super) fn problems(file: &File) -> Vec<String> {
    let mut problems = size(file);
    if file.path.ends_with(".rs") {
        problems.extend(head(file));
        problems.extend(lengths(file));
        problems.extend(words(file));
    }
    if file.path.starts_with("configs/") && file.path.ends_with(".yaml") {
        problems.extend(run_file(file));
    }
    problems
}

fn size(file: &File) -> Vec<String> {
    let exempt = file.path.starts_with("goldens/") || GENERATED.contains(&file.path.as_str());
    let problem = || format!("{}: {} kB; at most {} outside goldens/", file.path, file.bytes >> 10, FILE_BYTES >> 10);
    if file.bytes > FILE_BYTES && !exempt { vec![problem()] } else { vec![] }
}

/// Every file says what it is for.
fn head(file: &File) -> Vec<String> {
    let first = file.text.lines().next().unwrap_or_default();
    let problem = || format!("{}:1: begins with `//!` and the question that the file answers", file.path);
    if first.starts_with("//! ") { vec![] } else { vec![problem()] }
}

fn lengths(file: &File) -> Vec<String> {
    let mut problems = Vec::new();
    let lines: Vec<&str> = file.text.lines().collect();
    if lines.len() > FILE_LINES {
        problems.push(format!("{}: {} lines, at most {FILE_LINES}; split it by subject", file.path, lines.len()));
    }
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| begins_function(line)) {
        let length = function_lines(&lines[at..], line);
        if length > FUNCTION_LINES {
            problems.push(format!("{}:{}: a function of {length} lines, at most {FUNCTION_LINES}", file.path, at + 1));
        }
    }
    problems
}

/// A line such as `pub(crate) unsafe fn name(`.
fn begins_function(line: &str) -> bool {
    let mut words = line.split_whitespace().take_while(|word| *word != "//");
    let modifiers = ["const", "async", "unsafe", "extern", "\"C\""];
    words.find(|word| !word.starts_with("pub") && !modifiers.contains(word)) == Some("fn")
}

/// Lines from `fn` to the brace that closes it: with rustfmt's layout, the first line with the same indent that begins with one.
fn function_lines(lines: &[&str], first: &str) -> usize {
    let indent = &first[..first.len() - first.trim_start().len()];
    let closes = |line: &&str| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with('}'));
    if first.trim_end().ends_with(['}', ';']) {
        return 1;
    }
    lines.iter().skip(1).position(closes).map_or(1, |at| at + 2)
}

/// Words that do not belong. Put together here, so that this file does not hold them.
fn words(file: &File) -> Vec<String> {
    let left_behind = [
        (concat!("to", "do!("), "finish it, or leave it out"),
        (concat!("unimple", "mented!("), "finish it, or leave it out"),
        (concat!("db", "g!("), "take it out"),
        (concat!("#[ign", "ore"), "a test runs, or is not there"),
        (concat!("TO", "DO"), "do it, or file it"),
        (concat!("FIX", "ME"), "mend it"),
    ];
    let in_tensor = file.path.starts_with("crates/ijepa-tensor/");
    let mut problems = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let place = || format!("{}:{}", file.path, at + 1);
        for (word, what) in &left_behind {
            if line.contains(word) {
                problems.push(format!("{}: `{word}`: {what}", place()));
            }
        }
        if !in_tensor && uses_unsafe(line) {
            problems.push(format!("{}: unsafe code lives in ijepa-tensor alone", place()));
        }
    }
    problems
}

fn uses_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let keyword = concat!("un", "safe");
    let forms =
        [format!("{keyword} {{"), format!("{keyword} fn "), format!("{keyword} impl "), format!("({keyword}_code)")];
    forms.iter().any(|form| code.contains(form.as_str())) && !code.contains('"')
}

/// A run file's head says its command, what it costs and what to expect.
fn run_file(file: &File) -> Vec<String> {
    let head: Vec<&str> = file.text.lines().take_while(|line| line.starts_with('#')).collect();
    let missing = |part: &str| !head.iter().any(|line| line.contains(part));
    ["$ ", "cost:", "expect:"]
        .into_iter()
        .filter(|part| missing(part))
        .map(|part| format!("{}:1: the comment at the head has no `{part}` line", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), bytes: text.len() as u64, text: text.into() }
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        problems(&file(path, text))
    }

    #[test]
    fn a_clean_file_has_no_problems() {
        let text = "//! What is this?\n\n/// One.\npub fn one() -> u8 {\n    1\n}\n";
        assert_eq!(found("crates/x/src/lib.rs", text), Vec::<String>::new());
    }

    #[test]
    fn a_file_without_a_head_is_found() {
        assert!(found("a.rs", "fn one() {}\n")[0].starts_with("a.rs:1:"));
    }

    #[test]
    fn a_long_function_is_found_at_its_line_and_a_short_one_is_not() {
        let function = |lines: usize| {
            format!(
                "//! Head.\n\nimpl X {{\n    pub(crate) fn long(\n        x: u8,\n    ) {{\n{}    }}\n\n    fn short() {{}}\n}}\n",
                "        let y = 1;\n".repeat(lines)
            )
        };
        assert_eq!(found("a.rs", &function(FUNCTION_LINES - 4)), Vec::<String>::new());
        let problems = found("a.rs", &function(FUNCTION_LINES));
        assert!(problems.len() == 1 && problems[0].starts_with("a.rs:4: a function of 104 lines"), "{problems:?}");
    }

    #[test]
    fn a_long_file_and_a_large_file_are_found() {
        assert!(found("a.rs", &format!("//! Head.\n{}", "\n".repeat(FILE_LINES)))[0].contains("801 lines"));
        let large = |path: &str| problems(&File { bytes: FILE_BYTES + 1, ..file(path, "") });
        assert_eq!((large("docs/a.png").len(), large("goldens/a.bin").len()), (1, 0));
    }

    #[test]
    fn what_was_left_behind_is_found() {
        for line in
            [concat!("to", "do!()"), concat!("db", "g!(x)"), concat!("#[ign", "ore]"), concat!("// TO", "DO: later")]
        {
            assert_eq!(found("a.rs", &format!("//! Head.\n{line}\n")).len(), 1, "{line}");
        }
    }

    #[test]
    fn code_that_the_compiler_cannot_check_is_found_outside_the_tensor_crate_and_only_there() {
        let text = concat!("//! Head.\nfn f() {\n    un", "safe { g() }\n}\n");
        assert_eq!(found("crates/ijepa-data/src/a.rs", text).len(), 1);
        assert_eq!(found("crates/ijepa-tensor/src/a.rs", text).len(), 0);
        assert_eq!(found("crates/ijepa-data/src/a.rs", concat!("//! Head.\n// never un", "safe { }\n")).len(), 0);
    }

    #[test]
    fn a_run_file_without_its_head_is_found() {
        assert_eq!(
            found("configs/a.yaml", "# $ ijepa pretrain configs/a.yaml\n# cost: 1 min\n# expect: 40 %\nmeta:\n").len(),
            0
        );
        assert_eq!(found("configs/a.yaml", "# a run\nmeta:\n").len(), 3);
    }
}
