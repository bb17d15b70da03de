//! Ranks as threads, and who else may come to an open port.

use std::io::{Read, Write};
use std::sync::mpsc;

use proptest::prelude::*;

use super::words::HELLO;
use super::*;

const LONG: Duration = Duration::from_secs(60);
const CONTENT_OF_TESTS: [u8; 128] = [7; 128];

/// A meeting at a port of its own.
fn meeting(size: usize) -> (TcpListener, Meeting) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port();
    let token = [9; 32];
    (listener, Meeting { rank: 0, size, address: Ipv4Addr::LOCALHOST.to_string(), port, token })
}

impl Meeting {
    fn of(&self, rank: usize) -> Meeting {
        Meeting { rank, ..self.clone() }
    }

    fn asks(&self, rank: usize, patience: Duration) -> Result<[u8; 128]> {
        self.of(rank).share(patience, || unreachable!("the first rank alone knows"))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((self.address.as_str(), self.port)).expect("somebody listens");
        stream.set_read_timeout(Some(LONG)).expect("a limit can be set");
        stream
    }

    /// Comes as this rank, and does nothing more.
    fn comes(&self, rank: u32) -> TcpStream {
        let mut stream = self.connect();
        let hello = Hello { token: self.token, size: self.size as u32, rank };
        stream.write_all(&hello.bytes()).expect("somebody listens");
        stream
    }
}

/// What the first rank answers on a connection.
fn answer(mut stream: TcpStream) -> (u8, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("it answers");
    (bytes[MAGIC.len()], String::from_utf8_lossy(&bytes[HEAD..]).into_owned())
}

/// Lets the ranks of `others` come while `disturb` does what it likes; returns what all ranks got.
fn meet(size: usize, disturb: impl FnOnce(&Meeting)) -> Vec<Result<[u8; 128]>> {
    let (listener, meeting) = meeting(size);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| meeting.hand_out(&listener, LONG, || Ok(CONTENT_OF_TESTS)));
        disturb(&meeting);
        let others: Vec<_> = (1..size)
            .map(|rank| {
                scope.spawn({
                    let meeting = &meeting;
                    move || meeting.asks(rank, LONG)
                })
            })
            .collect();
        [first].into_iter().chain(others).map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

#[track_caller]
fn all_know(got: &[Result<[u8; 128]>]) {
    for (rank, got) in got.iter().enumerate() {
        assert_eq!(*got.as_ref().unwrap_or_else(|error| panic!("rank {rank}: {error}")), CONTENT_OF_TESTS);
    }
}

#[test]
fn all_ranks_learn_what_the_first_one_knows() {
    for size in [2, 3, 9] {
        all_know(&meet(size, |_| {}));
    }
    let (_, alone) = meeting(1);
    assert_eq!(alone.share(LONG, || Ok([1, 2])).expect("nobody else comes"), [1, 2]);
}

#[test]
fn ranks_that_come_before_the_first_one_try_again() {
    let (listener, meeting) = meeting(2);
    drop(listener);
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| meeting.asks(1, LONG));
        std::thread::sleep(2 * TRY);
        (meeting.share(LONG, || Ok(CONTENT_OF_TESTS)), second.join().expect("it does not panic"))
    });
    all_know(&[first, second]);
}

#[test]
fn strangers_at_the_port_disturb_nobody() {
    let mut held = Vec::new();
    let got = meet(3, |meeting| {
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"ijepa", &MAGIC, &[0; 4096]] {
            let mut stream = meeting.connect();
            // It may have been sent away before it has said all.
            let _ = stream.write_all(bytes);
            held.push(stream);
        }
        drop(meeting.connect());
        // More than are listened to at a time.
        held.extend((0..200).map(|_| meeting.connect()));
    });
    all_know(&got);
}

#[test]
fn a_rank_of_another_job_is_told_so_and_does_not_take_a_place() {
    let got = meet(2, |meeting| {
        let error = Meeting { token: [8; 32], ..meeting.clone() }.asks(1, LONG).expect_err("it is another job's");
        assert!(error.to_string().contains("refused: this process belongs to another job"), "{error}");
        assert_eq!(exit::code(&error), Exit::Device);
        let error = Meeting { size: 4, ..meeting.clone() }.asks(1, LONG).expect_err("it counts others");
        assert!(error.to_string().contains("was started as one of 4 ranks, rank 0 as one of 2"), "{error}");
        for rank in [0, 2, u32::MAX] {
            let (verdict, text) = answer(meeting.comes(rank));
            assert!(verdict == REFUSED && text.contains(&format!("says that it is rank {rank}; 1 to 1")), "{text}");
        }
    });
    all_know(&got);
}

