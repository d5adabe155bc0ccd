//! What the tests of the running server share: a server of their own on a free port, and a small HTTP client.
//!
//! A server is ended by its pid when its value is dropped; nothing else is ever signalled.
//!
//! How functions of these servers run that do not say it themselves is decided in `mode.rs`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // every test binary uses its own part of this

pub mod engine;
pub mod functions;
pub mod host;
pub mod injection;
pub mod mode;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Waits in tests end in failure after this long, on however busy a machine.
pub fn patience() -> Duration {
    slowed(Duration::from_secs(30))
}

/// A time for this machine, which may be an emulated one: its slowness, a whole number, is then in
/// `FAAS_TEST_SLOWNESS`. For waits and for what a function is given to do its work in; what is promised is not slowed.
pub fn slowed(time: Duration) -> Duration {
    time * std::env::var("FAAS_TEST_SLOWNESS").map_or(1, |factor| factor.parse().unwrap())
}

/// Says why a test cannot run here; in CI that is a failure. Use as `return skip("needs root")`.
pub fn skip(why: &str) {
    assert!(std::env::var_os("FAAS_CI").is_none(), "skipped in CI: {why}");
    eprintln!("SKIP {why}");
}

/// Whether this process is root, which process mode at level `strict` needs.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A source of numbers, the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

/// Whether tests of faults have their full size.
pub fn faults_in_full() -> bool {
    std::env::var("FAAS_FAULTS").is_ok_and(|size| size == "full")
}

/// Sets a flag when it goes, so that threads that look at it end also when the story of their test fails.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Tries until `probe` gives a value.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Tries a story up to three times until it takes a time within these bounds. For what is promised to be over within a
/// time: a machine that had none for the server in one moment is no fault of it, and one that never has is not expected.
/// What is over too early is a failure at once. A story that cannot be told here says so and gives `None`.
pub fn in_time(bounds: std::ops::Range<Duration>, mut story: impl FnMut() -> Option<Duration>) {
    let mut late = Vec::new();
    while late.len() < 3 {
        let Some(took) = story() else { return };
        assert!(took >= bounds.start, "{took:?}, which is before {:?}", bounds.start);
        if took < bounds.end {
            return;
        }
        late.push(took);
    }
    panic!("each time later than {:?}: {late:?}", bounds.end);
}

/// Closes with a reset, as the kernel does for a client that is killed before it has read everything.
pub fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    /// Its state directory and configuration; kept through restarts.
    pub home: Home,
    child: Child,
}

/// The directory of a server, or of two while one takes over from the other.
#[derive(Clone)]
pub struct Home(Arc<TempDir>);

impl Home {
    pub fn new() -> Home {
        Home(Arc::new(tempfile::Builder::new().prefix("faas-test-").tempdir().unwrap()))
    }

    /// One with a configuration on a free port, as [`Server::with`] wants it.
    pub fn with(system: &str, rest: &str) -> Home {
        Home::new().configured(system, rest)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// Writes the configuration: these lines in its `system:` section, and the file goes on with `rest`.
    pub fn configured(self, system: &str, rest: &str) -> Home {
        let system = mode::system_section(system);
        let indented: String = system.lines().map(|line| format!("  {}\n", line.trim_start())).collect();
        let config = format!(
            "system:\n  function_storage_path: {}\n  api_gateway_port: 0\n{indented}{rest}\n",
            self.state().display()
        );
        std::fs::write(self.path().join("faas.yaml"), config).unwrap();
        self
    }

    /// What the server wrote to its standard error, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.0.path().join("stderr")).unwrap_or_default()
    }

    /// Waits until a line of that is such a one: a thread of its own writes it, also what was logged before the server
    /// said that it serves.
    pub fn await_line(&self, what: &str, is_it: impl Fn(&str) -> bool) {
        eventually(&format!("a line in the log: {what}"), || self.log().lines().any(&is_it).then_some(()));
    }

    /// The same of a line with these words in it.
    pub fn await_words(&self, words: &str) {
        self.await_line(words, |line| line.contains(words));
    }
}

impl Server {
    /// A server with the defaults on a free port.
    pub fn start() -> Server {
        Server::with("", "")
    }

    /// A server whose `system:` section has these lines besides, and whose file goes on with `rest`.
    pub fn with(system: &str, rest: &str) -> Server {
        Server::on(Home::with(system, rest))
    }

    /// A server on an existing directory.
    pub fn on(home: Home) -> Server {
        let command = command(&home);
        Server::launch(home, command)
    }

    /// A server started by this command, which is [`command`] with something added.
    pub fn launch(home: Home, command: Command) -> Server {
        Server::try_launch(home, command).unwrap_or_else(|(home, _)| panic!("it did not start: {}", home.log()))
    }

