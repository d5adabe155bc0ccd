//! The allow-list of system calls as a profile that a container engine loads.
//!
//! Owns the translation of `sandbox::seccomp`'s tables into the JSON that Docker, Podman and the runtimes below them read.
//! Does not own the policy: no call is named here but the one that loads a filter. Pure.
//!
//! What the format can say is less than what a filter of our own can:
//!
//! - A rule holds when all its comparisons do, each of another argument; the rules of a call are alternatives, and what no
//!   rule takes gets the default. Overlapping rules with different answers are undefined, so ours never overlap.
//! - There is no "none of these". A refusal with an error number of its own needs its complement written out, in prefixes
//!   of bits, and is left to the default (`ENOSYS`) where that takes more than [`REFUSAL_RULES_MAX`] rules. Either way the
//!   call is not made.
//! - Names that the engine's own library does not know are passed over by it, and get the default.
//! - Arguments are compared by masks of the low 32 bits, as in the filter of process mode.
//! - A call of another architecture ends the calling thread, or the process: that is the engine's library's choice.
//!
//! The runtime loads the profile as the last thing before it executes the container's program, since the container may
//! not gain privileges; what it still calls then is in the list anyway.
//!
//! In a container whose connections are brokered the profile is the outer one of two filters, of the same policy: the inner
//! one, which asks the server about every `connect`, is loaded in the container, since the engine's format cannot hand its
//! listener over. Here `connect` passes, and so does the one call that loads a filter; the inner one then refuses it. What
//! both refuse has the inner one's error number: of equal answers the kernel takes the last filter's.

use std::sync::Arc;

use serde::Serialize;

use crate::sandbox::plan::Network;
use crate::sandbox::seccomp::{calls, Arch, Check, Sockets, Treatment, Verdict};

/// A refusal whose complement takes more rules than this has the default's error number instead of its own.
pub const REFUSAL_RULES_MAX: usize = 64;

const ENOSYS: u16 = 38;
/// All of the 32 bits that are compared.
const WORD: u32 = u32::MAX;

