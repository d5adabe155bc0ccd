//! The load: a thread with keep-alive connections that sends requests at a pace, or as fast as they are answered, and
//! gives an account of every single one.
//!
//! A connection has one request under way at most. One that ends is made anew; a connection that is refused is tried again
//! after a moment. With a pace, requests that are due while no connection is free wait a little and are counted as unsent
//! beyond that, so that no load catches up with a whole outage in one burst.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::account::{Account, Fate, Record};
use super::common::{eventually, patience, Server};

/// Requests that are due and wait for a connection, as a time at the pace.
const DEBT: Duration = Duration::from_millis(100);
/// A connection that was refused is tried again after this long.
const AGAIN: Duration = Duration::from_millis(10);
/// How precisely the pace is kept.
const TURN: Duration = Duration::from_millis(1);

/// How fast requests are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends its next request when it has its answer.
    AsAnswered,
    /// So many a second, whatever becomes of them.
    PerSecond(f64),
}

/// What is sent, and how.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// Sent in turn.
    pub(crate) requests: Vec<Vec<u8>>,
}

impl Plan {
    /// Calls of one function.
    pub(crate) fn invoking(name: &str, connections: usize, pace: Pace) -> Plan {
        Plan { connections, pace, requests: vec![invoke(name, "")] }
    }
}

