//! An engine of the tests' own, for container mode: nobody else's is asked for anything, and none is disturbed. It is
//! Docker, or what `FAAS_TEST_ENGINE_KIND` says (`docker`, `podman`). Or one that is there, for those who name it, and an
//! image of it, in `FAAS_TEST_ENGINE` and `FAAS_TEST_IMAGE`.
//!
//! `engine/keeper.py` keeps it and ends it. The keeper reads from a pipe whose other end is here and nowhere else,
//! so that engine and containers are gone when an [`Engine`] is dropped, and also when this process ends, in whatever
//! way: the shared one is never dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use serde_json::{json, Value};

use super::{is_root, patience};

/// The image that every engine of the tests' own has.
const IMAGE: &str = "faas-base:test";
const KEEPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/engine/keeper.py");
const IMAGE_MAKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/engine/image.py");

/// See the module's documentation.
pub struct Engine {
    socket: PathBuf,
    image: String,
    /// None of one that is not the tests' own.
    keeper: Option<Mutex<Keeper>>,
}

struct Keeper {
    process: Child,
    /// Closed to end it.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Engine {
    /// The one that all tests of this program share, with its image, or why there is none. Break another one.
    pub fn shared() -> Result<&'static Engine, &'static str> {
        static SHARED: OnceLock<Result<Engine, String>> = OnceLock::new();
        let found = || match std::env::var("FAAS_TEST_ENGINE") {
            Ok(socket) => Engine::named(socket),
            Err(_) => Engine::start(),
        };
        SHARED.get_or_init(found).as_ref().map_err(String::as_str)
    }

    fn named(socket: String) -> Result<Engine, String> {
        let image = std::env::var("FAAS_TEST_IMAGE")
            .map_err(|_| "FAAS_TEST_ENGINE needs FAAS_TEST_IMAGE, an image of that engine with Python".to_owned())?;
        Ok(Engine { socket: PathBuf::from(socket), image, keeper: None })
    }

    /// Another one, with its image. Its host's network is that of the calling thread.
    pub fn start() -> Result<Engine, String> {
        if !is_root() {
            return Err("an engine of containers needs root".to_owned());
        }
        let kind = std::env::var("FAAS_TEST_ENGINE_KIND").unwrap_or_else(|_| "docker".to_owned());
        let programs: &[&str] = match kind.as_str() {
            "docker" => &["dockerd"],
            "podman" => &["podman", "crun"],
            other => return Err(format!("FAAS_TEST_ENGINE_KIND: {other} is neither docker nor podman")),
        };
        if let Some(missing) = programs.iter().find(|program| !is_installed(program)) {
            return Err(format!("{missing} is not installed (.ci/install-{kind}.sh installs it on Debian)"));
        }
        let archive = image_archive()?;
        let mut process = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "python3", KEEPER, &kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let orders = process.stdin.take();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut directory = String::new();
        answers.read_line(&mut directory).unwrap();
        let socket = Path::new(directory.trim()).join("engine.sock");
        let keeper = Some(Mutex::new(Keeper { process, orders, answers }));
        let engine = Engine { socket, image: IMAGE.to_owned(), keeper };
        engine.tell("start")?;
        let mut file = std::fs::File::open(&archive).map_err(|error| format!("{}: {error}", archive.display()))?;
        let length = file.metadata().unwrap().len();
        engine.import(IMAGE, &mut file, length);
        Ok(engine)
    }

