//! Candidates of all kinds, played by small scripts.

use super::*;

struct Candidates(tempfile::TempDir);

impl Candidates {
    fn new() -> Self {
        Candidates(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap().join("python3")
    }

    /// A script that is asked as an interpreter would be.
    fn script(&self, text: &str) -> Result<Interpreter, RuntimeError> {
        self.script_within(RUNTIME_PROBE_TIMEOUT, text)
    }

    /// The same with a patience that a test can wait out.
    fn slow_script(&self, text: &str) -> Result<Interpreter, RuntimeError> {
        self.script_within(Duration::from_millis(500), text)
    }

    fn script_within(&self, limit: Duration, text: &str) -> Result<Interpreter, RuntimeError> {
        let (path, script) = (self.path(), self.0.path().join("script"));
        std::fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
        // By another process: what children of other threads' tests have open for writing cannot be run.
        let copied = std::process::Command::new("install").args(["-m", "755"]).args([&script, &path]).status().unwrap();
        assert!(copied.success());
        probe(&path, limit)
    }

    fn answer(&self, version: &str, free_threaded: bool, executable: &Path) -> String {
        let executable = executable.display();
        format!(
            r#"echo '{{"executable":"{executable}","version":[{version}],"libraries":["/opt/x/lib/liba.so"],
            "standard":["/opt/x/lib/python3.9"],"packages":["/opt/y"],"free_threaded":{free_threaded}}}'"#
        )
    }
}

#[test]
fn a_candidate_that_is_itself_is_taken_at_its_word() {
    let candidates = Candidates::new();
    let found = candidates.script(&candidates.answer("3,9,18", false, &candidates.path())).unwrap();
    assert_eq!((found.executable, found.version), (candidates.path(), (3, 9, 18)));
    let expected = ["/opt/x/lib", "/opt/x/lib/python3.9"].map(PathBuf::from);
    assert_eq!(found.directories, BTreeSet::from(expected));
    assert!(found.hidden.contains(Path::new("/opt/x/lib/python3.9/site-packages")));
    assert!(found.hidden.contains(Path::new("/opt/x/lib/python3/dist-packages")));
    assert!(found.hidden.contains(Path::new("/opt/y")));
}

#[test]
fn those_that_cannot_work_are_refused_with_the_reason() {
    let candidates = Candidates::new();
    let message = |script: &str| candidates.script(script).unwrap_err().to_string();
    let path = candidates.path();
    let shown = path.display();
    let old = candidates.answer("3,7,16", false, &path);
    assert_eq!(message(&old), format!("{shown} is Python 3.7.16: 3.8 or newer is needed"));
    let free = candidates.answer("3,13,0", true, &path);
    assert_eq!(message(&free), format!("{shown} is a free-threaded build: use one with the global interpreter lock"));
    assert_eq!(message("echo; echo 'no such version' >&2; exit 127"), format!("{shown} failed: no such version"));
    assert_eq!(message("exit 3"), format!("{shown} failed: exit status: 3"));
    assert!(message("echo hello").starts_with(&format!("{shown} does not answer as a Python does: ")));
}

#[test]
fn a_candidate_that_hangs_is_killed_at_the_deadline() {
    let candidates = Candidates::new();
    let begun = Instant::now();
    let error = candidates.slow_script("exec sleep 60").unwrap_err();
    assert!(matches!(error, RuntimeError::TooSlow { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn one_that_closes_its_output_and_then_hangs_is_killed_too() {
    let error = Candidates::new().slow_script("exec >/dev/null 2>/dev/null; exec sleep 60").unwrap_err();
    assert!(matches!(error, RuntimeError::TooSlow { .. }), "{error}");
}

#[test]
fn one_that_talks_without_end_is_cut_off() {
    let error = Candidates::new().script("exec yes").unwrap_err();
    assert!(matches!(error, RuntimeError::CannotRun { .. }), "{error}");
}

#[test]
fn wrappers_are_followed_to_the_executable_but_not_for_ever() {
    let candidates = Candidates::new();
    let system = Path::new("/usr/bin/python3");
    if system.is_file() {
        let found = candidates.script(&format!("exec {} \"$@\"", system.display())).unwrap();
        assert_eq!(found.executable, system.canonicalize().unwrap());
    }
    // Each answer names another place, which answers alike.
    let other = candidates.path().with_file_name("other");
    std::os::unix::fs::symlink(candidates.path(), &other).unwrap();
    let swap = format!(
        "if [ \"$0\" = {0} ]; then {1}; else {2}; fi",
        candidates.path().display(),
        candidates.answer("3,9,18", false, &other),
        candidates.answer("3,9,18", false, &candidates.path())
    );
    assert!(matches!(candidates.script(&swap), Err(RuntimeError::NeverItself { .. })));
}

#[test]
fn names_are_python3_or_python3_point_n() {
    assert_eq!(parse_name("python3").ok(), Some(None));
    assert_eq!(parse_name("python3.11").ok(), Some(Some(11)));
    for bad in [
        "",
        "python",
        "python2.7",
        "python3.",
        "python3.x",
        "python3.1.2",
        "python3 ",
        "/usr/bin/python3",
        "python3.+1",
        "python311",
    ] {
        assert!(matches!(parse_name(bad), Err(RuntimeError::UnknownName { .. })), "{bad}");
    }
}

#[test]
fn the_configured_interpreter_decides_and_must_be_the_version_that_was_asked_for() {
    let candidates = Candidates::new();
    candidates.script(&candidates.answer("3,9,18", false, &candidates.path())).unwrap();
    let configured = |name: &str| BTreeMap::from([(name.to_owned(), candidates.path())]);
    assert_eq!(find("python3.9", &configured("python3.9")).unwrap().executable, candidates.path());
    let error = find("python3.10", &configured("python3.10")).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is Python 3.9.18 and not python3.10", candidates.path().display()));
}

#[test]
fn what_is_nowhere_is_named() {
    let error = find("python3.999", &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
}

/// `system.python: nopython` once served on python3 without a word.
#[test]
fn a_configured_bare_name_is_looked_up_and_nothing_else_taken_for_it() {
    let configured = BTreeMap::from([("python3".to_owned(), PathBuf::from("no-such-python"))]);
    let error = find("python3", &configured).unwrap_err();
    assert!(error.to_string().starts_with("no no-such-python in PATH"), "{error}");
}
