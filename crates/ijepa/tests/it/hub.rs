//! Checkpoints by name: fetched once, found afterwards, refused with a reason. Every server is one of this file's own, on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Said, ijepa_in};

const CHECKPOINT: i32 = 4;
const USAGE: i32 = 2;
const NAME: &str = "IN1K-vit.h.14-300e";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a server says to one request.
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body after which the connection is dropped, whatever length was announced.
    cut: usize,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), cut: usize::MAX }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    fn cut(mut self, after: usize) -> Reply {
        self.cut = after;
        self
    }

    /// A file, or the part of it that was asked for.
    fn file(request: &Request, body: &[u8]) -> Reply {
        match request.first_byte() {
            None => Reply::new(200, body),
            Some(first) if first >= body.len() => {
                Reply::new(416, "").header("Content-Range", format!("bytes */{}", body.len()))
            }
            Some(first) => {
                let last = request.last_byte().unwrap_or(body.len() - 1);
                Reply::new(206, &body[first..=last])
                    .header("Content-Range", format!("bytes {first}-{last}/{}", body.len()))
            }
        }
    }
}

/// The head of a request.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    lines: Vec<String>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn first_byte(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }

    fn last_byte(&self) -> Option<usize> {
        self.header("range")?.rsplit('-').next()?.parse().ok()
    }
}

/// A server on loopback that ends when it is dropped.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it has an address").port();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, ended) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().take(100) {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                // A client that goes away is no fault of the server.
                let _ = stream.and_then(|stream| serve(stream, &answer, &log));
            }
        });
        Server { address: format!("http://127.0.0.1:{port}"), asked, stop, thread: Some(thread) }
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().expect("no test panicked").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends");
        }
    }
}

fn serve(stream: TcpStream, answer: &impl Fn(&Request) -> Reply, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let head = lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).collect::<Result<_, _>>()?;
    let request = Request { path, lines: head };
    let reply = answer(&request);
    log.lock().expect("no test panicked").push(request);
    let mut text = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
        text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut out = &stream;
    out.write_all(format!("{text}\r\n").as_bytes())?;
    out.write_all(&reply.body[..reply.cut.min(reply.body.len())])?;
    out.flush()
}

/// A user's home, empty, and the servers it knows.
struct Home {
    folder: tempfile::TempDir,
    server: String,
}

