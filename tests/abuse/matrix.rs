//! Attacks with layers of the sandbox removed: each layer is shown to hold something, and each attack to be able to get
//! through. `docs/sandbox-matrix.md` shows the result, and is made from the same table.
//!
//! A server runs at level `none` without a set of layers, for each set that the table names. With `FAAS_MATRIX=all` all
//! attacks are made without each single layer, too, which is how the table is found; what it does not say is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use faas::sandbox::layer::Layer;

use super::cases::THEMES;
use super::scene::Scene;
use super::table::{Case, Outcome, Theme};
use crate::common::mode::in_containers;
use crate::common::{is_root, skip};

pub(crate) type Set = &'static [&'static str];

/// Servers at once.
const SERVERS: usize = 3;
const DOCUMENT: &str = "docs/sandbox-matrix.md";

pub(crate) fn cases() -> impl Iterator<Item = (&'static Theme, &'static Case)> {
    THEMES
        .iter()
        .flat_map(|theme| theme.rows.iter().flat_map(move |row| row.cases.iter().map(move |case| (theme, case))))
}

/// The layers that can be removed: without a mount namespace nothing can be built.
fn removable() -> impl Iterator<Item = &'static &'static str> {
    Layer::NAMES.iter().map(|(name, _)| name).filter(|name| **name != "mount_namespace")
}

/// What the table says of a case without these layers.
fn expected(case: &Case, set: Set) -> Outcome {
    let has = |sets: &[Set]| sets.contains(&set);
    match (has(case.held), has(case.caught)) {
        (true, _) => Outcome::Through,
        (_, true) => Outcome::Otherwise,
        _ => Outcome::Held,
    }
}

/// Every set of layers that is removed, and the attacks to make then; with `all`, nearly all of them for each layer.
fn experiments(all: bool) -> BTreeMap<Set, Vec<(&'static Theme, &'static Case)>> {
    let mut experiments: BTreeMap<Set, Vec<_>> = BTreeMap::new();
    for (theme, case) in cases().filter(|(_, case)| super::is_wanted(case)) {
        for set in case.held.iter().chain(case.caught) {
            experiments.entry(set).or_default().push((theme, case));
        }
    }
    if all {
        let quick = |case: &Case| !case.held.is_empty() || (case.timeout_ms > 2000 && case.memory == "64Mi");
        let single = removable().map(std::slice::from_ref);
        experiments.extend(single.map(|set| (set, cases().filter(|(_, case)| quick(case)).collect())));
    }
    experiments
}

