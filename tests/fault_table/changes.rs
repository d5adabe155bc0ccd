//! Changes of functions that are made while the server is killed, and what a client can know of them: of each function the
//! last state that was acknowledged, and the one that was on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::common::Server;

/// What a client knows of one function.
#[derive(Debug, Default, Clone)]
struct Known {
    acknowledged: Option<u64>,
    under_way: Option<Option<u64>>,
}

/// One who posts, replaces and deletes functions of its own. A function's code names its state.
#[derive(Debug)]
pub(crate) struct Changer {
    client: usize,
    known: BTreeMap<String, Known>,
    /// Changes that were acknowledged.
    pub(crate) made: u64,
}

impl Changer {
    pub(crate) fn new(client: usize) -> Changer {
        Changer { client, known: BTreeMap::new(), made: 0 }
    }

    /// Makes a change at each pace, or as fast as it can, until the server is gone or it is told to end; says when one
    /// has been acknowledged.
    pub(crate) fn change(&mut self, server: &Server, pace: Duration, ended: &AtomicBool, acknowledged: &AtomicBool) {
        let begun = Instant::now();
        for turn in 1.. {
            if ended.load(Ordering::Relaxed) || !self.change_once(server) {
                return;
            }
            acknowledged.store(true, Ordering::Relaxed);
            std::thread::sleep((pace * turn).saturating_sub(begun.elapsed()));
        }
    }

    /// Whether the server answered.
    fn change_once(&mut self, server: &Server) -> bool {
        // Never again the same: what is found must be told from what was there before.
        let state = self.known.values().flat_map(|known| known.acknowledged).max().unwrap_or(0) + 1 + self.made;
        let name = format!("f{}-{}", self.client, self.made % 3);
        let function = self.known.entry(name.clone()).or_default();
        let (method, path, wanted) = match function.acknowledged {
            None => ("POST", "/functions".to_owned(), Some(state)),
            Some(_) if self.made % 4 == 0 => ("DELETE", format!("/functions/{name}"), None),
            Some(_) => ("PUT", format!("/functions/{name}"), Some(state)),
        };
        let body = match method {
            "POST" => json!({ "name": name, "code": code(state) }).to_string(),
            "PUT" => json!({ "code": code(state) }).to_string(),
            _ => String::new(),
        };
        function.under_way = Some(wanted);
        let Some(status) = try_call(server, method, &path, &body) else { return false };
        assert!((200..300).contains(&status), "{method} {path}: {status}");
        *function = Known { acknowledged: wanted, under_way: None };
        self.made += 1;
        true
    }

    /// Compares what this client knows with what a server has after the end of another: acknowledged changes that are
    /// lost, and functions that are torn. From here on it knows what it has seen.
    pub(crate) fn compare(&mut self, server: &Server) -> Differences {
        let mut differences = Differences::default();
        for (name, known) in &mut self.known {
            let reply = server.get(&format!("/functions/{name}"));
            let found = match reply.status {
                404 => None,
                200 => {
                    let found = reply.json()["code"].as_str().unwrap().to_owned();
                    let state = found.lines().next().and_then(|line| line.strip_prefix("# ")?.parse().ok());
                    differences.torn += u64::from(state.map(code) != Some(found));
                    state
                }
                _ => panic!("{name}: {}", reply.text()),
            };
            let possible = [Some(known.acknowledged), known.under_way];
            if !possible.contains(&Some(found)) {
                eprintln!("{name} is {found:?}, but {known:?}");
                differences.lost += 1;
            }
            *known = Known { acknowledged: found, under_way: None };
        }
        differences
    }

    /// The functions that this client knows to be there.
    pub(crate) fn functions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.known.iter().filter_map(|(name, known)| Some((name.as_str(), known.acknowledged?)))
    }
}

/// What should be nothing.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    pub(crate) lost: u64,
    pub(crate) torn: u64,
}

fn code(state: u64) -> String {
    format!("# {state}\ndef handle(request):\n    return {state}\n")
}

/// The names of all functions of a server.
pub(crate) fn names(server: &Server) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut path = "/functions?limit=1000".to_owned();
    loop {
        let page = server.get(&path).json();
        let functions = page["functions"].as_array().unwrap().iter();
        names.extend(functions.map(|function| function["name"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/functions?limit=1000&cursor={cursor}"),
            None => return names,
        }
    }
}

/// The status of an answer, unless the server goes away before it has given one.
fn try_call(server: &Server, method: &str, path: &str, body: &str) -> Option<u16> {
    let mut stream = std::net::TcpStream::connect(server.address).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer demo-key\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    std::str::from_utf8(&answer).ok()?.split(' ').nth(1)?.parse().ok()
}