impl Home {
    fn new(server: &Server) -> Home {
        Home { folder: tempfile::tempdir().expect("a scratch folder"), server: server.address.clone() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, more: &[(&str, &str)], arguments: &[&str]) -> Said {
        let (hub, torch) = (self.path("hf"), self.path("torch"));
        let known = [
            ("HF_HOME", hub.to_str().expect("a plain name")),
            ("TORCH_HOME", torch.to_str().expect("a plain name")),
            ("HF_ENDPOINT", self.server.as_str()),
            ("IJEPA_REFERENCE_URL", self.server.as_str()),
            ("HF_HUB_CACHE", ""),
            ("HF_TOKEN", ""),
            ("HF_TOKEN_PATH", ""),
            ("HF_HUB_OFFLINE", ""),
            ("NO_PROXY", "127.0.0.1"),
        ];
        ijepa_in(self.folder.path(), &[&known[..], more].concat(), arguments)
    }

    fn inspect(&self, name: &str) -> Said {
        self.run(&[], &["inspect", name, "--json"])
    }

    fn checkpoint(&self) -> PathBuf {
        self.path(&format!("torch/hub/checkpoints/{NAME}.pth.tar"))
    }

    fn partial(&self) -> PathBuf {
        self.path(&format!("torch/hub/checkpoints/{NAME}.pth.tar.partial"))
    }

    /// The snapshot of a repository.
    fn snapshot(&self, folder: &str) -> PathBuf {
        self.path("hf/hub").join(folder).join("snapshots").join(COMMIT)
    }
}

/// A file with one tensor.
fn weights() -> Vec<u8> {
    let header = br#"{"encoder.norm.weight":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}     "#;
    [&(header.len() as u64).to_le_bytes()[..], header, &[0; 256]].concat()
}

/// A Hub with one repository of these files.
fn hub(files: Vec<(&'static str, Vec<u8>)>, card: &'static str) -> Server {
    Server::start(move |request| {
        if request.path.starts_with("/api/models/") {
            let siblings: Vec<_> =
                files.iter().map(|(name, body)| serde_json::json!({"rfilename": name, "size": body.len()})).collect();
            let facts = serde_json::json!({"sha": COMMIT, "siblings": siblings, "cardData": {"license": card}});
            return Reply::new(200, facts.to_string());
        }
        let name = request.path.split_once(&format!("/resolve/{COMMIT}/")).map_or("", |(_, name)| name);
        match files.iter().find(|(known, _)| *known == name) {
            Some((name, body)) => {
                Reply::file(request, body).header("ETag", format!("\"etag-{name}\"")).header("X-Repo-Commit", COMMIT)
            }
            None => Reply::new(404, "").header("X-Error-Code", "EntryNotFound"),
        }
    })
}

fn usual() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", b"hello".to_vec()),
        ("config.json", b"{\"model_type\": \"ijepa\"}".to_vec()),
        ("model.safetensors", weights()),
        ("preprocessor_config.json", b"{}".to_vec()),
        ("pytorch_model.bin", vec![0; 10]),
    ]
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_download_of_the_reference_is_fetched_once_and_needs_no_server_afterwards() {
    let server = Server::start(|request| Reply::file(request, &weights()));
    let home = Home::new(&server);
    let said = home.inspect(NAME);
    assert_eq!(said.json()["tensors"][0]["name"], "encoder.norm.weight");
    assert!(said.stderr.contains("CC BY-NC 4.0") && said.stderr.contains("downloading"), "{}", said.stderr);
    assert_eq!(server.asked()[0].path, format!("/{NAME}.pth.tar"));
    assert_eq!(read(&home.checkpoint()), weights());
    assert!(!home.partial().exists());
    drop(server);
    let said = home.inspect(&format!("{NAME}.pth.tar"));
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let said = home.run(&[("HF_HUB_OFFLINE", "1")], &["inspect", NAME]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn a_broken_download_goes_on_where_it_ended() {
    let server = Server::start(|request| {
        let reply = Reply::file(request, &weights());
        if request.first_byte().is_none() { reply.cut(100) } else { reply }
    });
    let home = Home::new(&server);
    assert_eq!(home.inspect(NAME).code, Some(0));
    assert_eq!(server.asked()[1].header("range"), Some("bytes=100-"));
    assert_eq!(read(&home.checkpoint()), weights());
}

#[test]
fn a_partial_file_of_an_earlier_run_is_taken_up_or_begun_anew() {
    let whole = weights();
    let longer = [&whole[..], b"more"].concat();
    for (held, ranges) in [(&whole[..50], true), (&whole[..], true), (&longer[..], true), (&whole[..50], false)] {
        let server = Server::start(move |request| match ranges {
            true => Reply::file(request, &weights()),
            false => Reply::new(200, weights()),
        });
        let home = Home::new(&server);
        std::fs::create_dir_all(home.partial().parent().expect("it has a folder")).expect("a folder can be made");
        std::fs::write(home.partial(), held).expect("it can be written");
        assert_eq!(home.inspect(NAME).code, Some(0), "{} bytes, ranges: {ranges}", held.len());
        assert_eq!(server.asked()[0].first_byte(), Some(held.len()));
        assert_eq!(read(&home.checkpoint()), whole);
    }
}

#[test]
fn a_connection_that_always_breaks_ends_with_what_is_held_and_no_checkpoint() {
    let server = Server::start(|request| Reply::file(request, &weights()).cut(10));
    let home = Home::new(&server);
    home.inspect(NAME)
        .refused(CHECKPOINT, &["cannot be downloaded", "10", "expected", "try: repeat the command", "HF_HUB_OFFLINE"]);
    assert!(!home.checkpoint().exists());
    assert_eq!(read(&home.partial()), weights()[..40]);
}

#[test]
fn two_processes_do_not_write_one_file() {
    let server = Server::start(|request| Reply::file(request, &weights()));
    let home = Home::new(&server);
    std::fs::create_dir_all(home.partial().parent().expect("it has a folder")).expect("a folder can be made");
    let other = std::fs::File::create(home.partial()).expect("it can be written");
    other.lock().expect("it can be locked");
    home.inspect(NAME).refused(CHECKPOINT, &[NAME, "another process", "wait"]);
    assert!(home.partial().exists() && server.asked().is_empty());
    drop(other);
    assert_eq!(home.inspect(NAME).code, Some(0));
}

#[test]
fn a_server_that_refuses_is_quoted() {
    for (status, words) in [(404, "nothing of this name"), (403, "private"), (500, "answered 500")] {
        let server = Server::start(move |_| Reply::new(status, ""));
        let home = Home::new(&server);
        home.inspect(NAME).refused(CHECKPOINT, &[NAME, &status.to_string(), "try: "]);
        home.inspect("hf:a/b").refused(CHECKPOINT, &["hf:a/b", words, &status.to_string(), "try: "]);
        assert!(!home.checkpoint().exists());
    }
}

#[test]
fn nobody_listening_and_no_network_wanted_are_told_apart() {
    let server = Server::start(|_| Reply::new(404, ""));
    let home = Home::new(&server);
    for name in [NAME, "hf:facebook/ijepa_vith14_1k"] {
        let offline = home.run(&[("HF_HUB_OFFLINE", "1")], &["inspect", name]);
        offline.refused(CHECKPOINT, &[name, "is not in the cache", "HF_HUB_OFFLINE forbids", "local file or folder"]);
    }
    assert!(server.asked().is_empty());
    drop(server);
    for name in [NAME, "hf:facebook/ijepa_vith14_1k"] {
        let words =
            [name, "cannot be downloaded from http://127.0.0.1", "local file or folder", "HF_HOME", "HF_HUB_OFFLINE=1"];
        home.inspect(name).refused(CHECKPOINT, &words);
    }
    assert!(!home.partial().exists());
}

#[test]
fn a_repository_becomes_a_snapshot_that_needs_no_server_afterwards() {
    let server = hub(usual(), "cc-by-nc-4.0");
    let home = Home::new(&server);
    let first = home.run(&[("HF_TOKEN", "hf_secret")], &["inspect", "hf:facebook/ijepa_vith14_1k"]);
    assert!(first.stderr.contains("CC BY-NC 4.0"), "{}", first.stderr);
    assert!(!first.stderr.contains("hf_secret"), "{}", first.stderr);
    let snapshot = home.snapshot("models--facebook--ijepa_vith14_1k");
    let mut names: Vec<_> =
        std::fs::read_dir(&snapshot).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "preprocessor_config.json"]);
    assert_eq!(read(&snapshot.join("model.safetensors")), weights());
    assert_eq!(read(&snapshot.join("../../refs/main")), COMMIT.as_bytes());
    for request in server.asked() {
        assert_eq!(request.header("authorization"), Some("Bearer hf_secret"), "{request:?}");
    }
    drop(server);
    for name in ["hf:facebook/ijepa_vith14_1k".to_owned(), format!("hf:facebook/ijepa_vith14_1k@{COMMIT}")] {
        let again = home.inspect(&name);
        assert_eq!(again.code, first.code, "{}", again.stderr);
        assert!(!again.stderr.contains("CC BY-NC") && !again.stderr.contains("download"), "{}", again.stderr);
    }
}

#[test]
fn shards_are_fetched_by_their_index_and_the_token_file_is_read() {
    let index =
        r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;
    let files = vec![
        ("config.json", b"{}".to_vec()),
        ("model.safetensors.index.json", index.into()),
        ("model-1.safetensors", weights()),
        ("model-2.safetensors", weights()),
    ];
    let server = hub(files, "apache-2.0");
    let home = Home::new(&server);
    std::fs::create_dir_all(home.path("hf")).expect("a folder can be made");
    std::fs::write(home.path("hf/token"), "hf_kept\n").expect("it can be written");
    let said = home.inspect("hf:some/model@v1.0");
    assert!(said.stderr.contains("licence of these weights is apache-2.0"), "{}", said.stderr);
    assert!(said.stderr.contains(&format!("({} B)", 2 + index.len() + 2 * weights().len())), "{}", said.stderr);
    assert_eq!(server.asked()[0].path, "/api/models/some/model/revision/v1.0?blobs=true");
    assert_eq!(server.asked()[0].header("authorization"), Some("Bearer hf_kept"));
    let snapshot = home.snapshot("models--some--model");
    assert_eq!(read(&snapshot.join("model-2.safetensors")), weights());
    assert_eq!(read(&snapshot.join("../../refs/v1.0")), COMMIT.as_bytes());
}

#[test]
fn a_repository_that_was_fetched_in_part_is_taken_up() {
    let whole = weights();
    for held in [&whole[..50], &whole[..], &[&whole[..], b"more"].concat()] {
        let server = hub(usual(), "mit");
        let home = Home::new(&server);
        let blobs = home.path("hf/hub/models--some--model/blobs");
        std::fs::create_dir_all(&blobs).expect("a folder can be made");
        std::fs::write(blobs.join("etag-model.part"), held).expect("it can be written");
        home.inspect("hf:some/model");
        assert_eq!(
            read(&home.snapshot("models--some--model").join("model.safetensors")),
            whole,
            "{} bytes",
            held.len()
        );
        assert!(!blobs.join("etag-model.part").exists());
    }
}

#[test]
fn a_repository_without_weights_is_refused_with_what_it_holds() {
    let files = vec![("config.json", b"{}".to_vec()), ("pytorch_model.bin", vec![0; 9])];
    let server = hub(files, "mit");
    Home::new(&server)
        .inspect("hf:some/model")
        .refused(CHECKPOINT, &["hf:some/model", "expected config.json and model.safetensors", "pytorch_model.bin"]);
    let index = r#"{"weight_map": {"a": "../../../up.safetensors"}}"#;
    let server = hub(vec![("config.json", b"{}".to_vec()), ("model.safetensors.index.json", index.into())], "mit");
    Home::new(&server).inspect("hf:some/model").refused(CHECKPOINT, &["names no shards"]);
}

#[test]
fn a_repository_whose_files_have_other_lengths_than_announced_is_refused() {
    let server = Server::start(|request| {
        if request.path.starts_with("/api/") {
            let file = |name: &str, size: usize| serde_json::json!({"rfilename": name, "size": size});
            let siblings = [file("config.json", 2), file("model.safetensors", 1000)];
            return Reply::new(200, serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string());
        }
        let body = if request.path.ends_with("config.json") { b"{}".to_vec() } else { weights() };
        let etag = request.path.rsplit('/').next().unwrap_or_default().to_owned();
        Reply::file(request, &body).header("ETag", etag).header("X-Repo-Commit", COMMIT)
    });
    let home = Home::new(&server);
    let said = home.inspect("hf:some/model");
    said.refused(CHECKPOINT, &["model.safetensors has", "expected 1000", "see its model card"]);
    assert!(!home.snapshot("models--some--model").join("model.safetensors").exists());
}

#[test]
fn gated_and_missing_repositories_say_so() {
    for (status, code, words) in [
        (401, "GatedRepo", "terms"),
        (401, "RepoNotFound", "no such repository"),
        (404, "RevisionNotFound", "no such revision: v9"),
    ] {
        let server = Server::start(move |_| Reply::new(status, "").header("X-Error-Code", code));
        Home::new(&server).inspect("hf:some/model@v9").refused(CHECKPOINT, &[words, &status.to_string(), "try: "]);
    }
    let server = Server::start(|_| Reply::new(401, ""));
    let home = Home::new(&server);
    let said = home.run(&[("HF_TOKEN", "hf_wrong")], &["inspect", "hf:some/model"]);
    said.refused(CHECKPOINT, &["the token", "HF_TOKEN"]);
    assert!(!said.stderr.contains("hf_wrong"), "{}", said.stderr);
}

#[test]
fn names_that_are_none_are_refused_with_the_nearest_one() {
    let server = Server::start(|_| Reply::new(404, ""));
    let home = Home::new(&server);
    home.inspect("hf:ijepa_vith14_1k").refused(USAGE, &["hf:OWNER/NAME", "hf:facebook/ijepa_vith14_1k"]);
    home.inspect("hf:../../etc/passwd").refused(USAGE, &["hf:OWNER/NAME"]);
    home.inspect("IN1K-vith.14-300e").refused(CHECKPOINT, &["no such file", "did you mean IN1K-vit.h.14-300e?"]);
    home.inspect("runs/none.safetensors").refused(CHECKPOINT, &["runs/none.safetensors", "no such file", "try: "]);
    assert!(server.asked().is_empty());
}

#[test]
fn every_command_that_reads_a_checkpoint_takes_a_name() {
    let server = Server::start(|request| Reply::file(request, &weights()));
    let home = Home::new(&server);
    let offline = [("HF_HUB_OFFLINE", "1")];
    let named =
        |arguments: &[&str]| home.run(&offline, arguments).refused(CHECKPOINT, &[NAME, "HF_HUB_OFFLINE forbids"]);
    named(&["eval", "knn", "--checkpoint", NAME, "--train", "scenes:8", "--val", "scenes:8"]);
    named(&["eval", "linear", "--checkpoint", NAME, "--train", "scenes:8", "--val", "scenes:8"]);
    named(&["embed", "--checkpoint", NAME, "--data", "scenes:8", "--out", "a.npy"]);
    named(&["pretrain", "--init", NAME, "--data", "scenes:512", "--out", "run", "--set", "data.batch_size=8"]);
    assert!(!home.path("run").exists());
}

#[test]
fn doctor_says_where_models_are_kept() {
    let server = Server::start(|request| Reply::file(request, &weights()));
    let home = Home::new(&server);
    assert_eq!(home.inspect(NAME).code, Some(0));
    let models = &home.run(&[("HF_HUB_OFFLINE", "1")], &["doctor", "--json"]).json()["models"];
    assert_eq!((&models["bytes"], &models["offline"]), (&weights().len().into(), &true.into()));
    assert_eq!(models["hub"], home.path("hf/hub").to_str().expect("a plain name"));
    assert!(home.run(&[], &["doctor"]).stdout.contains("\nmodels    "));
    let elsewhere = home.run(&[("HF_HUB_CACHE", "/elsewhere")], &["doctor", "--json"]).json();
    assert_eq!(elsewhere["models"]["hub"], "/elsewhere");
}