/// The bytes of a call.
pub(crate) fn invoke(name: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /invoke/{name} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A load that is on its way.
pub(crate) struct Load {
    shared: Arc<Shared>,
    begun: Instant,
    thread: Option<JoinHandle<Account>>,
}

struct Shared {
    over: AtomicBool,
    good: AtomicU64,
}

impl Load {
    pub(crate) fn start(server: &Server, plan: Plan) -> Load {
        let shared = Arc::new(Shared { over: AtomicBool::new(false), good: AtomicU64::new(0) });
        let begun = Instant::now();
        let generator = Generator::new(server.address, plan, Arc::clone(&shared), begun);
        Load { shared, begun, thread: Some(std::thread::spawn(move || generator.run())) }
    }

    /// This moment on the clock of the account.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until so many more good answers have come.
    pub(crate) fn await_answers(&self, count: u64) {
        let goal = self.shared.good.load(Ordering::Relaxed) + count;
        eventually("requests are answered", || (self.shared.good.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    /// Sends nothing more, waits for what is under way, and gives the account.
    pub(crate) fn stop(mut self) -> Account {
        self.shared.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The row failed: the thread ends by itself.
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

/// Sends for a while and gives the account.
pub(crate) fn load_for(server: &Server, plan: Plan, time: Duration) -> Account {
    let load = Load::start(server, plan);
    std::thread::sleep(time);
    load.stop()
}

enum State {
    /// Tried again at this moment.
    Down(Instant),
    Connecting(TcpStream),
    Idle(TcpStream),
    /// A request is under way: when it was sent, and which bytes of it are still to go.
    Waiting(TcpStream, Instant, Vec<u8>),
}

struct Connection {
    state: State,
    /// Bytes of an answer that is not whole yet.
    input: Vec<u8>,
}

struct Generator {
    address: SocketAddr,
    plan: Plan,
    shared: Arc<Shared>,
    begun: Instant,
    poll: Poll,
    connections: Vec<Connection>,
    /// May name connections that have ended since.
    idle: VecDeque<usize>,
    account: Account,
    /// Requests that were due since the beginning.
    due: f64,
    /// Of these, sent or given up.
    done: f64,
    next: usize,
}

impl Generator {
    fn new(address: SocketAddr, plan: Plan, shared: Arc<Shared>, begun: Instant) -> Generator {
        let down = |_| Connection { state: State::Down(begun), input: Vec::new() };
        Generator {
            address,
            shared,
            begun,
            poll: Poll::new().unwrap(),
            connections: (0..plan.connections).map(down).collect(),
            idle: VecDeque::new(),
            account: Account::default(),
            due: 0.0,
            done: 0.0,
            next: 0,
            plan,
        }
    }

    fn run(mut self) -> Account {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 * 1024];
        let mut patient_until = None;
        loop {
            let _ = self.poll.poll(&mut events, Some(TURN));
            for event in &events {
                let Token(index) = event.token();
                self.progress(index, &mut buffer);
            }
            if self.shared.over.load(Ordering::Relaxed) {
                let until = *patient_until.get_or_insert_with(|| {
                    self.account.lasted = self.begun.elapsed();
                    Instant::now() + patience()
                });
                let waits = self.connections.iter().any(|it| matches!(it.state, State::Waiting(..)));
                if !waits || Instant::now() > until {
                    break;
                }
            } else {
                self.connect_again();
                self.send_due();
            }
        }
        for index in 0..self.connections.len() {
            self.end(index, Fate::Unanswered);
        }
        self.account
    }

    fn connect_again(&mut self) {
        let now = Instant::now();
        for index in 0..self.connections.len() {
            if !matches!(self.connections[index].state, State::Down(again) if again <= now) {
                continue;
            }
            let registered = TcpStream::connect(self.address).and_then(|mut stream| {
                stream.set_nodelay(true)?;
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(index), interest)?;
                Ok(stream)
            });
            match registered {
                Ok(stream) => self.connections[index].state = State::Connecting(stream),
                Err(_) => self.refuse(index),
            }
        }
    }

    fn refuse(&mut self, index: usize) {
        self.account.refused += 1;
        self.connections[index].state = State::Down(Instant::now() + AGAIN);
    }

    fn send_due(&mut self) {
        let Pace::PerSecond(rate) = self.plan.pace else {
            while let Some(index) = self.take_idle() {
                self.send(index);
            }
            return;
        };
        self.due = rate * self.begun.elapsed().as_secs_f64();
        while self.due - self.done >= 1.0 {
            let Some(index) = self.take_idle() else { break };
            self.done += 1.0;
            self.send(index);
        }
        let too_late = (self.due - self.done - rate * DEBT.as_secs_f64()).floor();
        if too_late > 0.0 {
            self.done += too_late;
            self.account.unsent += too_late as u64;
        }
    }

    fn take_idle(&mut self) -> Option<usize> {
        loop {
            let index = self.idle.pop_front()?;
            if matches!(self.connections[index].state, State::Idle(_)) {
                return Some(index);
            }
        }
    }

    fn send(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let state = std::mem::replace(&mut connection.state, State::Down(self.begun));
        let State::Idle(stream) = state else { unreachable!("only idle connections are taken") };
        let request = self.plan.requests[self.next % self.plan.requests.len()].clone();
        self.next += 1;
        connection.state = State::Waiting(stream, Instant::now(), request);
        self.write(index);
    }

    fn write(&mut self, index: usize) {
        let State::Waiting(stream, _, rest) = &mut self.connections[index].state else { return };
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(written) => drop(rest.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What the server said before it closed is still to be read.
                Err(_) => return self.read(index, &mut [0; 4096]),
            }
        }
    }

    /// What can be done on a connection is done.
    fn progress(&mut self, index: usize, buffer: &mut [u8]) {
        let connection = &mut self.connections[index];
        if let State::Connecting(stream) = &connection.state {
            if matches!(stream.take_error(), Ok(Some(_)) | Err(_)) {
                return self.refuse(index);
            }
            if stream.peer_addr().is_err() {
                return;
            }
            let State::Connecting(stream) = std::mem::replace(&mut connection.state, State::Down(self.begun)) else {
                unreachable!("looked at just now")
            };
            connection.state = State::Idle(stream);
            self.idle.push_back(index);
        }
        self.write(index);
        self.read(index, buffer);
    }

    fn read(&mut self, index: usize, buffer: &mut [u8]) {
        loop {
            let connection = &mut self.connections[index];
            let (State::Idle(stream) | State::Waiting(stream, ..)) = &mut connection.state else { return };
            match stream.read(buffer) {
                Ok(0) => return self.end(index, Fate::Closed),
                Ok(read) => {
                    connection.input.extend_from_slice(&buffer[..read]);
                    self.take_answer(index);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.end(index, Fate::Reset),
            }
        }
    }

    /// The connection is gone, and with it what was under way.
    fn end(&mut self, index: usize, fate: Fate) {
        let connection = &mut self.connections[index];
        connection.input.clear();
        let state = std::mem::replace(&mut connection.state, State::Down(Instant::now()));
        if let State::Waiting(_, sent, _) = state {
            self.record(sent, fate);
        }
    }

    fn record(&mut self, sent: Instant, fate: Fate) {
        let (sent, ended) = (sent - self.begun, self.begun.elapsed());
        self.account.records.push(Record { sent, ended, fate });
        if fate == Fate::Answered(200) {
            self.shared.good.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_answer(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(answer) = Answer::whole(&connection.input) else { return };
        if answer.status != 200 {
            let code = answer.code(&connection.input);
            *self.account.problems.entry((answer.status, code)).or_default() += 1;
            let must_say_when = matches!(answer.status, 429 | 503);
            self.account.without_retry_after += u64::from(must_say_when && !answer.says_when);
        }
        connection.input.drain(..answer.end);
        match std::mem::replace(&mut connection.state, State::Down(self.begun)) {
            State::Waiting(stream, sent, _) => {
                self.record(sent, Fate::Answered(answer.status));
                // One that was told that the connection ends must not send on it.
                if !answer.closes {
                    self.connections[index].state = State::Idle(stream);
                    self.idle.push_back(index);
                }
            }
            // Told off unasked (too many connections): the problem is in the account, and the connection is closed.
            State::Idle(_) | State::Connecting(_) | State::Down(_) => {
                self.connections[index].state = State::Down(Instant::now() + AGAIN);
            }
        }
    }
}

/// What the load needs to know of an answer.
struct Answer {
    status: u16,
    closes: bool,
    says_when: bool,
    body: usize,
    end: usize,
}

impl Answer {
    /// The answer at the beginning of these bytes, if it is whole.
    fn whole(bytes: &[u8]) -> Option<Answer> {
        let body = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..body]).expect("a head of ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let mut answer = Answer { status: status.expect("a status"), closes: false, says_when: false, body, end: 0 };
        let mut length = None;
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                answer.closes = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("retry-after") {
                answer.says_when = value.parse::<u32>().is_ok_and(|seconds| seconds > 0);
            }
        }
        answer.end = body + length.expect("a Content-Length");
        (bytes.len() >= answer.end).then_some(answer)
    }

    /// The `code` of a problem.
    fn code(&self, bytes: &[u8]) -> String {
        let problem: Option<serde_json::Value> = serde_json::from_slice(&bytes[self.body..self.end]).ok();
        problem.and_then(|problem| Some(problem.get("code")?.as_str()?.to_owned())).unwrap_or_default()
    }
}
