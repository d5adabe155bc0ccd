//! What a deployment that has waited for an image needs so that it may be made still: a client that waits for it, and a
//! function that nobody has changed meanwhile.
//!
//! A client that went away may have come again with something else, which was acknowledged; and what was acknowledged
//! is not to be overwritten by what somebody gave up. That a client has gone may not be seen (its network is down,
//! say), so that a change that came in between counts by itself.
//!
//! Invariant: a claim is overtaken by every change of its function that is committed between its stake and its own
//! commit. Both are under the store's lock.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use crate::http::problem::Problem;

use super::preparations::Fetched;

/// A client that waits for a job's answer: held by the front until it is given, or the client is gone.
#[derive(Debug, Default)]
pub struct Attendance(Arc<()>);

impl Attendance {
    /// For the job.
    pub fn presence(&self) -> Presence {
        Presence(Some(Arc::downgrade(&self.0)))
    }
}

/// Whether the client of a job waits still.
#[derive(Debug, Clone)]
pub struct Presence(Option<Weak<()>>);

impl Presence {
    /// Of a job that has no client, and is done in any case.
    pub const NOBODY: Presence = Presence(None);

    fn is_over(&self) -> bool {
        self.0.as_ref().is_some_and(|attendance| attendance.strong_count() == 0)
    }
}

/// Deployments that have begun and are not made, by the names of their functions.
#[derive(Debug, Default)]
pub(super) struct Claims(Vec<(String, Weak<AtomicBool>)>);

impl Claims {
    /// A deployment of this function begins.
    pub(super) fn stake(&mut self, function: &str) -> Claim {
        self.0.retain(|(_, overtaken)| overtaken.strong_count() > 0);
        let claim = Claim(Arc::default());
        self.0.push((function.to_owned(), Arc::downgrade(&claim.0)));
        claim
    }

    /// The function was changed, or deleted.
    pub(super) fn overtake(&self, function: &str) {
        for (_, overtaken) in self.0.iter().filter(|(name, _)| name == function) {
            if let Some(overtaken) = overtaken.upgrade() {
                // Read under the same lock.
                overtaken.store(true, Relaxed);
            }
        }
    }
}

/// One of these.
#[derive(Debug, Clone)]
pub(super) struct Claim(Arc<AtomicBool>);

/// What a job comes back with that was put aside.
#[derive(Debug)]
pub(super) struct Waited {
    /// What came of its image.
    pub(super) fetched: Fetched,
    pub(super) claim: Claim,
    pub(super) client: Presence,
}

impl Waited {
    /// Whether the deployment may be made still, as long as the store's lock is held.
    pub(super) fn may_be_made(&self, function: &str) -> Result<(), Problem> {
        self.is_waited_for(function)?;
        if self.claim.0.load(Relaxed) {
            return Err(Problem::conflict(format!(
                "{function} was changed by another request while this one waited for its image; that change stays"
            )));
        }
        Ok(())
    }

    /// Whether anybody waits for it still. What is told otherwise nobody hears.
    pub(super) fn is_waited_for(&self, function: &str) -> Result<(), Problem> {
        if self.client.is_over() {
            log::info!("function {function} is not deployed: its client went away while it waited for its image");
            return Err(Problem::conflict("its client has gone"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_overtaken_by_changes_of_its_own_function_that_come_after_it() {
        let mut claims = Claims::default();
        let (first, other) = (claims.stake("f"), claims.stake("g"));
        claims.overtake("f");
        let second = claims.stake("f");
        let overtaken = |claim: &Claim| claim.0.load(Relaxed);
        assert!(overtaken(&first) && !overtaken(&other) && !overtaken(&second));
        claims.overtake("f");
        assert!(overtaken(&second) && !overtaken(&other));
        drop((first, second));
        let _third = claims.stake("h");
        assert_eq!(claims.0.len(), 2, "what is over is not kept");
    }

    #[test]
    fn a_client_is_present_until_the_front_lets_go_of_it() {
        let attendance = Attendance::default();
        let presence = attendance.presence();
        assert!(!presence.is_over() && !Presence::NOBODY.is_over());
        drop(attendance);
        assert!(presence.is_over());
    }
}
