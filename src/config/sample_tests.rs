//! The sample is the documentation of every key: it must load, show each key, and show the true defaults.

use std::collections::BTreeSet;

use super::api_keys::API_KEY_KEYS;
use super::functions::FUNCTION_KEYS;
use super::*;
use crate::registry::settings::FunctionSettings;

/// The home directory that the sample speaks of.
fn env(name: &str) -> Option<String> {
    (name == "HOME").then(|| "/home/you".to_owned())
}

fn load_text(text: &str) -> Settings {
    let file =
        ConfigFile::parse(CONFIG_FILE_DEFAULT.into(), text.as_bytes().to_vec()).unwrap_or_else(|e| panic!("{e}"));
    resolve(Some(&file), &CliOptions::default(), &env).unwrap_or_else(|e| panic!("{e}"))
}

fn defaults() -> Settings {
    resolve(None, &CliOptions::default(), &env).unwrap()
}

/// The sample with the `#` taken away wherever it stands directly before a key.
fn uncommented() -> String {
    let uncomment = |line: &str| {
        let text = line.trim_start();
        let indent = &line[..line.len() - text.len()];
        match text.strip_prefix('#') {
            Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase()) => format!("{indent}{key}\n"),
            _ => format!("{line}\n"),
        }
    };
    SAMPLE.lines().map(uncomment).collect()
}

/// The same settings but for what the sample is there to show.
fn without_example(mut settings: Settings) -> Settings {
    settings.config_file = None;
    settings.functions.clear();
    settings
}

#[test]
fn the_sample_loads_and_says_nothing_but_the_defaults() {
    assert_eq!(without_example(load_text(SAMPLE)), defaults());
}

#[test]
fn every_commented_key_is_at_its_default() {
    assert_ne!(uncommented(), SAMPLE);
    assert_eq!(without_example(load_text(&uncommented())), defaults());
}

#[test]
fn the_example_function_is_at_the_defaults_but_for_its_environment() {
    let functions = load_text(&uncommented()).functions;
    assert_eq!(functions.len(), 1);
    let mut config = functions[0].settings.resolve(ExecutionMode::Process).unwrap();
    assert_eq!(std::mem::take(&mut config.environment).len(), 2);
    assert_eq!(config, FunctionSettings::default().resolve(ExecutionMode::Process).unwrap());
    assert_eq!(functions[0].code, None);
}

#[test]
fn every_known_key_is_in_the_sample() {
    let tree = tree::parse(&uncommented()).unwrap();
    let shown = |table: &Value| -> BTreeSet<String> { table.as_object().unwrap().keys().cloned().collect() };
    let known = |keys: &[&str]| -> BTreeSet<String> { keys.iter().map(|key| (*key).to_owned()).collect() };
    assert_eq!(shown(&tree), known(TOP_KEYS));
    assert_eq!(shown(&tree["system"]), known(SYSTEM_KEYS));
    assert_eq!(shown(&tree["limits"]), known(LIMIT_KEYS));
    // What cannot stand at a default is shown in the examples among the comments.
    for key in FUNCTION_KEYS.iter().chain(API_KEY_KEYS) {
        let (field, shown) = (format!("{key}:"), |line: &str| line.trim_start_matches([' ', '#', '-']).to_owned());
        assert!(SAMPLE.lines().any(|line| shown(line).starts_with(&field)), "{key}");
    }
}

#[test]
fn the_examples_among_the_comments_load_too() {
    // An example is indented by three columns behind its `#`.
    let example = |indent: &str| -> String {
        let lines = SAMPLE.lines().filter_map(|line| line.strip_prefix(indent)?.strip_prefix("#   "));
        lines.map(|line| format!("  {line}\n")).collect()
    };
    let system: String =
        example("  ").lines().skip_while(|line| !line.contains("runtimes:")).map(|line| format!("{line}\n")).collect();
    // A placeholder that was a valid key would be one that everybody knows.
    let filled_in = system.replace("(the key)", &"ab".repeat(32));
    assert_ne!(filled_in, system);
    let settings = load_text(&format!("system:\n{filled_in}"));
    assert_eq!((settings.runtimes.len(), settings.api_keys.len()), (2, 2));

    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("functions")).unwrap();
    std::fs::write(directory.path().join("functions/greeting.py"), "def handle(request): pass\n").unwrap();
    let text = format!("functions:\n{}", example(""));
    let file = ConfigFile::parse(directory.path().join("c.yaml"), text.into_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let functions = resolve(Some(&file), &CliOptions::default(), &env).unwrap_or_else(|e| panic!("{e}")).functions;
    assert_eq!(functions.len(), 2);
    assert!(functions.iter().all(|function| function.code.as_ref().is_some_and(|code| code.starts_with("def handle"))));
}