    /// The same, of a server that may refuse to start: its directory then, and how it ended.
    pub fn try_launch(home: Home, mut command: Command) -> Result<Server, (Home, std::process::ExitStatus)> {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        // One that says nothing is ended, which ends the line; the child is not waited for before.
        let (said, hears) = std::sync::mpsc::channel::<()>();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let watchdog = std::thread::spawn(move || {
            if hears.recv_timeout(patience()) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
        lines.read_line(&mut first).unwrap();
        drop(said);
        watchdog.join().unwrap();
        let address = first.trim().rsplit_once("http://").and_then(|(_, address)| address.parse().ok());
        let Some(address) = address else { return Err((home, child.wait().unwrap())) };
        // Its standard output is read to the end, so that it never blocks on it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Server { address, home, child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with a signal, waits, and gives its directory for the next. The exit status comes along.
    pub fn end(mut self, signal: nix::sys::signal::Signal) -> (Home, std::process::ExitStatus) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let status = self.wait();
        let home = std::mem::replace(&mut self.home, Home::new());
        (home, status)
    }

    /// As `end`, of a server that was sent its signal already.
    pub fn ended(mut self) -> (Home, std::process::ExitStatus) {
        let status = self.wait();
        let home = std::mem::replace(&mut self.home, Home::new());
        (home, status)
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + patience() + slowed(Duration::from_secs(15));
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end:\n{}", self.home.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A request with the demo key and an optional JSON body.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        self.send(
            method,
            path,
            &[("Authorization", "Bearer demo-key"), ("Content-Type", "application/json")],
            body.as_bytes(),
        )
    }

    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, "")
    }

    pub fn post(&self, path: &str, body: &str) -> Reply {
        self.call("POST", path, body)
    }

    /// A request with just these header fields (and Host, Content-Length, Connection: close).
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" || method == "PUT" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Reply::parse(&self.raw(&bytes), method == "HEAD")
    }

    /// Sends bytes and reads to the end of the connection.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Posts a function and expects 201.
    pub fn deploy(&self, name: &str, code: &str, config: Value) -> Reply {
        let body = serde_json::json!({ "name": name, "code": code, "config": config }).to_string();
        let reply = self.post("/functions", &body);
        assert_eq!(reply.status, 201, "{}", reply.text());
        mode::await_stock(self);
        reply
    }

    /// Posts a function with the default config, calls it with this body, and expects 200.
    pub fn run(&self, name: &str, code: &str, body: &str) -> Value {
        self.deploy(name, code, serde_json::json!({}));
        let reply = self.post(&format!("/invoke/{name}"), body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The second signal means "at once". Unlike kill -9 this leaves nothing behind on the host.
        let deadline = Instant::now() + slowed(Duration::from_secs(10));
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() < deadline {
                self.signal(nix::sys::signal::Signal::SIGTERM);
            } else {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if std::thread::panicking() {
            eprintln!("---- the server's log ----\n{}", self.home.log());
        }
    }
}

/// The command that starts a server on this directory, its output caught.
pub fn command(home: &Home) -> Command {
    prepared(home, Command::new(env!("CARGO_BIN_EXE_faas")))
}

/// The user that nobody is.
pub const NOBODY: u32 = 65534;

/// Copies a program to where it can be run. Another process does: were it written here, every child that another thread
/// forks meanwhile would have it open for writing until it runs its own, and the kernel refuses to run such a file.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("install").args(["-m", "755"]).args([from, to]).status().unwrap();
    assert!(copied.success(), "{}", to.display());
}

/// The same as user nobody, with a copy of the binary in the server's directory, since nobody may not reach the other.
pub fn as_nobody(home: &Home) -> Command {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = home.path().join("faas");
    copy_program(Path::new(env!("CARGO_BIN_EXE_faas")), &copy);
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"]).arg(copy);
    prepared(home, command)
}

/// A command that becomes a server when the path of its configuration is added, with that path, its output caught: the
/// server itself, or another program, which takes what is behind its arguments for a command and becomes it.
pub fn prepared(home: &Home, mut command: Command) -> Command {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(home.path().join("stderr")).unwrap();
    command.arg(home.path().join("faas.yaml")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let ours = ["CONFIG_FILE", "DEFAULT_MODE", "API_PORT", "LOG_LEVEL", "DISABLE_CONTAINER"];
    for name in ours.map(|name| format!("FAAS_{name}")).iter().map(String::as_str).chain(["DOCKER_HOST"]) {
        command.env_remove(name);
    }
    command
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// Takes one answer with a Content-Length apart; panics when it is not one.
    pub fn parse(bytes: &[u8], is_head: bool) -> Reply {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("not an answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let reply = Reply { status, headers, body: bytes[end + 4..].to_vec() };
        if !is_head && status != 204 && status >= 200 {
            let length: usize = reply.header("content-length").expect("a Content-Length").parse().unwrap();
            assert_eq!(reply.body.len(), length, "the body is as long as it says");
        }
        reply
    }

    /// Reads one answer with a Content-Length, as they come on a connection that stays open.
    pub fn read(from: &mut impl BufRead, is_head: bool) -> Reply {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let read = from.read_until(b'\n', &mut bytes).expect("the answer goes on");
            assert!(read > 0, "the connection ends in a head: {:?}", String::from_utf8_lossy(&bytes));
        }
        let length = if is_head { 0 } else { content_length(&bytes) };
        let head = bytes.len();
        bytes.resize(head + length, 0);
        from.read_exact(&mut bytes[head..]).expect("a body as long as it says");
        Reply::parse(&bytes, is_head)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The `code` of a problem, checked to be one.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        problem["code"].as_str().expect("a code").to_owned()
    }

    /// The `detail` of a problem.
    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().expect("a detail").to_owned()
    }

    /// Checks status and code of a problem, and gives its detail.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        self.detail()
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    value.map_or(0, |value| value.trim().parse().unwrap())
}
