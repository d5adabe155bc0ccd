//! The command line and the configuration, as an operator meets them: flags, exit codes, messages, precedence, and the
//! functions that the file declares.
#![allow(clippy::unwrap_used)] // in helpers of tests, too

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use common::{is_root, patience, skip, Home, Server};
use nix::sys::signal::Signal;

/// The configuration that was promised to load as it stands, but for where it keeps functions.
const PROMISED: &str = "\
system:
  default_mode: process
  max_concurrent_functions: 1000
  cold_start_timeout: 30
  warm_instance_ttl: 600
  api_gateway_port: 8000
  function_storage_path: STATE
  container_runtime: docker
  base_image: python:3.11-slim
  process_isolation_level: strict
  logging_level: INFO
functions:
  example-function:
    runtime: python3.11
    execution_mode: process
    handler: handle
    timeout: 30
    memory: 256Mi
    cpu_limit: 100m
    dependencies:
      - requests==2.28.0
    environment:
      API_KEY: your-api-key
      DEBUG: 'false'
    min_instances: 0
    max_instances: 10
";

/// The program in a directory, with no environment but `PATH`, `HOME` (that directory) and what is given.
fn faas(directory: &Path, args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faas"));
    command.args(args).current_dir(directory).env_clear().env("HOME", directory);
    // Were something to panic, its backtrace must be seen.
    command.env("RUST_BACKTRACE", "1").env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs what must end by itself: exit code, standard output, standard error.
#[track_caller]
fn ended(mut command: Command) -> (i32, String, String) {
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + patience();
    while child.try_wait().unwrap().is_none() {
        if Instant::now() >= deadline {
            child.kill().unwrap();
            panic!("it runs on: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    for backtrace in ["panicked", "RUST_BACKTRACE", "stack backtrace", "src/"] {
        assert!(!stderr.contains(backtrace), "{stderr}");
    }
    (status.code().expect("an exit code"), stdout, stderr)
}

/// What a wrong use or configuration comes to: this exit code, nothing on standard output, one line on standard error.
#[track_caller]
fn refused(code: i32, directory: &Path, args: &[&str], environment: &[(&str, &str)]) -> String {
    let (status, stdout, stderr) = ended(faas(directory, args, environment));
    assert_eq!((status, stdout.as_str()), (code, ""), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "one message: {stderr}");
    stderr.trim_end().strip_prefix("faas: ").expect("it says who speaks").to_owned()
}

/// A server's file: state in the home, any port, and these lines.
fn write_config(home: &Home, system: &str, rest: &str) {
    let state = home.state();
    let text = format!("system:\n  function_storage_path: {}\n  api_gateway_port: 0\n{system}{rest}", state.display());
    fs::write(home.path().join("faas.yaml"), text).unwrap();
}

/// Starts the server in a directory and waits until it says where it serves.
fn serve(home: Home, args: &[&str], environment: &[(&str, &str)]) -> Server {
    let mut command = faas(home.path(), args, environment);
    let log = fs::OpenOptions::new().create(true).append(true).open(home.path().join("stderr")).unwrap();
    command.stderr(log);
    Server::launch(home, command)
}

#[test]
fn help_and_version_are_printed_and_are_no_failure() {
    let home = Home::new();
    for flag in ["--help", "-h"] {
        let (status, stdout, stderr) = ended(faas(home.path(), &[flag], &[]));
        assert_eq!((status, stderr.as_str()), (0, ""));
        for word in [
            "[CONFIG]",
            "-c, --config",
            "--host",
            "--port",
            "--debug",
            "--check-system",
            "--create-config",
            "--version",
            "FAAS_CONFIG_FILE",
            "FAAS_DEFAULT_MODE",
            "FAAS_API_PORT",
            "FAAS_LOG_LEVEL",
            "FAAS_DISABLE_CONTAINER",
            "DOCKER_HOST",
        ] {
            assert!(stdout.contains(word), "{word}");
        }
    }
    for flag in ["--version", "-V"] {
        let (status, stdout, _) = ended(faas(home.path(), &[flag], &[]));
        assert_eq!((status, stdout), (0, format!("faas {}\n", env!("CARGO_PKG_VERSION"))));
    }
}

#[test]
fn an_output_that_takes_nothing_is_no_reason_to_panic() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let home = Home::new();
    for (args, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["--create-config", "new.yaml"], 0),
        (&["--prot"], 2),
        (&["none.yaml"], 1),
    ] {
        let mut command = faas(home.path(), args, &[]);
        command.stdout(full());
        let (status, _, stderr) = ended(command);
        assert_eq!(status, code, "{args:?}: {stderr}");
        let mut command = faas(home.path(), args, &[]);
        command.stdout(full()).stderr(full());
        // The file is there by now.
        let code = if args[0] == "--create-config" { 1 } else { code };
        assert_eq!(ended(command).0, code, "{args:?}");
    }
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let mut command = faas(home.path(), &["--check-system"], &[]);
    command.stdout(full());
    assert_eq!(ended(command).0, 0);
    // A server goes on without anybody who reads what it says.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = faas(home.path(), &["--debug", "--port", &port.to_string()], &[]);
    let mut child = command.stdout(full()).stderr(full()).spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let listens = common::eventually("it serves or ends", || match child.try_wait().unwrap() {
        Some(_) => Some(false),
        None => std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(|_| true),
    });
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!((listens, child.wait().unwrap().code()), (true, Some(0)));
}

#[test]
fn wrong_usage_exits_with_2_and_names_what_was_probably_meant() {
    let home = Home::new();
    for (args, message) in [
        (&["--prot", "80"][..], "unknown flag --prot; did you mean --port?"),
        (&["--chek-system"], "unknown flag --chek-system; did you mean --check-system?"),
        (&["--confg=x"], "unknown flag --confg; did you mean --config?"),
        (&["--zzzzzzzz"], "unknown flag --zzzzzzzz; see faas --help"),
        (&["-x"], "unknown flag -x; see faas --help"),
        (&["--port"], "--port needs a number from 0 to 65535"),
        (&["--port", "http"], "--port: got \"http\"; expected a number from 0 to 65535"),
        (&["--port", "65536"], "--port: got \"65536\"; expected a number from 0 to 65535"),
        (&["--port=-1"], "--port: got \"-1\"; expected a number from 0 to 65535"),
        (&["--host", "example.org"], "--host: got \"example.org\"; expected an IP address or localhost"),
        (&["--config"], "--config needs the path of a file"),
        (&["--debug=yes"], "--debug takes no value; got \"yes\""),
        (&["a.yaml", "b.yaml"], "unexpected argument \"b.yaml\"; one configuration file is enough"),
        (&["a.yaml", "-c", "b.yaml"], "unexpected argument \"a.yaml\"; one configuration file is enough"),
    ] {
        assert_eq!(refused(2, home.path(), args, &[]), message, "{args:?}");
    }
}

#[test]
fn a_wrong_configuration_exits_with_1_and_names_file_line_and_key() {
    let home = Home::new();
    for (text, message) in [
        ("system:\n  prot: 1\n", "2: system.prot: unknown key; "),
        ("system:\n  api_gatway_port: 1\n", "2: system.api_gatway_port: unknown key; did you mean api_gateway_port?"),
        ("\nsytem: {}\n", "2: sytem: unknown key; did you mean system?"),
        ("system:\n  api_gateway_port: many\n", "2: system.api_gateway_port: got \"many\"; expected a whole number"),
        (
            "system:\n  api_gateway_port: 70000\n",
            "2: system.api_gateway_port: got 70000; expected a whole number from 0 to",
        ),
        ("limits:\n  max_connections: 0\n", "2: limits.max_connections: got 0; expected a whole number from 1 to"),
        ("functions:\n  f:\n    timout: 3\n", "3: functions.f.timout: unknown key; did you mean timeout?"),
        ("functions:\n  a b: {}\n", "2: functions.\"a b\": got \"a b\"; expected 1 to 63 letters"),
        ("functions:\n  f:\n    source: none.py\n", "3: functions.f.source: cannot read "),
        ("functions:\n  f:\n    memory: 1\n", "3: functions.f.memory: got 1; expected "),
        ("system: [\n", "not valid YAML: "),
        ("system:\n  api_keys:\n    - {name: a, key: short, scopes: [invoke]}\n", "3: system.api_keys[0].key: "),
    ] {
        fs::write(home.path().join("c.yaml"), text).unwrap();
        let said = refused(1, home.path(), &["c.yaml"], &[]);
        assert!(said.starts_with("c.yaml:") && said.contains(message), "{text:?}: {said}");
        assert!(!said.contains("short"), "no key is shown: {said}");
    }
    for args in [&["none.yaml"][..], &["-c", "none.yaml"], &["--check-system", "none.yaml"]] {
        assert!(refused(1, home.path(), args, &[]).starts_with("cannot read none.yaml: No such file"));
    }
    assert!(refused(1, home.path(), &["."], &[]).starts_with("cannot read .: "));
    assert!(refused(1, home.path(), &[], &[("FAAS_CONFIG_FILE", "gone.yaml")]).starts_with("cannot read gone.yaml"));
}

#[test]
fn a_wrong_environment_variable_is_named() {
    let home = Home::new();
    for (name, value) in [
        ("FAAS_API_PORT", "http"),
        ("FAAS_API_PORT", "65536"),
        ("FAAS_LOG_LEVEL", "LOUD"),
        ("FAAS_DEFAULT_MODE", "vm"),
        ("FAAS_DISABLE_CONTAINER", "perhaps"),
    ] {
        let said = refused(1, home.path(), &[], &[(name, value)]);
        assert!(
            said.starts_with(&format!("environment variable {name}: got \"{value}\"; expected ")) || value == "65536",
            "{said}"
        );
        assert!(said.contains(name) && said.contains(value), "{said}");
    }
}

#[test]
fn an_address_that_others_reach_needs_keys_of_ones_own() {
    let home = Home::new();
    write_config(&home, "  host: 0.0.0.0\n", "");
    for args in [&["faas.yaml"][..], &["--host", "::", "--port", "0"]] {
        let said = refused(1, home.path(), args, &[]);
        for word in ["demo-key", "openssl rand", "well_known_keys: false", "allow_well_known_keys_anywhere"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    write_config(&home, "  host: 0.0.0.0\n  allow_well_known_keys_anywhere: true\n", "");
    let server = serve(home, &["faas.yaml"], &[]);
    assert!(server.address.ip().is_unspecified());
}

#[test]
fn two_keys_that_are_one_are_refused() {
    let home = Home::new();
    let keys = "  api_keys:\n    - {name: a, key: 0123456789abcdef, scopes: [invoke]}\n    \
                - {name: b, key: 0123456789abcdef, scopes: [manage]}\n";
    write_config(&home, keys, "");
    let said = refused(1, home.path(), &["faas.yaml"], &[]);
    assert_eq!(
        said,
        "faas.yaml:6: system.api_keys[1].key: got text (not shown); expected a key that no other entry has"
    );
}

#[test]
fn a_well_known_key_cannot_come_back_as_ones_own() {
    let home = Home::new();
    // From `printf %s demo-key | sha256sum`.
    let keys = "  host: 0.0.0.0\n  well_known_keys: false\n  api_keys:\n    \
                - {name: own, key_sha256: c48a01f49fd0f2cc404bc3cbbc80e91457a3d41bb429a695243de4c61794155c, scopes: [admin]}\n";
    write_config(&home, keys, "");
    let said = refused(1, home.path(), &["faas.yaml"], &[]);
    assert!(said.contains("a key of your own, not one that the documentation prints"), "{said}");
}

#[test]
fn the_sample_is_written_once_and_starts_a_server() {
    let home = Home::new();
    let (status, stdout, _) = ended(faas(home.path(), &["--create-config"], &[]));
    assert_eq!((status, stdout.as_str()), (0, "wrote ./faas_config.yaml\n"));
    let written = fs::read_to_string(home.path().join("faas_config.yaml")).unwrap();
    assert!(written.contains("#max_connections: 8192"));

    fs::write(home.path().join("mine.yaml"), "mine").unwrap();
    for args in [&["--create-config", "mine.yaml"][..], &["--create-config=mine.yaml"]] {
        assert_eq!(refused(1, home.path(), args, &[]), "mine.yaml exists; it is left as it is");
    }
    assert_eq!(fs::read_to_string(home.path().join("mine.yaml")).unwrap(), "mine");
    refused(1, home.path(), &["--create-config"], &[]);
    assert!(refused(1, home.path(), &["--create-config", "no/where.yaml"], &[]).starts_with("cannot write no/where"));
    assert_eq!(ended(faas(home.path(), &["--create-config", "other.yaml"], &[])).0, 0);
    assert_eq!(fs::read_to_string(home.path().join("other.yaml")).unwrap(), written);

    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    // It is found without being named, and its state goes below the user's home.
    let server = serve(home, &["--port", "0"], &[]);
    assert_eq!(server.get("/health").status, 200);
    assert!(server.home.path().join(".local/state/faas").is_dir());
}

#[test]
fn check_system_prints_what_this_host_gives() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let home = Home::new();
    let (status, stdout, stderr) = ended(faas(home.path(), &["--check-system"], &[]));
    assert_eq!(status, 0, "{stdout}{stderr}");
    for word in ["namespace", "cgroup", "seccomp", "python", "container"] {
        let line = stdout.lines().find(|line| line.to_lowercase().contains(word));
        let line = line.unwrap_or_else(|| panic!("{word} in\n{stdout}"));
        assert!(["ok", "degraded"].iter().any(|status| line.contains(status)), "{line}");
    }
    assert!(!home.path().join(".local").exists(), "a look changes nothing");
    assert!(!stdout.contains("system calls"), "only --verbose says how");
    let (status, verbose, _) = ended(faas(home.path(), &["--check-system", "--verbose"], &[]));
    assert_eq!(status, 0, "{verbose}");
    for word in ["layers", "the zygote", "an instance, in its process", "system calls", "return allow"] {
        assert!(verbose.contains(word), "{word} in\n{verbose}");
    }
    // An interpreter that is not there is one thing without which nothing runs.
    write_config(&home, "  python: /no/such/python\n", "");
    let (status, stdout, _) = ended(faas(home.path(), &["--check-system", "faas.yaml"], &[]));
    assert_eq!(status, 1, "{stdout}");
    assert!(stdout.contains("failed") && stdout.contains("/no/such/python"), "{stdout}");
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    // Ports that were free a moment ago, so that each source names one of its own.
    let ports: Vec<u16> = {
        let held: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
    };
    let [flag, environment, file] = [ports[0], ports[1], ports[2]].map(|port| port.to_string());
    let mut home = Home::new();
    write_config(&home, "  logging_level: 'OFF'\n", "");
    let path = home.path().join("faas.yaml");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("port: 0", &format!("port: {file}"))).unwrap();
    let variables = [("FAAS_API_PORT", environment.as_str()), ("FAAS_CONFIG_FILE", "faas.yaml")];
    for (args, variables, port) in [
        (&["--port", &flag][..], &variables[..], ports[0]),
        (&[], &variables, ports[1]),
        (&[], &variables[1..], ports[2]),
        (&["-c", "faas.yaml", "--host", "localhost", "--port", "0"], &[("FAAS_CONFIG_FILE", "gone.yaml")], 0),
    ] {
        let server = serve(home, args, variables);
        assert!(port == 0 || server.address.port() == port, "{args:?} {variables:?}: {}", server.address);
        let (kept, status) = server.end(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0), "stopped as asked");
        home = kept;
    }
    assert_eq!(home.log(), "", "the file switched the log off");
    let server = serve(home, &["faas.yaml", "--debug", "--port", "0"], &[("FAAS_LOG_LEVEL", "ERROR")]);
    let (home, _) = server.end(Signal::SIGINT);
    assert!(home.log().contains("DEBUG"), "{}", home.log());
    // Containers as the default, and none to be had.
    let said =
        refused(1, home.path(), &["faas.yaml"], &[("FAAS_DEFAULT_MODE", "container"), ("FAAS_DISABLE_CONTAINER", "1")]);
    assert!(said.contains("default_mode") && said.contains("FAAS_DISABLE_CONTAINER"), "{said}");
}

