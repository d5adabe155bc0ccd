//! Clients that call without a pause while servers change, and what they have seen.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Duration;

use crate::common::{eventually, patience, Reply, SetAtEnd};

/// How a client uses its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// One for all its calls.
    KeepsAlive,
    /// A new one for each.
    Connects,
    /// One, with several calls on their way at once.
    Pipelines,
}

/// What the clients have seen together.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) answered: AtomicU64,
    /// Every answer but the expected one, and every connection that was refused, reset or closed.
    pub(crate) failures: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Seen {
    /// Waits until so many more calls are answered.
    pub(crate) fn await_calls(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        eventually("calls are answered", || (self.answered.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
        // A client that fails at every call has said enough.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(patience())).unwrap();
    stream.set_nodelay(true).unwrap();
    Ok(stream)
}

/// Reads one answer; says what came instead.
fn answer(from: &mut BufReader<TcpStream>) -> Result<Reply, String> {
    use std::io::BufRead;
    loop {
        match from.fill_buf() {
            Ok([]) => return Err("the connection was closed".to_owned()),
            Ok(_) => return Ok(Reply::read(from, false)),
            // This process was stopped and goes on: a read with a timeout is not begun again by the kernel.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("read: {error}")),
        }
    }
}

fn judge(reply: &Reply, wanted: &str) -> Result<(), String> {
    match (reply.status, reply.text()) {
        (200, text) if text == wanted => Ok(()),
        (status, text) => Err(format!("{status}: {text}")),
    }
}

/// Calls `name`, which answers `wanted`, until it is over. A client whose connection ends begins another.
fn call(address: SocketAddr, name: &str, wanted: &str, habit: Habit, seen: &Seen) {
    let request = format!(
        "POST /invoke/{name} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: 2\r\n\r\nhi"
    );
    let at_once = if habit == Habit::Pipelines { 5 } else { 1 };
    while !seen.over.load(Ordering::Relaxed) {
        let outcome = connect(address).and_then(|mut stream| {
            let mut answers = BufReader::new(stream.try_clone().unwrap());
            loop {
                stream.write_all(request.repeat(at_once).as_bytes()).map_err(|error| format!("write: {error}"))?;
                for _ in 0..at_once {
                    judge(&answer(&mut answers)?, wanted)?;
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                }
                if habit == Habit::Connects || seen.over.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        });
        if let Err(what) = outcome {
            seen.fail(format!("{habit:?}: {what}"));
        }
    }
}

/// Runs `story` while clients of every habit call `name`, three of each.
pub(crate) fn under_load<T>(
    address: SocketAddr,
    name: &str,
    wanted: &str,
    story: impl FnOnce(&Seen) -> T,
) -> (Seen, T) {
    let seen = Seen::default();
    let told = std::thread::scope(|scope| {
        for habit in [Habit::KeepsAlive, Habit::Connects, Habit::Pipelines].repeat(3) {
            let seen = &seen;
            scope.spawn(move || call(address, name, wanted, habit, seen));
        }
        let _end = SetAtEnd(&seen.over);
        seen.await_calls(50);
        story(&seen)
    });
    (seen, told)
}