/// The call with which the brokered filter is loaded, before anything of the image runs: `seccomp(SECCOMP_SET_MODE_FILTER, flags, ...)` with
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`, and `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` where the kernel knows it.
const LOADER: (&str, u32, &[u32]) = ("seccomp", 1, &[1 << 3, 1 << 3 | 1 << 5]);

/// The profile, as JSON on one line.
pub fn profile(arch: Arch, network: Network) -> Arc<str> {
    // Of serialising numbers and texts nothing can fail.
    serde_json::to_string(&Profile::new(arch, network)).unwrap_or_default().into()
}

/// The profile as the engine's format has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: &'static str,
    default_errno_ret: u16,
    architectures: [&'static str; 1],
    syscalls: Vec<Rule>,
}

/// What is answered to these calls, if every comparison holds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<&'static str>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Comparison>,
}

/// `argument & mask == value`. In the format the mask is called value, and the value its second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Comparison {
    index: u32,
    #[serde(rename = "value")]
    mask: u32,
    #[serde(rename = "valueTwo")]
    value: u32,
    op: &'static str,
}

impl Comparison {
    fn new(index: u32, (mask, value): (u32, u32)) -> Self {
        Comparison { index, mask, value, op: "SCMP_CMP_MASKED_EQ" }
    }
}

/// Comparisons of different arguments that hold together.
type Conjunction = Vec<Comparison>;

impl Profile {
    fn new(arch: Arch, network: Network) -> Self {
        let default = Verdict::Errno(ENOSYS);
        let mut syscalls = Vec::new();
        let mut groups: Vec<(Treatment, Vec<&'static str>)> = Vec::new();
        for (_, name, treatment) in calls(arch, sockets(network)).filter(|(_, name, _)| !is_loader(network, name)) {
            match groups.iter_mut().find(|(group, _)| is_same(group, &treatment)) {
                Some((_, names)) => names.push(name),
                None => groups.push((treatment, vec![name])),
            }
        }
        for (treatment, names) in groups {
            match treatment {
                // The default's own answer is written out as well, for engines that have another default.
                Treatment::Always(verdict) => syscalls.push(rule(&names, verdict, Vec::new())),
                Treatment::Checked(checks) => syscalls.extend(checked(&names, checks)),
            }
        }
        if network == Network::Outbound {
            let (name, operation, flags) = LOADER;
            let arguments =
                |flags: &u32| vec![Comparison::new(0, (WORD, operation)), Comparison::new(1, (WORD, *flags))];
            syscalls.extend(flags.iter().map(|flags| rule(&[name], Verdict::Allow, arguments(flags))));
        }
        let architecture = match arch {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
        };
        let (default_action, _) = action(default);
        Profile { default_action, default_errno_ret: ENOSYS, architectures: [architecture], syscalls }
    }
}

fn sockets(network: Network) -> Sockets {
    match network {
        Network::Outbound => Sockets::Brokered,
        Network::None | Network::Host => Sockets::Direct,
    }
}

fn is_loader(network: Network, name: &str) -> bool {
    network == Network::Outbound && name == LOADER.0
}

fn is_same(left: &Treatment, right: &Treatment) -> bool {
    match (left, right) {
        (Treatment::Always(left), Treatment::Always(right)) => left == right,
        (Treatment::Checked(left), Treatment::Checked(right)) => std::ptr::eq(*left, *right),
        _ => false,
    }
}

fn action(verdict: Verdict) -> (&'static str, Option<u16>) {
    match verdict {
        // The inner filter asks.
        Verdict::Allow | Verdict::Ask => ("SCMP_ACT_ALLOW", None),
        Verdict::Errno(number) => ("SCMP_ACT_ERRNO", Some(number)),
        Verdict::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
    }
}

fn rule(names: &[&'static str], verdict: Verdict, args: Conjunction) -> Rule {
    let (action, errno_ret) = action(verdict);
    Rule { names: names.to_vec(), action, errno_ret, args }
}

/// The rules of calls that are allowed while every check holds: first those that allow, then the refusals.
fn checked(names: &[&'static str], checks: &[Check]) -> Vec<Rule> {
    let mut rules = Vec::new();
    // What has passed all checks so far. None at all is one conjunction of nothing.
    let mut passed: Vec<Conjunction> = vec![Vec::new()];
    for check in checks {
        let Sides { holds, fails, refusal } = sides(check);
        let refused = product(&passed, &fails);
        if refused.len() <= REFUSAL_RULES_MAX {
            rules.extend(refused.into_iter().map(|args| rule(names, refusal, args)));
        }
        passed = product(&passed, &holds);
    }
    let mut allowed: Vec<Rule> = passed.into_iter().map(|args| rule(names, Verdict::Allow, args)).collect();
    allowed.append(&mut rules);
    allowed
}

/// A check as alternatives: when it holds, and when it does not.
struct Sides {
    holds: Vec<Conjunction>,
    fails: Vec<Conjunction>,
    refusal: Verdict,
}

fn sides(check: &Check) -> Sides {
    match *check {
        Check::OneOf { argument, mask, values, refusal } => {
            let one = |comparison| vec![Comparison::new(argument, comparison)];
            let holds = values.iter().map(|&value| one((mask, value))).collect();
            let fails = complement(mask, values).into_iter().map(one).collect();
            Sides { holds, fails, refusal }
        }
        Check::Pair { arguments: [first, second], values, lists_refused, refusal } => {
            let firsts: Vec<u32> = values.iter().map(|(value, _)| *value).collect();
            let mut listed = Vec::new();
            let mut others: Vec<Conjunction> =
                complement(WORD, &firsts).into_iter().map(|prefix| vec![Comparison::new(first, prefix)]).collect();
            for (value, seconds) in values {
                let with =
                    |comparison| vec![Comparison::new(first, (WORD, *value)), Comparison::new(second, comparison)];
                listed.extend(seconds.iter().map(|&second| with((WORD, second))));
                others.extend(complement(WORD, seconds).into_iter().map(with));
            }
            match lists_refused {
                true => Sides { holds: others, fails: listed, refusal },
                false => Sides { holds: listed, fails: others, refusal },
            }
        }
    }
}

/// Every way in which one of `left` holds together with one of `right`.
fn product(left: &[Conjunction], right: &[Conjunction]) -> Vec<Conjunction> {
    let with = |conjunction: &Conjunction| {
        let conjunction = conjunction.clone();
        right.iter().map(move |more| [conjunction.as_slice(), more.as_slice()].concat())
    };
    left.iter().flat_map(with).collect()
}

/// What is none of `values`, under a mask: pairs of mask and value of which each number under the mask that is not among
/// them fits exactly one, and none of them any.
fn complement(mask: u32, values: &[u32]) -> Vec<(u32, u32)> {
    let mut prefixes = Vec::new();
    // Prefixes of bits, with the values that begin so.
    let mut open = vec![(0, 0, values.to_vec())];
    for bit in (0..u32::BITS).rev().map(|bit| 1_u32 << bit).filter(|bit| mask & bit != 0) {
        for (above, prefix, values) in std::mem::take(&mut open) {
            for value in [0, bit] {
                let next = (above | bit, prefix | value);
                let within: Vec<u32> = values.iter().copied().filter(|inside| inside & bit == value).collect();
                match within.is_empty() {
                    true => prefixes.push(next),
                    false => open.push((next.0, next.1, within)),
                }
            }
        }
    }
    prefixes
}

#[cfg(test)]
mod tests;
