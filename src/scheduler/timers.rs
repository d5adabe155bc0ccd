//! A hierarchical timing wheel: every deadline of the scheduler, armed and disarmed in constant time.
//!
//! Nearly every call ends long before its deadline, so a heap with lazy deletion would hold thirty seconds of dead
//! entries (millions at full load). Here a disarmed timer is gone at once; memory is bounded by the number of owners.
//!
//! Time is cut into ticks of about a millisecond. Level L has 64 buckets of 64^L ticks; a timer sits at the level of
//! the highest base-64 digit in which its tick differs from the present one, and sinks as that digit is reached.
//! It follows that every timer of a level comes before every timer of the levels above, that no bucket ever wraps,
//! and that the next deadline is the lowest bit of the lowest occupied level.
//!
//! Invariants: a timer never fires early, and fires at most one tick late when [`Wheel::pop`] is called in time. A
//! timer armed while another fires never fires in the same tick, so that handling timers always ends.

use super::list::{Linked, Links, List, NIL};

/// A tick is 2^20 ns, 1.05 ms.
const TICK_SHIFT: u32 = 20;
const DIGIT_BITS: u32 = 6;
/// 64^8 ticks are more than a `u64` of nanoseconds can hold, so that no deadline needs clamping.
const LEVELS: usize = 8;

const _: () = assert!(LEVELS as u32 * DIGIT_BITS >= u64::BITS - TICK_SHIFT);

/// A handle that the owner of a timer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimerId(u32);

impl TimerId {
    /// Not armed.
    pub(super) const NONE: TimerId = TimerId(NIL);

    pub(super) fn is_armed(self) -> bool {
        self != TimerId::NONE
    }
}

/// Whose timer it is, by index in the owner's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerKey {
    /// A call's deadline.
    Call(u32),
    /// Whatever the tenant of a slot waits for next.
    Slot(u32),
    /// The end of a version's backoff.
    Version(u32),
    /// The next look at how many instances of an adaptive version should be warm.
    Idle(u32),
    /// The end of a runtime's backoff.
    Runtime(u32),
    /// The end of a grace during which an idle instance was left alone that another function could use.
    Room,
    /// The end of the server's patience at shutdown.
    Drain,
}

#[derive(Debug)]
struct Node {
    key: TimerKey,
    tick: u64,
    level: u8,
    bucket: u8,
    links: Links,
}

impl Linked for Node {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug)]
pub(super) struct Wheel {
    tick: u64,
    nodes: Vec<Node>,
    free: Vec<u32>,
    buckets: Box<[[List; 64]; LEVELS]>,
    /// One bit for each bucket that is not empty.
    occupied: [u64; LEVELS],
}

impl Wheel {
    pub(super) fn new() -> Self {
        Wheel {
            tick: 0,
            nodes: Vec::new(),
            free: Vec::new(),
            buckets: Box::new([[List::EMPTY; 64]; LEVELS]),
            occupied: [0; LEVELS],
        }
    }

    /// Sets `timer` to fire at `due_ns`, instead of whenever it was to fire before.
    pub(super) fn arm(&mut self, timer: &mut TimerId, due_ns: u64, key: TimerKey) {
        // One tick is added so that the tick begins after the deadline, never before it.
        let tick = ((due_ns >> TICK_SHIFT) + 1).max(self.tick + 1);
        let at = match *timer {
            TimerId::NONE => self.new_node(key, tick),
            TimerId(at) => {
                self.unlink(at);
                let node = &mut self.nodes[at as usize];
                (node.key, node.tick) = (key, tick);
                at
            }
        };
        self.link(at);
        *timer = TimerId(at);
    }

    pub(super) fn disarm(&mut self, timer: &mut TimerId) {
        if timer.is_armed() {
            self.unlink(timer.0);
            self.free.push(timer.0);
            *timer = TimerId::NONE;
        }
    }