#[test]
#[ignore = "part of `make test-matrix`: it takes walls down"]
fn each_layer_is_missed_when_it_is_gone_and_each_attack_gets_through_where_the_table_says() {
    if in_containers() {
        return;
    }
    if !is_root() {
        return skip("process mode needs root");
    }
    let all = std::env::var("FAAS_MATRIX").is_ok_and(|mode| mode == "all");
    let waiting = Mutex::new(experiments(all).into_iter().collect::<Vec<_>>());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SERVERS {
            scope.spawn(|| loop {
                let Some((set, attacks)) = waiting.lock().unwrap().pop() else { break };
                let found = experiment(set, &attacks);
                wrong.lock().unwrap().extend(found);
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    assert!(wrong.is_empty(), "the table says otherwise:\n{}", wrong.join("\n"));
}

#[test]
#[ignore = "part of `make test-matrix`: it takes a wall down"]
fn without_the_death_signal_a_function_outlives_its_server() {
    if in_containers() {
        return;
    }
    if !is_root() {
        return skip("process mode needs root");
    }
    let (theme, case) = super::cases::outliving();
    let system = "process_isolation_level: none\nsandbox_without: [death_signal]";
    assert!(Scene::set(system).leaves_something_when_killed(theme, case));
}

/// Makes the attacks without these layers; what fared otherwise than the table says.
fn experiment(set: Set, attacks: &[(&'static Theme, &'static Case)]) -> Vec<String> {
    // A function that is root and sees all processes could end every one of them.
    assert!(!(set.contains(&"identity") && set.contains(&"pid_namespace")), "{set:?} would harm this host");
    let system = format!("process_isolation_level: none\nsandbox_without: [{}]", set.join(", "));
    try_without(set, attacks, || Scene::set(&system), |case| expected(case, set))
}

/// Makes the attacks on a scene that lacks these, of either mode; what fared otherwise than expected.
pub(crate) fn try_without(
    set: Set,
    attacks: &[(&'static Theme, &'static Case)],
    scene: impl FnOnce() -> Scene + std::panic::UnwindSafe,
    expected: impl Fn(&Case) -> Outcome,
) -> Vec<String> {
    let Ok(scene) = std::panic::catch_unwind(scene) else {
        return vec![format!("without {} there is no server", set.join(", "))];
    };
    let (started, mut wrong) = (Instant::now(), Vec::new());
    for (theme, case) in attacks {
        let fared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.try_out(theme, case)));
        let fared = fared.unwrap_or(Outcome::Through);
        if fared != expected(case) {
            eprintln!("the table says otherwise: {}: {fared:?} without {}", case.name, set.join(", "));
            wrong.push(format!("{}: {fared:?} without {}", case.name, set.join(", ")));
        }
    }
    eprintln!("without {}: {} attacks in {:?}", set.join(", "), attacks.len(), started.elapsed());
    wrong
}

#[test]
fn every_layer_holds_an_attack_and_the_table_names_layers_that_exist() {
    let mut held: BTreeSet<&str> = BTreeSet::new();
    for (_, case) in cases() {
        held.extend(case.held.iter().copied().flatten());
        for layer in case.held.iter().chain(case.caught).copied().flatten() {
            assert!(Layer::NAMES.iter().any(|(name, _)| name == layer), "{}: {layer}", case.name);
        }
    }
    // The zygote has this one already, and what it forks inherits it: an instance cannot be made without.
    held.insert("no_new_privileges");
    let idle: Vec<_> = removable().filter(|name| !held.contains(*name)).collect();
    assert!(idle.is_empty(), "no attack gets through without {idle:?}");
}

#[test]
fn the_document_shows_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let wanted = document();
    if std::env::var_os("FAAS_WRITE_DOCUMENTS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{DOCUMENT} is not what the table says: FAAS_WRITE_DOCUMENTS=1 writes it");
}

fn document() -> String {
    let mut text = include_str!("matrix.md").to_owned();
    for (number, layer) in Layer::ALL.iter().enumerate() {
        writeln!(text, "| {} | `{}` | {} |", number + 1, layer.name(), layer.purpose()).unwrap();
    }
    for theme in THEMES {
        write!(text, "\n## {}\n\n| attack |", theme.title).unwrap();
        (1..=Layer::ALL.len()).for_each(|number| write!(text, " {number} |").unwrap());
        text.push_str(" together |\n|---|");
        text.push_str(&"---|".repeat(Layer::ALL.len() + 1));
        text.push('\n');
        for row in theme.rows {
            writeln!(text, "| **{}** |{}", row.attack, " |".repeat(Layer::ALL.len() + 1)).unwrap();
            row.cases.iter().for_each(|case| line(&mut text, case));
        }
    }
    text.push_str(&super::contained_matrix::document());
    text
}

fn line(text: &mut String, case: &Case) {
    write!(text, "| {} |", case.name.replace('_', " ")).unwrap();
    for (name, _) in Layer::NAMES {
        let single = std::slice::from_ref(name);
        let mark = match expected(case, single) {
            Outcome::Through => "● ",
            Outcome::Otherwise => "○ ",
            Outcome::Held => "",
        };
        write!(text, " {mark}|").unwrap();
    }
    let number = |layer: &&str| Layer::NAMES.iter().position(|(name, _)| name == layer).unwrap_or(0) + 1;
    let sets = case.held.iter().filter(|set| set.len() > 1);
    let sets: Vec<String> =
        sets.map(|set| set.iter().map(|layer| number(layer).to_string()).collect::<Vec<_>>().join(" + ")).collect();
    writeln!(text, " {} |", sets.join(", ")).unwrap();
}
