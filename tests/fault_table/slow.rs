//! Clients that take their time: a head that trickles in, a body that does, an answer that is hardly read. The server may
//! send them away for it; here they come back at once, so that there are always as many.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::common::Server;
use super::table::sized;

/// Between two bytes of one client, and between two of its looks at its connection.
const PAUSE: Duration = Duration::from_secs(1);
/// What slow readers ask for, in bytes. Hundreds of large ones would keep a debug build busy by themselves.
pub(crate) fn answer_bytes() -> usize {
    sized(1024, 256) * 1024
}

/// A body of this rate is not too slow for the server.
const BODY_PIECE: [u8; 1500] = [b'x'; 1500];

/// What a client is slow at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Head,
    Body,
    Reading,
}

struct Client {
    kind: Kind,
    stream: Option<TcpStream>,
    /// What of the head was sent.
    sent: usize,
    next: Instant,
}

/// Slow clients that keep a server company until this is dropped.
pub(crate) struct SlowClients {
    over: Arc<AtomicBool>,
    connected: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl SlowClients {
    /// Brings so many, a third of each kind. `large` is a function whose answer is large.
    pub(crate) fn bring(server: &Server, count: usize, large: &str) -> SlowClients {
        let (over, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let begin = Instant::now();
        let kinds = [Kind::Head, Kind::Body, Kind::Reading];
        let clients = (0..count).map(|index| Client {
            kind: kinds[index % kinds.len()],
            stream: None,
            sent: 0,
            // Not all at the same moment, now or later.
            next: begin + PAUSE.mul_f64(index as f64 / count as f64),
        });
        let heads = kinds.map(|kind| head(kind, large));
        let crowd = Crowd { address: server.address, clients: clients.collect(), heads };
        let thread = std::thread::spawn({
            let (over, connected) = (Arc::clone(&over), Arc::clone(&connected));
            move || crowd.linger(&over, &connected)
        });
        SlowClients { over, connected, thread: Some(thread) }
    }

    /// How many are connected at this moment.
    pub(crate) fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }
}

impl Drop for SlowClients {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn head(kind: Kind, large: &str) -> Vec<u8> {
    let (name, length) = match kind {
        Kind::Head => ("f", 0),
        Kind::Body => ("f", 1_000_000),
        Kind::Reading => (large, 0),
    };
    let padding = "x".repeat(200);
    format!(
        "POST /invoke/{name} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer demo-key\r\nContent-Length: {length}\r\n\
         X-Padding: {padding}\r\n\r\n"
    )
    .into_bytes()
}

struct Crowd {
    address: SocketAddr,
    clients: Vec<Client>,
    heads: [Vec<u8>; 3],
}

impl Crowd {
    fn linger(mut self, over: &AtomicBool, connected: &AtomicU64) {
        while !over.load(Ordering::Relaxed) {
            let now = Instant::now();
            for client in self.clients.iter_mut().filter(|client| client.next <= now) {
                client.next = now + PAUSE;
                client.act(self.address, &self.heads[client.kind as usize]);
            }
            let there = self.clients.iter().filter(|client| client.stream.is_some()).count();
            connected.store(there as u64, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Client {
    fn act(&mut self, address: SocketAddr, head: &[u8]) {
        let Some(stream) = &mut self.stream else {
            self.sent = 0;
            self.stream = TcpStream::connect(address).ok();
            if let (Kind::Reading, Some(stream)) = (self.kind, &self.stream) {
                // The kernel makes no room for what is not read.
                let _ = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::RcvBuf, &4096);
            }
            return;
        };
        let rest = &head[self.sent..];
        let wrote = match self.kind {
            _ if !rest.is_empty() && self.kind == Kind::Head => stream.write(&rest[..1]),
            _ if !rest.is_empty() => stream.write(rest),
            Kind::Body => stream.write(&BODY_PIECE),
            Kind::Head | Kind::Reading => Ok(0),
        };
        // A few bytes are taken, so that the server cannot say that nothing was.
        let read = stream.read(&mut [0; 64]);
        let is_over = |result: &std::io::Result<usize>| {
            result.as_ref().err().is_some_and(|error| {
                !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
            })
        };
        if is_over(&wrote) || is_over(&read) || matches!(read, Ok(0)) || (self.kind != Kind::Reading && read.is_ok()) {
            self.stream = None;
        } else {
            self.sent = (self.sent + wrote.unwrap_or(0)).min(head.len());
        }
    }
}
