//! What attacks meet in a container that is not what they meet in a sandbox of processes, and which have nothing to attack
//! there. What is not named here meets the same.

use super::table::{Case, Meets};
use crate::common::mode::in_containers;
use Meets::{Refused, Says};

/// What is different in a container.
pub(crate) enum Differs {
    /// It meets this, in a call and as top-level code.
    Meets(Meets),
    /// There is no such thing to attack, for this reason.
    DoesNotApply(&'static str),
}
use Differs::{DoesNotApply, Meets as Is};

/// By the names of the cases.
pub(crate) const DIFFERENT: &[(&str, Differs)] = &[
    (
        "clears_the_death_signal",
        DoesNotApply("the engine is its parent and not the server, whose end it learns in another way"),
    ),
    (
        "reads_its_own_memory_as_a_file",
        DoesNotApply("its process is dumpable there, and its user is no other's: it sees its own memory anyway"),
    ),
    // Its loopback works, and nobody listens on it.
    ("connects_to_the_host", Is(Refused(&["ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "ECONNREFUSED"]))),
    ("looks_at_the_names_of_the_host", Is(Says(r#"{"servers":["127.0.0.53"]}"#))),
    (
        "looks_at_its_devices",
        Is(Says(
            r#"["fd","full","mqueue","null","ptmx","pts","random","shm","stderr","stdin","stdout","tty","urandom","zero"]"#,
        )),
    ),
    ("is_a_user_of_its_own", Is(Says(r#"{"one":true,"of those for it":true}"#))),
    // What is masked there is empty.
    ("reads_of_the_kernel", Is(Refused(&["ENOENT", "ENODATA", "EPERM", "EACCES"]))),
];

/// What is different for this case in the mode that functions run in.
pub(crate) fn difference(case: &Case) -> Option<&'static Differs> {
    let found = DIFFERENT.iter().find(|(name, _)| *name == case.name).filter(|_| in_containers());
    found.map(|(_, differs)| differs)
}