#[test]
fn a_server_that_cannot_listen_says_so_and_changes_nothing() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let home = Home::new();
    write_config(&home, "", "functions:\n  f:\n    code: 'handle = print'\n");
    let said = refused(1, home.path(), &["faas.yaml", "--port", &port.to_string()], &[]);
    assert!(said.starts_with(&format!("cannot listen on 127.0.0.1:{port}: Address already in use")), "{said}");
    assert!(said.contains("--port"), "{said}");
    write_config(&home, "", "");
    let server = serve(home, &["faas.yaml"], &[]);
    assert_eq!(server.get("/functions").json()["count"], 0, "the function was not deployed");
}

#[test]
fn a_second_server_on_the_same_state_is_refused_and_the_first_is_not_disturbed() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let server = Server::start();
    server.deploy("f", "def handle(request):\n    return 1\n", serde_json::json!({"min_instances": 1}));
    let said = refused(1, server.home.path(), &["faas.yaml"], &[]);
    assert!(said.contains(&format!("{}", server.home.state().display())), "{said}");
    assert!(said.contains(&server.pid().to_string()), "it names the process: {said}");
    assert_eq!(server.get("/invoke/f").json(), 1);
}

#[test]
fn the_promised_configuration_starts_a_server_and_gives_the_defaults_of_its_function() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let home = Home::new();
    let text = PROMISED.replace("STATE", &home.state().display().to_string());
    fs::write(home.path().join("faas_config.yaml"), text).unwrap();
    let server = serve(home, &["--port", "0"], &[]);
    server.get("/functions/example-function").refused(404, "not_found");
    let post = |config: &str| {
        let code = "import os\\ndef handle(request):\\n    return os.environ['API_KEY']";
        server.post("/functions", &format!(r#"{{"name": "example-function", "code": "{code}", "config": {config}}}"#))
    };
    // Its dependencies are among the defaults, so it is refused rather than run without them.
    post("{}").refused(400, "dependencies_unavailable");
    let reply = post(r#"{"dependencies": [], "timeout": 5, "runtime": "python3"}"#);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let config = &reply.json()["config"];
    assert_eq!(
        (&config["timeout"], &config["cpu_limit"], &config["memory"]),
        (&5.into(), &"100m".into(), &"256Mi".into())
    );
    assert_eq!(server.post("/invoke/example-function", "").json(), "your-api-key");
}

#[test]
fn declared_functions_are_there_when_the_server_is_and_change_only_with_the_file() {
    if !is_root() {
        return skip("process mode at level strict needs root");
    }
    let home = Home::new();
    let functions = "functions:\n  inline:\n    code: |\n      def handle(request):\n          return 'one'\n  \
                     beside:\n    source: code/beside.py\n    timeout: 5\n    handler: beside.run\n  \
                     broken:\n    code: 'def handle(:'\n";
    write_config(&home, "", functions);
    fs::create_dir(home.path().join("code")).unwrap();
    fs::write(home.path().join("code/beside.py"), "def run(request):\n    return __name__\n").unwrap();
    // The file is named from another directory: the source is beside the file all the same.
    let path = home.path().join("faas.yaml");
    let mut command = faas(Path::new("/"), &[path.to_str().unwrap()], &[]);
    command.stderr(fs::File::create(home.path().join("stderr")).unwrap());
    let server = Server::launch(home, command);
    // The first call comes as soon as the server says that it serves.
    assert_eq!(server.get("/invoke/inline").json(), "one");
    assert_eq!(server.get("/invoke/beside").json(), "beside");
    server.get("/invoke/broken").refused(404, "not_found");
    let version = |server: &Server, name: &str| server.get(&format!("/functions/{name}")).json()["version"].clone();
    assert_eq!((version(&server, "inline"), version(&server, "beside")), (1.into(), 1.into()));

    let (home, _) = server.end(Signal::SIGTERM);
    assert!(
        home.log().contains("function broken of the configuration is not deployed: code, line 1: "),
        "{}",
        home.log()
    );
    let server = serve(home, &["faas.yaml"], &[]);
    assert_eq!((version(&server, "inline"), version(&server, "beside")), (1.into(), 1.into()), "nothing has changed");

    let (home, _) = server.end(Signal::SIGKILL);
    fs::write(home.path().join("code/beside.py"), "def run(request):\n    return 'two'\n").unwrap();
    write_config(&home, "", &functions.replace("def handle(:", "handle = lambda request: 3"));
    let server = serve(home, &["faas.yaml"], &[]);
    assert_eq!(server.get("/invoke/beside").json(), "two");
    assert_eq!(server.get("/invoke/broken").json(), 3);
    assert_eq!((version(&server, "inline"), version(&server, "beside")), (1.into(), 2.into()));

    // What the file no longer says stays deployed: the API deletes.
    let (home, _) = server.end(Signal::SIGTERM);
    write_config(&home, "", "");
    let server = serve(home, &["faas.yaml"], &[]);
    assert_eq!(server.get("/invoke/inline").json(), "one");
}
