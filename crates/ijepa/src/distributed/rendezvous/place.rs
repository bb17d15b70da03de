//! Where do the ranks of a run meet, and how do they know each other? By what the launcher told all of them.

use std::net::Ipv4Addr;

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::super::launch;
use super::Meeting;
use crate::exit::Failure;

impl Meeting {
    /// The meeting that the launcher of this process told it: `MASTER_ADDR` and `MASTER_PORT` (torchrun, our own launcher), else
    /// SLURM's first machine and a port that follows from the job, else this machine.
    ///
    /// # Errors
    /// When a variable is not what it should be (code 2).
    pub(in crate::distributed) fn told(rank: usize, size: usize) -> Result<Meeting> {
        Meeting::told_by(|name| std::env::var(name).ok(), rank, size)
    }

    fn told_by(variable: impl Fn(&str) -> Option<String>, rank: usize, size: usize) -> Result<Meeting> {
        let job = job(&variable);
        let token: [u8; 32] = Sha256::digest(format!("{} {job}", env!("CARGO_PKG_VERSION"))).into();
        let port = match variable("MASTER_PORT") {
            // Below the ports that systems give away by themselves.
            None => 20_000 + u16::from_le_bytes([token[0], token[1]]) % 12_000,
            Some(text) => {
                let port = text.trim().parse().ok().filter(|port| *port > 0);
                let port: u16 = port.ok_or_else(|| wrong("MASTER_PORT", &text, "a port, 1 to 65535"))?;
                // torchrun's own store listens at its port, where it says so.
                let store = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|used| used == "True");
                if store { port.checked_add(1).unwrap_or(port - 1) } else { port }
            }
        };
        let lists = ["SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"];
        let address = match variable("MASTER_ADDR").filter(|address| !address.trim().is_empty()) {
            Some(address) => address.trim().to_owned(),
            None => match lists.into_iter().find_map(|name| Some((name, variable(name)?))) {
                None => Ipv4Addr::LOCALHOST.to_string(),
                Some((name, list)) => {
                    first_machine(&list).ok_or_else(|| wrong(name, &list, "a list of machines such as node[01-04]"))?
                }
            },
        };
        Ok(Meeting { rank, size, address, port, token })
    }
}

fn wrong(variable: &str, got: &str, expected: &str) -> Failure {
    Failure::usage(format!("{variable}={got}: expected {expected}"))
}

/// What launchers call the job: our own, SLURM, torchrun, Open MPI and others with PMIx.
fn job(variable: &impl Fn(&str) -> Option<String>) -> String {
    let slurm = || Some(format!("{}.{}", variable("SLURM_JOB_ID")?, variable("SLURM_STEP_ID").unwrap_or_default()));
    let named = variable(launch::JOB).or_else(slurm);
    named.or_else(|| variable("TORCHELASTIC_RUN_ID")).or_else(|| variable("PMIX_NAMESPACE")).unwrap_or_default()
}

/// The first machine of SLURM's list, such as `rack1n03` of `rack[1-2]n[03-07,11],login`.
fn first_machine(list: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = list.trim();
    while let Some(at) = rest.find(['[', ',', ']']) {
        name.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b',' => {
                rest = "";
                break;
            }
            b'[' => {
                let (numbers, behind) = rest[at + 1..].split_once(']')?;
                let first = numbers.split([',', '-']).next().filter(|first| !first.is_empty())?;
                name.push_str(first.bytes().all(|digit| digit.is_ascii_digit()).then_some(first)?);
                rest = behind;
            }
            _ => return None,
        }
    }
    name.push_str(rest);
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    (!name.is_empty() && name.chars().all(is_name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exit::{self, Exit};

    fn told(variables: &[(&str, &str)]) -> Result<Meeting> {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Meeting::told_by(value, 1, 2)
    }

    fn at(variables: &[(&str, &str)]) -> (String, u16) {
        let meeting = told(variables).expect("a place");
        (meeting.address, meeting.port)
    }

    #[test]
    fn ranks_meet_where_their_launcher_says() {
        let torchrun = [("MASTER_ADDR", "node7"), ("MASTER_PORT", "29500"), ("SLURM_NODELIST", "a,b")];
        assert_eq!(at(&torchrun), ("node7".to_owned(), 29500));
        // The port itself is that of torchrun's own store.
        let store = ("TORCHELASTIC_USE_AGENT_STORE", "True");
        assert_eq!(at(&[torchrun[0], torchrun[1], store]).1, 29501);
        assert_eq!(at(&[("MASTER_PORT", "65535"), store]).1, 65534);
        let job = [("SLURM_JOB_ID", "4711"), ("SLURM_STEP_ID", "0")];
        let (first, port) =
            at(&[("SLURM_STEP_NODELIST", "gpu[003-004]"), ("SLURM_NODELIST", "gpu[001-004]"), job[0], job[1]]);
        assert!(first == "gpu003" && (20_000..32_000).contains(&port), "{first}:{port}");
        assert_eq!(at(&[]).0, "127.0.0.1");
    }

    #[test]
    fn jobs_have_ports_and_tokens_of_their_own() {
        let step = |step| told(&[("SLURM_JOB_ID", "4711"), ("SLURM_STEP_ID", step)]).expect("a place");
        assert_eq!(step("0"), step("0"));
        assert!(step("0").token != step("1").token && step("0").port != step("1").port);
        let own = |job| told(&[(launch::JOB, job), ("SLURM_JOB_ID", "4711")]).expect("a place").token;
        assert!(own("a") != own("b") && own("a") != step("0").token);
    }

    #[test]
    fn a_variable_that_is_wrong_is_named() {
        for (name, value) in
            [("MASTER_PORT", "0"), ("MASTER_PORT", "x"), ("MASTER_PORT", "70000"), ("SLURM_NODELIST", "a[1")]
        {
            let error = told(&[(name, value)]).expect_err(value);
            assert!(error.to_string().starts_with(&format!("{name}={value}: expected ")), "{error}");
            assert_eq!(exit::code(&error), Exit::Usage);
        }
    }

    #[test]
    fn the_first_machine_of_a_list_is_found() {
        for (list, first) in [
            ("node1", Some("node1")),
            ("node1,node2", Some("node1")),
            ("node[01-03,07],gpu5", Some("node01")),
            ("node[7]", Some("node7")),
            ("rack[1-2]n[03,05]-ib,login", Some("rack1n03-ib")),
            ("a.b-c_d", Some("a.b-c_d")),
            ("", None),
            (",a", None),
            ("a[", None),
            ("a]", None),
            ("a[]", None),
            ("a[[1]]", None),
            ("a[x]", None),
            ("a b", None),
        ] {
            assert_eq!(first_machine(list).as_deref(), first, "{list}");
        }
    }

    proptest! {
        #[test]
        fn any_list_has_a_first_machine_or_is_refused(list in ".{0,40}") {
            let first = first_machine(&list);
            prop_assert!(first.is_none_or(|first| !first.is_empty() && !first.contains(['[', ']', ',', ' '])));
        }

        #[test]
        fn ranges_begin_with_their_first_number(name in "[a-z]{1,8}", first in 0usize..999, more in 0usize..99, rest in "(,[a-z]{1,3}){0,3}") {
            let list = format!("{name}[{first:03}-{:03}]{rest}", first + more);
            prop_assert_eq!(first_machine(&list), Some(format!("{name}{first:03}")));
        }
    }
}
