//! Orders of blanks, until the engine is asked for a container: they wait until it is there and has less to do, or are
//! turned down.

use std::time::Instant;

use crate::backend::docker::api::containers;
use crate::backend::docker::api::system::EngineKind;
use crate::backend::docker::files;
use crate::backend::docker::hardening::ContainerSpec;
use crate::backend::docker::launch::{command, Rendezvous};
use crate::backend::docker::life::{Life, Told};
use crate::backend::recipients::Recipient;
use crate::backend::runtimes::{index_of, network_of};
use crate::backend::Wish;
use crate::call::{BlankFailure, Slot};
use crate::limits::{
    CONTAINER_STARTS_MAX, CONTAINER_START_TIMEOUT, FUNCTION_CPU_MILLIS_DEFAULT, FUNCTION_MEMORY_BYTES_DEFAULT,
};
use crate::sandbox::plan::Network;
use crate::scheduler::RuntimeId;

use super::container::{Container, Meeting};
use super::ends::Removal;
use super::questions::{Question, Step};
use super::watch::Source;
use super::Supervisor;

/// A blank that is wanted.
#[derive(Debug)]
pub(super) struct Order {
    slot: Slot,
    runtime: RuntimeId,
    recipient: Recipient,
    ordered: Instant,
}

impl Supervisor {
    pub(super) fn order(&mut self, wish: Wish) {
        let (slot, runtime, recipient) = self.recipients.place(wish);
        self.orders.push_back(Order { slot, runtime, recipient, ordered: Instant::now() });
    }

    /// Starts what is ordered, as far as the engine is there and not busy with as many as it should be at once.
    pub(super) fn place_orders(&mut self, now: Instant) {
        if let Some(reason) = self.engine.refusal() {
            let orders = std::mem::take(&mut self.orders);
            for order in orders {
                self.turn_down(order.slot, order.recipient, reason.clone());
            }
            return;
        }
        // Whoever ordered them has given them up by now.
        let is_late = |order: &Order| now >= order.ordered + CONTAINER_START_TIMEOUT;
        while self.orders.front().is_some_and(is_late) {
            let Some(order) = self.orders.pop_front() else { return };
            self.turn_down(order.slot, order.recipient, "the container engine was too slow".to_owned());
        }
        let Some(kind) = self.engine.kind() else { return };
        if self.orders.is_empty() {
            return;
        }
        let mut starting = self.containers.iter().filter(|(_, container)| container.life.is_starting()).count();
        while starting < CONTAINER_STARTS_MAX {
            let Some(order) = self.orders.pop_front() else { return };
            self.place(order, kind, now);
            starting += 1;
        }
    }

    fn place(&mut self, order: Order, engine: EngineKind, now: Instant) {
        let Order { slot, runtime, recipient, .. } = order;
        let Some(image) = self.settings.images.get(index_of(runtime)) else {
            return self.turn_down(slot, recipient, format!("runtime {} is no image", runtime.0));
        };
        let network = network_of(runtime);
        let name = format!("faas-{}-{}-{slot}", self.settings.server, self.settings.incarnation);
        let uid = self.settings.uid_base.saturating_add(slot.index);
        let prepared = Rendezvous::prepare(&self.settings.directory, &slot.to_string(), Some(uid))
            .and_then(|rendezvous| Ok((rendezvous, Meeting::prepare()?)));
        let (rendezvous, meeting) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return self.turn_down(slot, recipient, format!("its socket cannot be made: {error}")),
        };
        let spec = ContainerSpec {
            engine,
            image: image.id.to_string(),
            command: command(network),
            labels: containers::labels(&self.settings.server, self.settings.side),
            uid,
            // Those that most functions have: with others a container is told when a function moves in.
            memory_bytes: FUNCTION_MEMORY_BYTES_DEFAULT,
            cpu_millis: FUNCTION_CPU_MILLIS_DEFAULT,
            network,
            seccomp: self.settings.profiles.of(engine, network),
            label: self.settings.security_label.clone(),
            run_directory: rendezvous.directory().to_owned(),
            shim_directory: files::shim_directory(&self.settings.directory),
            resolver: (network == Network::Outbound).then(|| files::resolv_conf(&self.settings.directory)),
        };
        let entry = self.containers.vacant_entry();
        let key = entry.key();
        let watched = rendezvous.watch(self.desk.registry(), Source::Listener.token(key));
        let request = containers::create(&name, &spec);
        entry.insert(Container {
            slot,
            name,
            spec,
            life: Life::new(),
            deadline: now + CONTAINER_START_TIMEOUT,
            recipient: Some(recipient),
            network,
            meeting: Some(meeting),
            process: None,
            memory: None,
            rendezvous,
            removal: Removal::of_one_that_is_made(watched.is_ok()),
            is_kill_asked: false,
            is_starved: false,
            exit_looks: 0,
            exit: None,
        });
        self.by_slot.insert(slot, key);
        match watched {
            Ok(()) => drop(self.ask(request, Question::Start { key, slot, step: Step::Create })),
            Err(error) => self.proceed(key, Told::Failed(format!("its socket cannot be watched: {error}"))),
        }
    }

    /// When the first order has waited for as long as a start may take.
    pub(super) fn next_late(&self) -> Option<Instant> {
        self.orders.front().map(|order| order.ordered + CONTAINER_START_TIMEOUT)
    }

    /// At the end of the server: nothing is begun any more, and what has begun is given up.
    pub(super) fn give_up_all(&mut self) {
        const REASON: &str = "the server is stopping";
        for order in std::mem::take(&mut self.orders) {
            self.turn_down(order.slot, order.recipient, REASON.to_owned());
        }
        let keys: Vec<usize> = self.containers.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.proceed(key, Told::Failed(REASON.to_owned()));
            self.bury_key(key);
        }
    }

    /// An order of which no container came to be.
    fn turn_down(&mut self, slot: Slot, recipient: Recipient, reason: String) {
        self.recipients.give_back(slot);
        self.refuse(slot, recipient, reason.into());
    }

    /// Tells who ordered a blank that there is none. A checker's slot stays its container's until that is removed.
    pub(super) fn refuse(&self, slot: Slot, recipient: Recipient, failure: BlankFailure) {
        log::warn!("{slot}: no container: {}", failure.reason);
        self.recipients.refuse(slot, recipient, failure);
    }
}
