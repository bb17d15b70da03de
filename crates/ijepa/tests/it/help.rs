//! Does every command explain itself, and does `docs/cli.md` say what the program says?

use std::path::{Path, PathBuf};

use super::ijepa;

/// All commands with their help, found from the help itself: `["eval", "knn"]`.
fn all(command: &[String]) -> Vec<(Vec<String>, String)> {
    let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
    let said = ijepa(Path::new("."), &arguments);
    assert_eq!(said.code, Some(0), "{said:?}");
    let lines = said.stdout.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<String> = lines
        .filter_map(|line| {
            line.strip_prefix("  ")?.split_whitespace().next().filter(|_| !line.starts_with("   ")).map(str::to_owned)
        })
        .filter(|name| name != "help")
        .collect();
    let mut found = vec![(command.to_vec(), said.stdout)];
    for name in names {
        found.extend(all(&[command, &[name]].concat()));
    }
    found
}

/// Without spaces at line ends, which editors take away.
fn tidied(help: &str) -> String {
    help.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_of_the_command_line_is_what_the_program_says() {
    let mut page = String::from(
        "# The command line\n\nThis page is the program's own help. A test compares them; \
         `UPDATE_DOCS=1 cargo test -p ijepa --test it` writes it anew.\n",
    );
    for (command, help) in all(&[]) {
        let title = [&["ijepa".to_owned()], command.as_slice()].concat().join(" ");
        page.push_str(&format!("\n## {title}\n\n```text\n{}\n```\n", tidied(&help)));
    }
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&path).expect("docs/cli.md is there");
    let differs = written.lines().zip(page.lines()).find(|(written, said)| written != said);
    assert!(
        written == page,
        "docs/cli.md is out of date at {differs:?}; UPDATE_DOCS=1 cargo test -p ijepa --test it writes it anew"
    );
}

#[test]
fn every_command_that_does_something_has_an_example() {
    let commands = all(&[]);
    assert!(commands.len() > 5, "the commands are found: {commands:?}");
    for (command, help) in commands.iter().filter(|(_, help)| !help.contains("\nCommands:\n")) {
        let call = format!("  ijepa {}", command.join(" "));
        assert!(help.contains("Example:\n") && help.contains(&call), "`{}` has no example:\n{help}", command.join(" "));
    }
}

#[test]
fn no_line_of_help_is_wider_than_a_page() {
    for (command, help) in all(&[]) {
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "`{}`: {line}", command.join(" "));
        }
    }
}