    /// The next timer that is due at `now_ns`. Its owner's handle is void from here on and must be forgotten.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<TimerKey> {
        let now = now_ns >> TICK_SHIFT;
        loop {
            let Some((level, bucket, tick)) = self.first().filter(|&(_, _, tick)| tick <= now) else {
                self.tick = self.tick.max(now);
                return None;
            };
            self.tick = tick;
            if level == 0 {
                let at = self.buckets[0][bucket].front()?;
                self.unlink(at);
                self.free.push(at);
                return Some(self.nodes[at as usize].key);
            }
            // The bucket is spread whole: what stayed behind would be later than the levels below say.
            while let Some(at) = self.buckets[level][bucket].front() {
                self.unlink(at);
                self.link(at);
            }
        }
    }

    /// When [`Wheel::pop`] has something to do next, in nanoseconds: a timer to fire, or a bucket to spread.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.first().map(|(_, _, tick)| tick << TICK_SHIFT)
    }

    /// The earliest bucket that is not empty, and the tick at which it begins.
    fn first(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        let bucket = self.occupied[level].trailing_zeros();
        let shift = level as u32 * DIGIT_BITS;
        let above = shift + DIGIT_BITS;
        let tick = (self.tick >> above << above) | u64::from(bucket) << shift;
        Some((level, bucket as usize, tick))
    }

    fn new_node(&mut self, key: TimerKey, tick: u64) -> u32 {
        let node = Node { key, tick, level: 0, bucket: 0, links: Links::NONE };
        match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    fn link(&mut self, at: u32) {
        let tick = self.nodes[at as usize].tick;
        let level = ((tick ^ self.tick) | 1).ilog2() / DIGIT_BITS;
        let bucket = (tick >> (level * DIGIT_BITS)) & 63;
        let node = &mut self.nodes[at as usize];
        (node.level, node.bucket) = (level as u8, bucket as u8);
        self.buckets[level as usize][bucket as usize].push_back(&mut self.nodes, at);
        self.occupied[level as usize] |= 1 << bucket;
    }

    fn unlink(&mut self, at: u32) {
        let Node { level, bucket, .. } = self.nodes[at as usize];
        let list = &mut self.buckets[usize::from(level)][usize::from(bucket)];
        list.remove(&mut self.nodes, at);
        if list.is_empty() {
            self.occupied[usize::from(level)] &= !(1 << bucket);
        }
    }

    /// The most timers that were ever armed at once.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.nodes.len()
    }

    /// Timers that are armed now.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn armed(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK_NS: u64 = 1 << TICK_SHIFT;

    #[test]
    fn a_disarmed_timer_leaves_nothing_behind() {
        let mut wheel = Wheel::new();
        let mut timer = TimerId::NONE;
        for round in 0..1000 {
            wheel.arm(&mut timer, round * 30_000_000_000, TimerKey::Drain);
            wheel.disarm(&mut timer);
        }
        assert_eq!((wheel.armed(), wheel.nodes.len(), wheel.next_ns()), (0, 1, None));
    }

    #[test]
    fn the_end_of_time_can_be_waited_for() {
        let mut wheel = Wheel::new();
        let mut timer = TimerId::NONE;
        wheel.arm(&mut timer, u64::MAX - 2 * TICK_NS, TimerKey::Drain);
        assert_eq!(wheel.pop(u64::MAX / 2), None);
        assert_eq!(wheel.pop(u64::MAX), Some(TimerKey::Drain));
    }

    #[test]
    fn a_timer_armed_while_another_fires_waits_for_the_next_tick() {
        let mut wheel = Wheel::new();
        let (mut first, mut second) = (TimerId::NONE, TimerId::NONE);
        wheel.arm(&mut first, 0, TimerKey::Call(1));
        let now = 5 * TICK_NS;
        assert_eq!(wheel.pop(now), Some(TimerKey::Call(1)));
        wheel.arm(&mut second, now, TimerKey::Call(2));
        assert_eq!(wheel.pop(now), None);
        assert_eq!(wheel.pop(now + TICK_NS), Some(TimerKey::Call(2)));
    }

    proptest! {
        /// Against a plain list of deadlines: nothing early, nothing forgotten, nothing twice.
        #[test]
        fn fires_each_timer_once_and_in_time(
            steps in proptest::collection::vec((0u8..4, 0usize..16, 0u64..40), 1..300),
        ) {
            let mut wheel = Wheel::new();
            let mut handles = [TimerId::NONE; 16];
            let mut model: [Option<u64>; 16] = [None; 16];
            let mut now = 0u64;
            for (step, who, size) in steps {
                match step {
                    // Distances from below a tick to hours, evenly over the orders of magnitude.
                    0 | 1 => {
                        let due = now + (1u64 << size) + size;
                        wheel.arm(&mut handles[who], due, TimerKey::Call(who as u32));
                        model[who] = Some(due);
                    }
                    2 => {
                        wheel.disarm(&mut handles[who]);
                        model[who] = None;
                    }
                    _ => {
                        now += 1u64 << size;
                        while let Some(TimerKey::Call(who)) = wheel.pop(now) {
                            let who = who as usize;
                            handles[who] = TimerId::NONE;
                            let due = model[who].take();
                            prop_assert!(due.is_some_and(|due| due <= now), "{who} fired at {now}, due {due:?}");
                        }
                        for due in model.iter().flatten() {
                            prop_assert!(due + 2 * TICK_NS > now, "due {due} forgotten at {now}");
                        }
                    }
                }
                prop_assert_eq!(wheel.armed(), model.iter().flatten().count());
                let earliest = model.iter().flatten().min().copied();
                prop_assert_eq!(wheel.next_ns().is_some(), earliest.is_some());
                if let (Some(next), Some(earliest)) = (wheel.next_ns(), earliest) {
                    prop_assert!(next <= earliest.max(now) + 2 * TICK_NS);
                }
            }
        }
    }
}
