//! What a server does when another one wants its place: the stages of the conversation, as a pure state machine.
//!
//! Owns the order of things and the time that each may take. The front sends, receives and carries out.
//!
//! Invariants, held by a test over every sequence of inputs:
//! - Changes are held from [`Effect::HoldChanges`] to [`Effect::Resume`], and a conversation that ends in any way but by
//!   [`Input::Ceded`] resumes what it has held.
//! - [`Effect::Cede`] is only asked for while changes are held and the function logs are written out.

use std::time::{Duration, Instant};

use crate::limits::{TAKEOVER_GREETING_TIMEOUT, TAKEOVER_HOLD_TIMEOUT, TAKEOVER_PREPARATION_TIMEOUT};

/// Where a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Somebody has connected.
    Greeting,
    /// A successor makes itself ready.
    Preparing,
    /// Changes under way come to their end.
    Settling,
    /// Nothing is changed any more; the successor reads.
    Held,
    /// The function logs are written out.
    Closing,
    /// The successor serves.
    Ceded,
    /// It is over, and nothing has changed.
    Over,
}

/// What happens to a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The successor introduced itself, and may go on.
    Hello,
    /// It is ready.
    Freeze,
    /// All changes are on the disk.
    Settled,
    /// It has read them.
    Go,
    /// The function logs are written out.
    LogsWritten,
    /// It was told that all is its own.
    Ceded,
    /// It said what makes no sense.
    Violation,
    /// It hung up, or cannot be reached.
    Gone,
    /// The time of the stage is over.
    TimeUp,
    /// This server stops.
    Stopping,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Send `Offer`, with the lock and the listener.
    Offer,
    /// Let no further change begin, and tell when none is under way.
    HoldChanges,
    /// Send `Frozen`.
    SayFrozen,
    /// Have the function logs written out and left alone.
    CloseLogs,
    /// Send `Yours`; then it is [`Input::Ceded`], or [`Input::Gone`] if it cannot be sent.
    Cede,
    /// Changes and function logs go on here.
    Resume,
    /// Say why the conversation ends.
    Refuse(&'static str),
    /// Hang up.
    HangUp,
}

/// One conversation.
#[derive(Debug)]
pub struct Incumbent {
    stage: Stage,
    /// When the stage has lasted too long.
    until: Option<Instant>,
}

impl Incumbent {
    /// Somebody has connected.
    pub fn new(now: Instant) -> Self {
        Incumbent { stage: Stage::Greeting, until: Some(now + TAKEOVER_GREETING_TIMEOUT) }
    }

