//! The form of the table of attacks: what a case is, what it must meet, and how a reply is judged.
//!
//! The table itself is in `cases.rs`. It is the single source: calls, imports, the matrix of layers and the document
//! that shows it are all made from it.

use serde_json::Value;

use super::contained::{self, Differs};
use crate::common::Reply;

/// Attacks of one kind: a file of Python and the rows that it serves.
pub(crate) struct Theme {
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    pub(crate) code: &'static str,
    pub(crate) rows: &'static [Row],
}

/// What a function does, in words, and the cases that do it.
pub(crate) struct Row {
    pub(crate) attack: &'static str,
    pub(crate) cases: &'static [Case],
}

/// One attack: a function of its theme's file.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) meets: Meets,
    pub(crate) at_import: AtImport,
    /// Sets of layers, by their names. With all layers of one set removed, the attack gets further than it should.
    pub(crate) held: &'static [&'static [&'static str]],
    /// Sets of layers with which gone it is still stopped, but by something else, which says so with another error.
    pub(crate) caught: &'static [&'static [&'static str]],
    /// What is said in the function's log afterwards.
    pub(crate) logs: Option<&'static str>,
    pub(crate) memory: &'static str,
    pub(crate) cpu_limit: &'static str,
    pub(crate) timeout_ms: u64,
    /// Whether the calls right after it may go down with its instance.
    pub(crate) drags_others_along: bool,
}

/// What an attack must meet.
pub(crate) enum Meets {
    /// It is left to tell, and tells this, which is JSON.
    Says(&'static str),
    /// It is left to tell, and tells these bytes.
    Returns(&'static str),
    /// It is left to tell an object of attempts, and each was refused with one of these errors.
    Refused(&'static [&'static str]),
    /// This status with this code, and this in the detail.
    Fails(u16, &'static str, &'static str),
    /// Any of these: which one is the kernel's and the interpreter's affair.
    OneOf(&'static [Meets]),
}

/// What the same attack must meet as top-level code.
pub(crate) enum AtImport {
    /// The same, told as a failure to load.
    Same,
    /// Something else.
    Meets(Meets),
}

/// Whether the attack is made in a call or by top-level code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Call,
    Import,
}

/// How an attack fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It met what it must meet.
    Held,
    /// It was stopped, but by something else.
    Otherwise,
    /// It got through.
    Through,
}

pub(crate) const fn case(name: &'static str, meets: Meets) -> Case {
    Case {
        name,
        meets,
        at_import: AtImport::Same,
        held: &[],
        caught: &[],
        logs: None,
        memory: "64Mi",
        cpu_limit: "1",
        timeout_ms: 10_000,
        drags_others_along: false,
    }
}

impl Case {
    pub(crate) const fn held(mut self, sets: &'static [&'static [&'static str]]) -> Case {
        self.held = sets;
        self
    }

    pub(crate) const fn caught(mut self, sets: &'static [&'static [&'static str]]) -> Case {
        self.caught = sets;
        self
    }

    pub(crate) const fn at_import(mut self, meets: Meets) -> Case {
        self.at_import = AtImport::Meets(meets);
        self
    }

    pub(crate) const fn logs(mut self, text: &'static str) -> Case {
        self.logs = Some(text);
        self
    }

    pub(crate) const fn memory(mut self, memory: &'static str) -> Case {
        self.memory = memory;
        self
    }

    pub(crate) const fn cpu_limit(mut self, cpu_limit: &'static str) -> Case {
        self.cpu_limit = cpu_limit;
        self
    }

    pub(crate) const fn timeout_ms(mut self, timeout_ms: u64) -> Case {
        self.timeout_ms = timeout_ms;
        self
    }

    pub(crate) const fn drags_others_along(mut self) -> Case {
        self.drags_others_along = true;
        self
    }

    /// How it fared that got this reply.
    pub(crate) fn judge(&self, reply: &Reply, moment: Moment) -> Outcome {
        if let Some(Differs::Meets(meets)) = contained::difference(self) {
            return meets.judge(reply, moment);
        }
        match (&self.at_import, moment) {
            (AtImport::Meets(meets), Moment::Import) => meets.judge(reply, Moment::Call),
            (AtImport::Same, _) | (_, Moment::Call) => self.meets.judge(reply, moment),
        }
    }
}

impl Meets {
    fn judge(&self, reply: &Reply, moment: Moment) -> Outcome {
        let said = (reply.status == 200).then(|| serde_json::from_slice::<Value>(&reply.body).ok()).flatten();
        match self {
            Meets::Says(text) => {
                let wanted: Value = serde_json::from_str(text).expect("the table holds JSON");
                held_if(said.as_ref() == Some(&wanted) && reply.status == 200)
            }
            Meets::Returns(text) => held_if(reply.status == 200 && reply.body == text.as_bytes()),
            Meets::Refused(errors) => {
                let Some(attempts) = said.as_ref().and_then(Value::as_object) else { return Outcome::Through };
                let is_refused = |fared: &Value| fared.as_str().is_some_and(|error| errors.contains(&error));
                if attempts.values().any(|fared| fared == "done" || fared == "ended") || attempts.is_empty() {
                    Outcome::Through
                } else if attempts.values().all(is_refused) {
                    Outcome::Held
                } else {
                    Outcome::Otherwise
                }
            }
            Meets::Fails(status, code, detail) => {
                let (status, code) =
                    if moment == Moment::Import { while_loading(*status, code) } else { (*status, *code) };
                held_if(
                    reply.status != 200
                        && (reply.status, reply.code().as_str()) == (status, code)
                        && reply.detail().contains(detail),
                )
            }
            Meets::OneOf(all) => held_if(all.iter().any(|meets| meets.judge(reply, moment) == Outcome::Held)),
        }
    }
}

fn held_if(met: bool) -> Outcome {
    if met {
        Outcome::Held
    } else {
        Outcome::Through
    }
}

/// How the failure of a call is told when it is one of top-level code: nothing of the call had begun.
fn while_loading(status: u16, code: &'static str) -> (u16, &'static str) {
    match code {
        "function_error" => (500, "function_load_error"),
        "function_timeout" => (503, "queue_timeout"),
        _ => (status, code),
    }
}
