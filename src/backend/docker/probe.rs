//! One question to an engine, for who has no thread of containers: `--check-system`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::api::system::{self, Version};
use super::client::{Client, News};
use super::EngineError;

/// Longer than an engine that is well takes, and short for a person who waits.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the engine at this socket is. Blocks for a few seconds at most.
///
/// # Errors
/// Why nothing is known of it.
pub fn version(socket: PathBuf) -> Result<Version, EngineError> {
    let unreachable = |source| EngineError::Unreachable { socket: socket.clone(), source };
    let mut poll = Poll::new().map_err(unreachable)?;
    let mut events = Events::with_capacity(8);
    let mut client = Client::new(socket.clone(), 0);
    let mut request = system::version();
    request.timeout = PATIENCE;
    client.submit(poll.registry(), request, Instant::now());
    loop {
        match client.take_news() {
            Some(News::Reply { status, body, .. }) => return system::negotiated(status, &body),
            Some(News::Failed { error, .. }) => return Err(error),
            Some(_) => {}
            None => {
                let wake = client.next_wake().map(|at| at.saturating_duration_since(Instant::now()));
                poll.poll(&mut events, wake.or(Some(PATIENCE))).map_err(unreachable)?;
                let now = Instant::now();
                events.iter().for_each(|event| client.ready(poll.registry(), event, now));
                client.expire(poll.registry(), now);
            }
        }
    }
}
