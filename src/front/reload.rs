//! New settings while the front runs, and the signal that asks for them.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::auth::KeyRing;
use crate::control::{ControlJob, Presence, Ticket, Work};

use super::functions::Live;
use super::{Front, FrontSettings};

/// What the front takes at a reload.
#[derive(Debug)]
pub struct FrontUpdate {
    /// In the place of what it was given at the start.
    pub settings: FrontSettings,
    /// Who may come in from now on.
    pub keys: KeyRing,
    /// Told when all that is in force.
    pub applied: Sender<()>,
}

impl Front {
    /// Requests whose head was admitted go on by the old settings. Every head after this turn, on old connections too,
    /// is judged by the new ones.
    pub(super) fn reconfigure(&mut self, update: FrontUpdate) {
        let FrontUpdate { settings, keys, applied } = update;
        let now_ns = self.now_ns();
        self.scheduler.reconfigure(settings.scheduler.clone(), now_ns, &mut self.actions);
        self.settings = settings;
        self.keys = keys;
        self.revise_networks();
        // Who asked may have given up waiting.
        let _ = applied.try_send(());
    }

    /// Functions that may not have their network any more finish what was accepted and cannot be called until they may;
    /// those that now may can be called.
    fn revise_networks(&mut self) {
        let runs = |live: &Live| self.runtimes.known_for(&live.function).is_some();
        let revised = self.functions.live().filter(|live| runs(live) != live.key.is_some());
        let revised: Vec<_> = revised.map(|live| Arc::clone(&live.function)).collect();
        for function in revised {
            self.deploy(function);
        }
    }

    /// Asks a control thread for a reload; when they have too many jobs, again at the next sweep.
    pub(super) fn ask_reload(&mut self) {
        if self.is_preparing() {
            // A reload deploys functions, and they are another server's still: it comes when they are this one's.
            self.reload_again = true;
            return;
        }
        let job = ControlJob { ticket: Ticket::NOBODY, client: Presence::NOBODY, work: Work::Reload };
        self.reload_again = self.lines.control.try_send(job).is_err();
    }
}
