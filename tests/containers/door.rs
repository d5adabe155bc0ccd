//! A socket between a server and its engine, which can behave as engines should not.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

/// What comes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It leads to the engine.
    Open,
    /// There is no socket.
    Absent,
    /// It is closed at once.
    HangsUp,
    /// Every request is answered with 500 and words.
    Fails,
    /// What is answered is no HTTP.
    Babbles,
    /// The answer is an HTTP head that has no end.
    Drones,
    /// The answer begins well and promises more than ever comes.
    Breaks,
    /// Nothing is answered.
    IsSilent,
}

/// All that a server has to survive.
pub(crate) const BAD_MANNERS: [Manner; 7] =
    [Manner::Absent, Manner::HangsUp, Manner::Fails, Manner::Babbles, Manner::Drones, Manner::Breaks, Manner::IsSilent];

/// See the module's documentation.
pub(crate) struct Door {
    directory: TempDir,
    inside: Arc<Inside>,
}

struct Inside {
    engine: PathBuf,
    connections: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    manner: Manner,
    /// Both ends of every connection that was made in this manner; they are cut when it changes.
    open: Vec<UnixStream>,
}

impl Door {
    /// One to this engine.
    pub(crate) fn new(engine: &Path, manner: Manner) -> Door {
        let directory = tempfile::Builder::new().prefix("faas-door-").tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("hidden")).unwrap();
        let state = Mutex::new(State { manner: Manner::Absent, open: Vec::new() });
        let inside = Arc::new(Inside { engine: engine.to_owned(), connections: AtomicUsize::new(0), state });
        let door = Door { directory, inside: Arc::clone(&inside) };
        // It listens until this process ends, as the directory is gone before.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let inside = Arc::clone(&inside);
                std::thread::spawn(move || inside.serve(stream));
            }
        });
        door.set(manner);
        door
    }

    /// What the server is told to connect to.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// Behaves so from now on. Connections that are there are cut.
    pub(crate) fn set(&self, manner: Manner) {
        let mut state = self.inside.state();
        if (state.manner == Manner::Absent) != (manner == Manner::Absent) {
            let hidden = self.directory.path().join("hidden");
            let (from, to) = if manner == Manner::Absent { (self.socket(), hidden) } else { (hidden, self.socket()) };
            // It listens still: a socket is found by its file, whatever that is called.
            std::fs::rename(from, to).unwrap();
        }
        state.manner = manner;
        state.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    /// How many connections have been made.
    pub(crate) fn connections(&self) -> usize {
        self.inside.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.set(Manner::HangsUp);
    }
}

impl Inside {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: UnixStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state();
        let manner = state.manner;
        state.open.push(stream.try_clone().unwrap());
        if manner == Manner::Open {
            let Ok(engine) = UnixStream::connect(&self.engine) else { return };
            state.open.push(engine.try_clone().unwrap());
            drop(state);
            return both_ways(stream, engine);
        }
        drop(state);
        // Whoever is cut off ends here, with an error that is none.
        let _ = misbehave(&mut stream, manner);
        // A copy is kept elsewhere, which does not mean that it is open.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Carries bytes between two until either ends.
fn both_ways(one: UnixStream, other: UnixStream) {
    let carry = |mut from: UnixStream, mut to: UnixStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let (from, to) = (one.try_clone().unwrap(), other.try_clone().unwrap());
    let back = std::thread::spawn(move || carry(to, from));
    carry(one, other);
    let _ = back.join();
}

fn misbehave(stream: &mut UnixStream, manner: Manner) -> std::io::Result<()> {
    if matches!(manner, Manner::Absent | Manner::HangsUp) {
        return Ok(());
    }
    // The head of a request; its body, if any, may stay unread.
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    match manner {
        Manner::Fails => {
            let body = r#"{"message":"the disk of the engine is on fire"}"#;
            let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close";
            write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        Manner::Babbles => stream.write_all(&[0xfe, b'\n', 0, b'{'].repeat(16 << 10)),
        Manner::Drones => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            loop {
                stream.write_all(b"X-Again: and again\r\n")?;
            }
        }
        Manner::Breaks => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 9999\r\n\r\n{\"Id\":")
        }
        // Until it is cut.
        _ => stream.read_to_end(&mut request).map(drop),
    }
}