    /// Whether it is Podman and not Docker, of one that was started here.
    pub fn is_podman(&self) -> bool {
        self.keeper.is_some() && std::env::var("FAAS_TEST_ENGINE_KIND").is_ok_and(|kind| kind == "podman")
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The name of an image that it has, with Python.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Lets it stand still: it takes connections, as far as the kernel does that for it, and says nothing.
    pub fn stop(&self) {
        self.tell("stop").unwrap();
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.tell("continue").unwrap();
    }

    /// Kills it, without a word to its containers.
    pub fn kill(&self) {
        self.tell("kill").unwrap();
    }

    /// Starts it again after [`Engine::kill`]. What it was told before, it knows.
    pub fn start_again(&self) {
        self.tell("start").unwrap();
    }

    fn tell(&self, order: &str) -> Result<(), String> {
        let keeper = self.keeper.as_ref().expect("an engine of the tests' own");
        let mut keeper = keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let orders = keeper.orders.as_mut().unwrap();
        writeln!(orders, "{order}").map_err(|error| format!("the keeper of the engine: {error}"))?;
        let mut answer = String::new();
        keeper.answers.read_line(&mut answer).unwrap();
        match answer.trim() {
            "ok" => Ok(()),
            words => Err(format!("{order}: {words}")),
        }
    }

    /// Makes an image of an archive of so many bytes.
    pub fn import(&self, image: &str, archive: &mut dyn Read, length: u64) {
        self.import_with(image, "", archive, length);
    }

    /// The same with more parameters of the call, each with its `&` before it.
    pub fn import_with(&self, image: &str, options: &str, archive: &mut dyn Read, length: u64) {
        // Podman 4.3 passes over a tag of its own.
        let path = format!("/images/create?fromSrc=-&repo={}{options}", image.replace(':', "%3A"));
        let (status, body) = self.request("POST", &path, "application/x-tar", length, archive);
        assert!(status == 200 && !body.contains("errorDetail"), "importing {image}: {status} {body}");
    }

    /// Asks it for something; status and body, `null` where that is no JSON.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, body) = self.request(method, path, "application/json", body.len() as u64, &mut body.as_bytes());
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    /// The same, which has to succeed.
    #[track_caller]
    pub fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    fn request(&self, method: &str, path: &str, kind: &str, length: u64, body: &mut dyn Read) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        // In HTTP/1.0 an answer is as long as its connection.
        let head = format!("{method} {path} HTTP/1.0\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        std::io::copy(body, &mut stream).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The containers with this label (`name` or `name=value`), in whatever state, as `GET /containers/json` has them.
    pub fn containers(&self, label: &str) -> Vec<Value> {
        // `{"label":["a=b"]}`, encoded; a label's own characters are harmless ones.
        let path = format!("/containers/json?all=1&filters=%7B%22label%22%3A%5B%22{label}%22%5D%7D");
        self.must("GET", &path, &Value::Null).as_array().unwrap().clone()
    }

    /// The container whose first process this is, as `GET /containers/ID/json` has it.
    pub fn container_of(&self, pid: u32) -> Option<Value> {
        let running = self.must("GET", "/containers/json", &Value::Null);
        let each = running.as_array().unwrap().iter().map(|it| {
            // One that goes meanwhile is not it.
            self.call("GET", &format!("/containers/{}/json", it["Id"].as_str().unwrap()), &Value::Null).1
        });
        each.into_iter().find(|it| it["State"]["Pid"] == pid)
    }

    /// A container that has nothing to do with any server, with these labels; its id. It sleeps until it is removed.
    pub fn strangers_container(&self, labels: &Value) -> String {
        let spec = json!({
            "Image": self.image, "Cmd": ["sleep", "3600"], "Labels": labels,
            "HostConfig": { "NetworkMode": "none" }, "StopSignal": "SIGKILL",
        });
        let id = self.must("POST", "/containers/create", &spec)["Id"].as_str().unwrap().to_owned();
        self.must("POST", &format!("/containers/{id}/start"), &Value::Null);
        id
    }

    /// Whether a container is there and runs.
    pub fn is_running(&self, id: &str) -> bool {
        self.call("GET", &format!("/containers/{id}/json"), &Value::Null).1["State"]["Running"] == true
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let mut keeper = keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(keeper.orders.take());
        let _ = keeper.process.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).exists())
}

/// The archive of the image, which is made if it has to be; why it cannot be made.
pub fn image_archive() -> Result<PathBuf, String> {
    let output = Command::new("python3").arg(IMAGE_MAKER).output().map_err(|error| format!("python3: {error}"))?;
    match output.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        false => Err(format!("no image: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
