//! The life of one container from its order until it is delivered or given up, as a pure state machine: it is told what the engine, the
//! kernel and the clock say, and answers what is to be done next.
//!
//! Two things go on at once behind the start: the container's process connects, and the engine is asked what it has made
//! of the order. A blank is delivered when both have come, in whatever order.
//!
//! Invariants: an order ends in exactly one [`Next::Deliver`] or [`Next::GiveUp`]; after [`Next::GiveUp`] nothing is
//! asked but the removal; whatever comes twice or late changes nothing.

/// What is known of a container now.
#[derive(Debug)]
pub(super) enum Told {
    /// The engine has made it.
    Created,
    /// It runs.
    Started,
    /// It is as it was ordered, and this is its first process.
    Verified(u32),
    /// Its process has been given its channel.
    Met,
    /// Something of it has failed, in words.
    Failed(String),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    Start,
    Inspect,
    Deliver { pid: u32 },
    GiveUp { reason: String },
}

#[derive(Debug)]
enum Stage {
    Creating,
    Starting,
    Meeting {
        pid: Option<u32>,
        is_met: bool,
    },
    /// Delivered: from here on its worker has it.
    Living,
    /// Given up.
    Lost,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Life {
    stage: Stage,
    /// Its process was quicker than the engine's answer to the start.
    is_met_early: bool,
}

impl Life {
    /// It has been ordered.
    pub(super) fn new() -> Life {
        Life { stage: Stage::Creating, is_met_early: false }
    }

    /// Whether it is on its way still, neither delivered nor given up.
    pub(super) fn is_coming(&self) -> bool {
        !matches!(self.stage, Stage::Living | Stage::Lost)
    }

    /// Whether the engine is at work for it: one of few that may be at once.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Creating | Stage::Starting)
    }

    pub(super) fn hear(&mut self, told: Told) -> Next {
        match (told, &mut self.stage) {
            (_, Stage::Living | Stage::Lost) => Next::Nothing,
            (Told::Failed(reason), stage) => {
                *stage = Stage::Lost;
                Next::GiveUp { reason }
            }
            (Told::Created, Stage::Creating) => {
                self.stage = Stage::Starting;
                Next::Start
            }
            (Told::Started, Stage::Starting) => {
                self.stage = Stage::Meeting { pid: None, is_met: self.is_met_early };
                Next::Inspect
            }
            (Told::Met, Stage::Creating | Stage::Starting) => {
                self.is_met_early = true;
                Next::Nothing
            }
            (Told::Met, Stage::Meeting { is_met, .. }) => {
                *is_met = true;
                self.deliver()
            }
            (Told::Verified(first), Stage::Meeting { pid, .. }) => {
                *pid = Some(first);
                self.deliver()
            }
            // An engine that says things in an order of its own: nothing depends on what it repeats.
            (Told::Created | Told::Started | Told::Verified(_), _) => Next::Nothing,
        }
    }

    fn deliver(&mut self) -> Next {
        match self.stage {
            Stage::Meeting { pid: Some(pid), is_met: true } => {
                self.stage = Stage::Living;
                Next::Deliver { pid }
            }
            _ => Next::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_is_delivered_when_it_is_verified_and_met_in_whatever_order() {
        let orders: [fn() -> [Told; 3]; 3] = [
            || [Told::Met, Told::Started, Told::Verified(7)],
            || [Told::Started, Told::Met, Told::Verified(7)],
            || [Told::Started, Told::Verified(7), Told::Met],
        ];
        for order in orders {
            let mut life = Life::new();
            assert_eq!(life.hear(Told::Created), Next::Start);
            let done: Vec<Next> = order().into_iter().map(|told| life.hear(told)).collect();
            assert_eq!(done.iter().filter(|next| **next == Next::Inspect).count(), 1);
            assert_eq!(done.iter().filter(|next| **next == Next::Deliver { pid: 7 }).count(), 1);
            assert_eq!(done[2], Next::Deliver { pid: 7 });
            assert!(!life.is_coming() && !life.is_starting());
        }
    }

    #[test]
    fn a_failure_at_any_point_before_the_delivery_gives_it_up_once() {
        for told_before in 0..=4 {
            let mut life = Life::new();
            let tellings = [Told::Created, Told::Started, Told::Verified(7), Told::Met];
            for told in tellings.into_iter().take(told_before) {
                life.hear(told);
            }
            let failed = |life: &mut Life| life.hear(Told::Failed("no".to_owned()));
            let expected = match told_before {
                4 => Next::Nothing,
                _ => Next::GiveUp { reason: "no".to_owned() },
            };
            assert_eq!(failed(&mut life), expected);
            assert_eq!(failed(&mut life), Next::Nothing);
            assert_eq!(life.hear(Told::Met), Next::Nothing);
            assert_eq!(life.hear(Told::Verified(7)), Next::Nothing);
        }
    }

    #[test]
    fn what_comes_twice_or_too_early_changes_nothing() {
        let mut life = Life::new();
        assert_eq!(life.hear(Told::Verified(1)), Next::Nothing);
        assert_eq!(life.hear(Told::Started), Next::Nothing);
        life.hear(Told::Created);
        assert_eq!(life.hear(Told::Created), Next::Nothing);
        life.hear(Told::Started);
        assert_eq!(life.hear(Told::Started), Next::Nothing);
        life.hear(Told::Met);
        assert_eq!(life.hear(Told::Met), Next::Nothing);
        assert_eq!(life.hear(Told::Verified(7)), Next::Deliver { pid: 7 });
    }
}
