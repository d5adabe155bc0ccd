//! Driving connections: accept, read, hand requests to the API, write, close.

use std::io;

use mio::{Interest, Token};

use crate::auth::{AuthError, Principal, Scope};
use crate::http::{Conn, Poll, Problem, RequestHead, Response};
use crate::limits::{
    API_BODY_BYTES_MAX, CONNECTIONS_ACCEPTED_PER_TURN_MAX, FRONT_SOCKETS_PER_STEP_MAX, FRONT_SOCKETS_PER_TURN_MAX,
    HTTP_CONNECTIONS_REFUSED_MAX, HTTP_REQUESTS_PER_TURN_MAX,
};

use super::clients::{Admitted, Read1, Waiting};
use super::routes::{route, Access, NoRoute, Route};
use super::Front;

impl Front {
    /// Accepts who waits, but no more than one turn allows. Whether somebody waits still.
    pub(super) fn accept(&mut self) -> bool {
        self.accept_on = false;
        for _ in 0..CONNECTIONS_ACCEPTED_PER_TURN_MAX {
            let Some(listener) = &self.listener else { return false };
            match listener.accept() {
                Ok((stream, _)) => self.welcome(stream, b""),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if std::mem::take(&mut self.out_of_descriptors) {
                        log::info!("all connections are accepted again");
                    }
                    return false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                    // The poll is edge-triggered and will not tell again of what waits: try when a connection has been
                    // closed, and at the next sweep, rather than spin until a descriptor is free.
                    if !std::mem::replace(&mut self.out_of_descriptors, true) {
                        log::error!("no connection can be accepted: {error}; tried again all the time");
                    }
                    self.accept_again = true;
                    return false;
                }
                // The client gave up before it was accepted.
                Err(error) => log::debug!("accept: {error}"),
            }
        }
        self.accept_on = true;
        true
    }

    /// Takes a connection in, of which these bytes were read already.
    pub(super) fn welcome(&mut self, stream: mio::net::TcpStream, unread: &[u8]) {
        let _ = stream.set_nodelay(true);
        if self.clients.len() >= self.settings.connections_max + HTTP_CONNECTIONS_REFUSED_MAX {
            // Whoever is told that there is no room takes some: not more than this.
            return;
        }
        let mut conn = if self.clients.len() < self.settings.connections_max {
            Conn::new(self.now, self.http_limits)
        } else {
            let detail = format!(
                "the server has {} connections, which is limits.max_connections",
                self.settings.connections_max
            );
            let problem = Problem::unavailable("too_many_connections", detail);
            Conn::refused(self.now, self.http_limits, problem, &mut self.stamp)
        };
        if !unread.is_empty() {
            conn.received(unread);
        }
        if self.stop.is_some() {
            conn.announce_stop();
        }
        let id = self.clients.insert(stream, conn);
        let key = id.key();
        let Some(client) = self.clients.at(key) else { return };
        if let Err(error) =
            self.desk.registry().register(&mut client.stream, Token(key), Interest::READABLE | Interest::WRITABLE)
        {
            log::error!("a connection cannot be watched: {error}");
            self.clients.remove(key);
            return;
        }
        self.drive(key);
    }

    pub(super) fn readable(&mut self, key: usize, to_the_end: bool) {
        let Some(client) = self.clients.at(key) else { return };
        match client.read(&mut self.buffer, to_the_end) {
            Read1::Drained => {}
            Read1::Closed => client.conn.peer_closed(),
            Read1::Broken => return self.close(key),
        }
        self.drive(key);
    }

    pub(super) fn writable(&mut self, key: usize) {
        let now = self.now;
        let Some(client) = self.clients.at(key) else { return };
        if !client.has_output() {
            return;
        }
        if !client.write(now) {
            return self.close(key);
        }
        self.drive(key);
    }

    /// Lets connections go on that had more requests than one turn allows: as many as it may attend to besides, since
    /// all connections there are may have more.
    pub(super) fn drive_again(&mut self) {
        for number in 1..=self.again.len().min(FRONT_SOCKETS_PER_TURN_MAX) {
            if number % FRONT_SOCKETS_PER_STEP_MAX == 0 {
                self.attend();
            }
            let Some(id) = self.again.pop_front() else { return };
            if let Some(client) = self.clients.get(id) {
                client.goes_on = false;
                self.drive(id.key());
            }
        }
    }

    pub(super) fn expire(&mut self, key: usize) {
        let Some(client) = self.clients.at(key) else { return };
        client.conn.expired(self.now, &mut self.stamp);
        self.drive(key);
    }

    /// Lets a connection go on as far as it can: parse, handle, answer, write, and read what it left in the kernel.
    ///
    /// A connection that has more requests than one turn allows goes on at the next, after the others.
    pub(super) fn drive(&mut self, key: usize) {
        let mut requests = 0;
        loop {
            if self.leaves(key) {
                return;
            }
            let Some(client) = self.clients.at(key) else { return };
            let requests_max = if self.requests_left > 0 { HTTP_REQUESTS_PER_TURN_MAX } else { 1 };
            if requests >= requests_max {
                if !std::mem::replace(&mut client.goes_on, true) {
                    self.again.push_back(client.id);
                }
                return;
            }
            let mut admitted = client.route.take();
            let (keys, limits) = (&self.keys, &self.settings);
            let poll = client.conn.poll(self.now, &mut self.stamp, &mut |head: &RequestHead| {
                let admission = admit(keys, head, limits.request_body_bytes_max);
                admission.map(|(route, bytes_max)| {
                    admitted = Some(route);
                    bytes_max
                })
            });
            match poll {
                Poll::Request(request) => {
                    requests += 1;
                    self.requests_left = self.requests_left.saturating_sub(1);
                    if let Some(admitted) = admitted {
                        let id = client.id;
                        self.handle(id, admitted, request);
                    }
                }
                Poll::NeedBytes | Poll::WaitingForResponse => {
                    client.route = admitted;
                    let had_output = client.has_output();
                    if !client.write(self.now) {
                        return self.close(key);
                    }
                    if had_output && !client.has_output() {
                        // What was held back until the answer was taken may go on: the next request, or the end.
                        continue;
                    }
                    if !client.is_to_read_on() {
                        return;
                    }
                    match client.read(&mut self.buffer, true) {
                        Read1::Drained => {}
                        Read1::Closed => client.conn.peer_closed(),
                        Read1::Broken => return self.close(key),
                    }
                }
                Poll::Close => {
                    client.write(self.now);
                    return self.close(key);
                }
            }
        }
    }

    /// Answers the request that a connection is waiting for, and lets it go on.
    pub(super) fn respond(&mut self, key: usize, response: Response) {
        let Some(client) = self.clients.at(key) else { return };
        client.waiting = Waiting::Nothing;
        client.attendance = None;
        if self.stop.is_some() {
            // What has come by now is not to be cut off by an answer that says it was the last. If the connection is
            // broken, the poll tells.
            if client.read(&mut self.buffer, true) == Read1::Closed {
                client.conn.peer_closed();
            }
        }
        client.conn.respond(response, self.now, &self.stamp);
    }

    pub(super) fn close(&mut self, key: usize) {
        let Some(mut client) = self.clients.remove(key) else { return };
        self.may_accept = true;
        let _ = self.desk.registry().deregister(&mut client.stream);
        if let Waiting::Call(invocation) = client.waiting {
            // Nobody waits any more: a call that has not begun need not begin.
            if let Some(call) = self.calls.finish(invocation) {
                self.functions.count(&call.function.name, |stats| stats.abandoned += 1);
            }
            let now_ns = self.now_ns();
            self.scheduler.cancel(invocation, now_ns, &mut self.actions);
        }
    }
}