#[test]
fn a_second_process_of_a_rank_is_refused_and_one_whose_first_has_gone_is_not() {
    let (listener, meeting) = meeting(3);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| meeting.hand_out(&listener, LONG, || Ok(CONTENT_OF_TESTS)));
        let one = meeting.comes(1);
        let (verdict, text) = answer(meeting.comes(1));
        assert!(
            verdict == REFUSED && text.contains("is a second rank 1; the first one came from 127.0.0.1:"),
            "{text}"
        );
        drop(one);
        let again = scope.spawn(|| meeting.asks(1, LONG));
        let other = meeting.asks(2, LONG);
        all_know(&[first.join().expect("no panic"), again.join().expect("no panic"), other]);
    });
}

#[test]
fn a_rank_that_never_comes_is_named_to_all_that_did() {
    let (listener, meeting) = meeting(4);
    let _stranger = TcpStream::connect(listener.local_addr().expect("an address"))
        .and_then(|mut stream| stream.write_all(b"something else").map(|()| stream));
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| meeting.asks(2, LONG));
        (meeting.hand_out(&listener, Duration::from_secs(2), || Ok(CONTENT_OF_TESTS)), second.join().expect("no panic"))
    });
    let first = first.expect_err("two are missing");
    let text = first.to_string();
    assert!(
        text.starts_with("rank 0 of 4 has waited 2 s at 127.0.0.1:") && text.contains("ranks 1, 3 did not come"),
        "{text}"
    );
    assert!(text.contains("; 127.0.0.1:") && text.contains("is no rank of this program"), "{text}");
    assert_eq!(exit::code(&first), Exit::Device);
    let second = second.expect_err("it is told");
    assert!(
        second.to_string().starts_with("rank 2 at 127.0.0.1:")
            && second.to_string().contains("ranks 1, 3 did not come"),
        "{second}"
    );
}

#[test]
fn what_fails_on_the_first_rank_is_told_to_all() {
    let (listener, meeting) = meeting(2);
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| meeting.asks(1, LONG));
        let fails = || Err::<[u8; 128], _>(Failure::new(Exit::Device, "no network").into());
        (meeting.hand_out(&listener, LONG, fails), second.join().expect("no panic"))
    });
    assert_eq!(first.expect_err("it fails").to_string(), "no network");
    let second = second.expect_err("it is told");
    assert!(second.to_string().ends_with("rank 0: no network"), "{second}");
}

#[test]
fn a_rank_says_what_it_found_where_the_first_one_should_be() {
    let short = Duration::from_secs(1);
    let (listener, meeting) = meeting(2);
    let (ready, told) = mpsc::channel::<()>();
    let asks = std::thread::scope(|scope| {
        let listener = &listener;
        scope.spawn(move || {
            listener.set_nonblocking(true).expect("it can be set");
            while told.try_recv() == Err(mpsc::TryRecvError::Empty) {
                if let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(b"220 mail.example.org ESMTP, what can I do for you?");
                }
                std::thread::sleep(LOOK);
            }
        });
        let asks = meeting.asks(1, short);
        drop(ready);
        asks
    });
    let error = asks.expect_err("it is another program");
    assert!(error.to_string().contains("is not rank 0 of this program"), "{error}");
    // Connected, and never answered.
    let silent = meeting.asks(1, short).expect_err("nobody accepts");
    assert!(silent.to_string().contains("it did not answer"), "{silent}");
    drop(listener);
    let error = meeting.asks(1, short).expect_err("nobody listens");
    assert!(error.to_string().starts_with("rank 1 of 2 has looked for rank 0 at 127.0.0.1:"), "{error}");
    assert!(exit::describe(&error).contains("MASTER_ADDR") && exit::code(&error) == Exit::Device, "{error}");
}

#[test]
fn a_port_that_another_program_has_is_named_with_what_to_do() {
    let (_listener, meeting) = meeting(2);
    let error = meeting.share(LONG, || Ok(CONTENT_OF_TESTS)).expect_err("the port is taken");
    assert!(error.to_string().starts_with("rank 0 cannot listen at 127.0.0.1:"), "{error}");
    assert!(exit::describe(&error).contains("another MASTER_PORT") && exit::code(&error) == Exit::Device);
}

proptest! {
    #[test]
    fn only_a_whole_hello_is_one(bytes in proptest::collection::vec(any::<u8>(), 0..100), token: [u8; 32], size: u32, rank: u32, cut in 0..HELLO) {
        prop_assert!(bytes.starts_with(&MAGIC) || Hello::of(&bytes).is_none());
        let hello = Hello { token, size, rank };
        prop_assert_eq!(Hello::of(&hello.bytes()), Some(hello));
        prop_assert_eq!(hello.bytes().len(), HELLO);
        prop_assert_eq!(Hello::of(&hello.bytes()[..cut]), None);
        prop_assert_eq!(Hello::of(&[&hello.bytes()[..], &[0]].concat()), None);
    }
}