    /// Where it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// When [`Input::TimeUp`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Takes in what has happened, and says what is to be done, in this order.
    pub fn step(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        use {Effect as E, Input as I, Stage as S};
        // Whatever it is, it comes too late: the successor may have given up. A process that was stopped for a while
        // hears all of it at once.
        let is_late = self.until.is_some_and(|until| until <= now) && input != I::Ceded;
        let input = if is_late && input != I::Gone { I::TimeUp } else { input };
        let (next, patience, effects): (_, Option<Duration>, &[Effect]) = match (self.stage, input) {
            (S::Ceded | S::Over, _) => return Vec::new(),
            (S::Greeting, I::Hello) => (S::Preparing, Some(TAKEOVER_PREPARATION_TIMEOUT), &[E::Offer]),
            (S::Preparing, I::Freeze) => (S::Settling, Some(TAKEOVER_HOLD_TIMEOUT), &[E::HoldChanges]),
            (S::Settling, I::Settled) => (S::Held, None, &[E::SayFrozen]),
            (S::Held, I::Go) => (S::Closing, None, &[E::CloseLogs]),
            (S::Closing, I::LogsWritten) => (S::Closing, None, &[E::Cede]),
            (S::Closing, I::Ceded) => {
                (self.stage, self.until) = (S::Ceded, None);
                return Vec::new();
            }
            // News of a stage that was left, such as by a conversation that broke off.
            (_, I::Settled | I::LogsWritten | I::Ceded) => return Vec::new(),
            (stage, input) => {
                (self.stage, self.until) = (S::Over, None);
                let mut effects = Vec::new();
                if matches!(stage, S::Settling | S::Held | S::Closing) {
                    effects.push(E::Resume);
                }
                effects.extend(match input {
                    I::Gone => None,
                    I::TimeUp => Some(E::Refuse("it took too long")),
                    I::Stopping => Some(E::Refuse("it is stopping")),
                    _ => Some(E::Refuse("what it was told makes no sense here")),
                });
                effects.push(E::HangUp);
                return effects;
            }
        };
        self.stage = next;
        // One time for all of what holds changes up.
        if let Some(patience) = patience {
            self.until = Some(now + patience);
        }
        effects.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUTS: [Input; 10] = [
        Input::Hello,
        Input::Freeze,
        Input::Settled,
        Input::Go,
        Input::LogsWritten,
        Input::Ceded,
        Input::Violation,
        Input::Gone,
        Input::TimeUp,
        Input::Stopping,
    ];

    /// What the front has done at the machine's word.
    #[derive(Debug, Default, Clone, PartialEq, Eq)]
    struct Done {
        held: bool,
        logs_closed: bool,
        may_cede: bool,
        hung_up: bool,
    }

    fn follow(machine: &mut Incumbent, input: Input, now: Instant, done: &mut Done) {
        for effect in machine.step(input, now) {
            assert!(!done.hung_up, "something after the end");
            match effect {
                Effect::HoldChanges => done.held = true,
                Effect::CloseLogs => done.logs_closed = true,
                Effect::Cede => {
                    assert!(done.held && done.logs_closed);
                    done.may_cede = true;
                }
                Effect::Resume => (done.held, done.logs_closed, done.may_cede) = (false, false, false),
                Effect::HangUp => done.hung_up = true,
                Effect::Offer | Effect::SayFrozen | Effect::Refuse(_) => {}
            }
        }
    }

    #[test]
    fn whatever_is_said_and_happens_either_all_is_ceded_or_all_goes_on() {
        let now = Instant::now();
        let mut reached = std::collections::BTreeSet::new();
        // Every sequence of six, which is how many it takes to cede.
        for mut code in 0..INPUTS.len().pow(6) {
            let (mut machine, mut done) = (Incumbent::new(now), Done::default());
            for _ in 0..6 {
                let input = INPUTS[code % INPUTS.len()];
                code /= INPUTS.len();
                // The front says so only after it was asked to.
                if input == Input::Ceded && !done.may_cede {
                    continue;
                }
                follow(&mut machine, input, now, &mut done);
            }
            match machine.stage() {
                Stage::Ceded => assert!(done.held && done.logs_closed && !done.hung_up),
                Stage::Over => assert!(!done.held && !done.logs_closed && done.hung_up),
                stage => {
                    assert_eq!(done.held, matches!(stage, Stage::Settling | Stage::Held | Stage::Closing));
                    assert_eq!(done.logs_closed, stage == Stage::Closing);
                    assert!(machine.deadline().is_some(), "nothing may last for ever");
                }
            }
            reached.insert(format!("{:?}", machine.stage()));
        }
        assert_eq!(reached.len(), 7, "{reached:?}");
    }

    #[test]
    fn what_comes_when_the_time_is_over_gives_nothing_away() {
        let begin = Instant::now();
        let mut machine = Incumbent::new(begin);
        for input in [Input::Hello, Input::Freeze, Input::Settled, Input::Go] {
            machine.step(input, begin);
        }
        let effects = machine.step(Input::LogsWritten, begin + TAKEOVER_HOLD_TIMEOUT);
        assert_eq!(effects[0], Effect::Resume, "{effects:?}");
        assert_eq!(machine.stage(), Stage::Over);
    }

    #[test]
    fn all_that_holds_changes_up_has_one_time() {
        let now = Instant::now();
        let mut machine = Incumbent::new(now);
        machine.step(Input::Hello, now);
        machine.step(Input::Freeze, now);
        let until = machine.deadline();
        assert_eq!(until, Some(now + TAKEOVER_HOLD_TIMEOUT));
        for input in [Input::Settled, Input::Go, Input::LogsWritten] {
            machine.step(input, now + Duration::from_secs(1));
            assert_eq!(machine.deadline(), until);
        }
        assert_eq!(machine.step(Input::TimeUp, now)[0], Effect::Resume);
    }
}
