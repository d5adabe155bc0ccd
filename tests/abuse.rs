//! The table of attacks (`abuse/cases.rs`): each is a function, posted to a running server, first as a handler and then
//! as top-level code of what it imports. Each meets what the table says, and leaves nothing behind.
//!
//! The author is taken to be capable: native code, the instance's own channel, every system call that the filter lets
//! through. Every attack aims at a server that the test itself started, and is bounded where a wall may be missing.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

#[path = "abuse/cases.rs"]
mod cases;
mod common;
#[path = "abuse/contained.rs"]
mod contained;
#[path = "abuse/contained_matrix.rs"]
mod contained_matrix;
#[path = "abuse/lacking.rs"]
mod lacking;
#[path = "abuse/matrix.rs"]
mod matrix;
#[path = "abuse/remains.rs"]
mod remains;
#[path = "abuse/scene.rs"]
mod scene;
#[path = "abuse/table.rs"]
mod table;

use std::collections::BTreeSet;

use cases::THEMES;
use common::mode::{about_processes_alone, can_run_functions};
use contained::Differs;
use scene::Scene;
use table::{Case, Moment};

/// Whether the case is to be run: with `FAAS_ABUSE` only those named there are, with `FAAS_ABUSE_NOT` all but those.
fn is_wanted(case: &Case) -> bool {
    let named = |variable| std::env::var(variable).ok().map(|names| names.split(',').any(|name| name == case.name));
    named("FAAS_ABUSE").unwrap_or(true) && !named("FAAS_ABUSE_NOT").unwrap_or(false)
}

/// Runs the cases of a theme on one server.
fn endure(theme: &str, moment: Moment) {
    if !can_run_functions() {
        return;
    }
    let theme = THEMES.iter().find(|known| known.name == theme).unwrap();
    let scene = Scene::set("").with_checks();
    let mut failed = Vec::new();
    for case in theme.rows.iter().flat_map(|row| row.cases) {
        if let Some(Differs::DoesNotApply(why)) = contained::difference(case) {
            about_processes_alone(&format!("{}: {why}", case.name));
        } else if is_wanted(case) {
            // The others are still worth knowing when one fails.
            let fared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.endure(theme, case, moment)));
            if fared.is_err() {
                failed.push(case.name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_call_that_takes_all_it_can_meets_its_limits() {
    endure("exhaust", Moment::Call);
}

#[test]
fn top_level_code_that_takes_all_it_can_meets_its_limits() {
    endure("exhaust", Moment::Import);
}

#[test]
fn a_call_that_does_not_end_or_ends_badly_costs_its_instance_at_most() {
    endure("ends", Moment::Call);
}

#[test]
fn top_level_code_that_does_not_end_or_ends_badly_costs_its_instance_at_most() {
    endure("ends", Moment::Import);
}

#[test]
fn a_call_that_looks_for_others_finds_nobody() {
    endure("others", Moment::Call);
}

#[test]
fn top_level_code_that_looks_for_others_finds_nobody() {
    endure("others", Moment::Import);
}

#[test]
fn a_call_reaches_nothing_of_the_host() {
    endure("host", Moment::Call);
}

#[test]
fn top_level_code_reaches_nothing_of_the_host() {
    endure("host", Moment::Import);
}

#[test]
fn a_call_is_refused_what_the_kernel_offers_to_attackers() {
    endure("kernel", Moment::Call);
}

#[test]
fn top_level_code_is_refused_what_the_kernel_offers_to_attackers() {
    endure("kernel", Moment::Import);
}

#[test]
fn nothing_of_a_function_outlives_a_server_that_is_killed() {
    if !can_run_functions() {
        return;
    }
    let (theme, case) = cases::outliving();
    assert!(!Scene::set("").leaves_something_when_killed(theme, case));
}

#[test]
fn the_table_names_every_function_of_its_files_once() {
    let mut rows = 0;
    for theme in THEMES {
        let written: BTreeSet<&str> = theme
            .code
            .lines()
            .filter_map(|line| line.strip_prefix("def ")?.strip_suffix("():"))
            .filter(|name| !name.starts_with('_'))
            .collect();
        let listed: Vec<&str> = theme.rows.iter().flat_map(|row| row.cases).map(|case| case.name).collect();
        assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), written, "{}", theme.name);
        assert_eq!(listed.len(), written.len(), "a case of {} is listed twice", theme.name);
        assert!(theme.rows.iter().all(|row| !row.cases.is_empty()));
        rows += theme.rows.len();
    }
    assert!(rows >= 45, "{rows} kinds of attack");
}