/// Whether a request may go on, judged by its head alone: what it asks for, and how large its body may be.
fn admit(
    keys: &crate::auth::KeyRing,
    head: &RequestHead,
    body_bytes_max: usize,
) -> Result<(Admitted, usize), Response> {
    judge(keys, head, body_bytes_max).map_err(|problem| problem.into_response(head.request_id()))
}

fn judge(keys: &crate::auth::KeyRing, head: &RequestHead, body_bytes_max: usize) -> Result<(Admitted, usize), Problem> {
    let routed = route(head.method(), head.path());
    // Without a key nobody learns which resources there are, except those that are open.
    if let Ok((route, Access::Open)) = routed {
        return Ok((Admitted { route, manages: false }, API_BODY_BYTES_MAX));
    }
    let principal = keys.authenticate(head.headers_named("authorization")).map_err(unauthorized)?;
    let (route, access) = routed.map_err(|error| match error {
        NoRoute::BadTarget(error) => Problem::invalid("invalid_target", error.to_string()),
        NoRoute::NotFound => Problem::not_found(format!("there is no resource {}", head.path())),
        NoRoute::Method { allow } => Problem::method_not_allowed(allow),
    })?;
    if let Access::Scope(scope) = access {
        require(principal, scope)?;
    }
    let bytes_max = match &route {
        Route::Invoke(..) => body_bytes_max,
        _ => API_BODY_BYTES_MAX,
    };
    Ok((Admitted { route, manages: principal.scopes.allows(Scope::Manage) }, bytes_max))
}

fn require(principal: &Principal, scope: Scope) -> Result<(), Problem> {
    if principal.scopes.allows(scope) {
        return Ok(());
    }
    Err(Problem::forbidden(format!("the key {} lacks the scope {}", principal.name, scope.as_str())))
}

fn unauthorized(error: AuthError) -> Problem {
    Problem::unauthorized(error.to_string())
}
