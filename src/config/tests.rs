//! What loads, what is refused and in which words, and which source wins.

use super::*;
use crate::registry::settings::FunctionSettings;

/// The configuration that was promised to load as it stands.
const PROMISED: &str = "\
system:
  default_mode: process
  max_concurrent_functions: 1000
  cold_start_timeout: 30
  warm_instance_ttl: 600
  api_gateway_port: 8000
  function_storage_path: /tmp/faas_functions
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

fn home(name: &str) -> Option<String> {
    (name == "HOME").then(|| "/home/me".to_owned())
}

fn load_with(text: &str, cli: &CliOptions, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, String> {
    let file = ConfigFile::parse("conf/faas_config.yaml".into(), text.as_bytes().to_vec());
    file.and_then(|file| resolve(Some(&file), cli, env)).map_err(|error| error.to_string())
}

fn load_text(text: &str) -> Settings {
    load_with(text, &CliOptions::default(), &home).unwrap_or_else(|error| panic!("{error}"))
}

/// The message, without the name of the file.
fn refusal(text: &str) -> String {
    let message = load_with(text, &CliOptions::default(), &home).expect_err(text);
    assert!(!message.contains('\n'), "one line: {message}");
    message.strip_prefix("conf/faas_config.yaml:").unwrap_or(&message).to_owned()
}

#[test]
fn the_promised_configuration_loads_as_it_stands() {
    let settings = load_text(PROMISED);
    assert_eq!(settings.slots_max, 1000);
    assert_eq!(settings.warm_instance_ttl, IdleTtl::AfterMs(600_000));
    assert_eq!(settings.storage_path, Path::new("/tmp/faas_functions"));
    assert_eq!(settings.isolation, IsolationLevel::Strict);
    assert_eq!(settings.functions.len(), 1);
    let function = &settings.functions[0];
    assert_eq!((function.name.as_str(), &function.code), ("example-function", &None));
    assert_eq!(function.settings.cpu_millis, Some(100));
    assert_eq!(function.settings.dependencies, Some(vec!["requests==2.28.0".to_owned()]));
    assert_eq!(function.settings.environment.as_ref().unwrap()["DEBUG"], "false");
}

#[test]
fn a_tab_before_a_key_is_called_a_tab() {
    let message = refusal("system:\n\thost: ::1\n");
    assert!(message.starts_with("2: not valid YAML: "), "{message}");
    assert!(message.ends_with("; the line is indented with a tab, which YAML forbids: use spaces"), "{message}");
    assert!(!refusal("system: [\n").contains("tab"));
}

#[test]
fn an_empty_file_is_the_defaults() {
    let defaults = resolve(None, &CliOptions::default(), &home).unwrap();
    for text in ["", "# nothing\n", "---\n", "system:\nlimits:\nfunctions:\n", "system: {}\n", "system:\n  host:\n"] {
        let settings = Settings { config_file: None, ..load_text(text) };
        assert_eq!(settings, defaults, "{text:?}");
    }
}

#[test]
fn a_wrong_key_is_named_with_its_line_and_the_nearest_right_one() {
    assert_eq!(
        refusal("# c\nsystem:\n  host: 127.0.0.1\n  warm_instance_tll: 5\n"),
        "4: system.warm_instance_tll: unknown key; did you mean warm_instance_ttl?"
    );
    assert_eq!(refusal("sytem: {}\n"), "1: sytem: unknown key; did you mean system?");
    assert_eq!(
        refusal("limits:\n  max_conections: 1\n"),
        "2: limits.max_conections: unknown key; did you mean max_connections?"
    );
    assert_eq!(refusal("functions:\n  f:\n    sorce: x\n"), "3: functions.f.sorce: unknown key; did you mean source?");
}

#[test]
fn networks_are_a_set_and_what_is_opened_is_checked() {
    let settings = load_text("system:\n  allowed_networks: [host, none, host]\n  outbound_allow: ['10.0.0.0/8:80']\n");
    assert_eq!(settings.allowed_networks, [Network::None, Network::Host]);
    assert_eq!(settings.outbound_allow, [Exception::parse("10.0.0.0/8:80").unwrap()]);
    for never in ["169.254.169.254", "169.254.0.0/16", "0.0.0.0/0", "fe80::/10", "'::/0'"] {
        let message = refusal(&format!("system:\n  outbound_allow: [{never}]\n"));
        assert!(message.contains("which can never be allowed"), "{message}");
    }
}

#[test]
fn a_wrong_value_is_named_with_its_line_and_what_is_allowed() {
    let cases = [
        ("api_gateway_port: 65536", "api_gateway_port: got 65536; expected a whole number from 0 to 65535"),
        ("api_gateway_port: http", "api_gateway_port: got \"http\"; expected a whole number from 0 to 65535"),
        ("pin_workers: sometimes", "pin_workers: got \"sometimes\"; expected true or false"),
        ("process_isolation_level: loose", "process_isolation_level: got \"loose\"; expected strict, standard or none"),
        (
            "sandbox_without: [seccomp]",
            "sandbox_without: got a list; expected an empty list, unless process_isolation_level is none",
        ),
        ("allowed_networks: []", "allowed_networks: got an empty list; expected at least one of none, outbound and host"),
        ("allowed_networks: [bridge]", "allowed_networks[0]: got \"bridge\"; expected none, outbound or host"),
        (
            "outbound_allow: [10.1.2.3/24]",
            "outbound_allow[0]: got \"10.1.2.3/24\"; expected the first address of the network: no bits may be set after \
             the first BITS",
        ),
        ("default_mode: [process]", "default_mode: got a list; expected process or container"),
        ("workers: 0", "workers: got 0; expected auto, or a whole number from 1 to 256"),
        ("max_concurrent_functions: -1", "max_concurrent_functions: got -1; expected a whole number from 1 to 65536"),
        ("sandbox_uid_base: 0", "sandbox_uid_base: got 0; expected a whole number from 100000 to 2147000000"),
        ("pool_size: 1001", "pool_size: 1001 is more than max_concurrent_functions, which is 1000"),
        (
            "container_runtime: rkt",
            "container_runtime: got \"rkt\"; expected docker, podman, none, or the path of an engine's socket, of at most \
             107 bytes",
        ),
        (
            "image_scan: [trivy, image, --quiet]",
            "image_scan: got a list; expected a program and its arguments, one of which has {image}",
        ),
        (
            "container_security_label: unconfined",
            "container_security_label: got \"unconfined\"; expected default, apparmor=PROFILE, or \
             label=type:TYPE for SELinux",
        ),
        (
            "host: example.org",
            "host: got \"example.org\"; expected an IP address such as 127.0.0.1, ::1 or 0.0.0.0, or localhost",
        ),
    ];
    for (line, message) in cases {
        assert_eq!(refusal(&format!("system:\n  {line}\n")), format!("2: system.{message}"));
    }
    for line in [
        "cold_start_timeout: 0",
        "cold_start_timeout: 30 minutes",
        "warm_instance_ttl: 8000h",
        "drain_timeout: -1",
        "shutdown_grace: 61m",
        "function_storage_path: ~/faas",
        "function_storage_path: ''",
        "function_storage_path: 5",
        "base_image: 'a b'",
        "logging_level: LOUD",
        "container_runtime: lxc",
        "container_runtime: tcp://127.0.0.1:2375",
        "container_runtime: unix://run/docker.sock",
        "container_runtime: /run/",
        "container_runtime: ~/docker.sock",
        "container_runtime: ''",
        "container_runtime: [docker]",
        "base_image: ''",
        "base_image: Python",
        "base_image: 3.11",
        "image_scan: trivy",
        "image_scan: ['']",
        "image_scan: [trivy, image]",
        "image_scan: ['{image}']",
        "image_scan: [trivy, 1, '{image}']",
        "image_scan: [~/trivy, '{image}']",
        "image_scan_timeout: 0",
        "image_scan_max_age: 721h",
        "registry_auth: ''",
        "registry_auth: ~/config.json",
        "image_scan_timeout: 2h",
        "container_pool_size: -1",
        "container_pool_size: 65",
        "container_security_label: docker-default",
        "container_security_label: apparmor=",
        "container_security_label: apparmor=unconfined",
        "container_security_label: 'apparmor=a b'",
        "container_security_label: apparmor=-x",
        "container_security_label: seccomp=unconfined",
        "container_security_label: label=disable",
        "container_security_label: 'label=type:'",
        "container_security_label: 'label=sort:x'",
        "container_security_label: no-new-privileges=false",
        "runtimes: {python3: /usr/bin/python3}",
        "runtimes: {python3.7: /usr/bin/python3.7}",
        "runtimes: [python3.11]",
        "python: []",
        "api_keys: {}",
        "pool_size: .inf",
        "host: 127.0.0.1:8000",
    ] {
        let message = refusal(&format!("system:\n  {line}\n"));
        let key = line.split(':').next().unwrap();
        assert!(message.starts_with(&format!("2: system.{key}")), "{line}: {message}");
    }
    for line in ["max_request_body: 1", "max_connections: 0", "max_invocations: 16385", "max_functions: 1e9"] {
        assert!(refusal(&format!("limits:\n  {line}\n")).starts_with("2: limits.max_"), "{line}");
    }
}

#[test]
fn a_file_that_is_no_configuration_is_refused() {
    assert_eq!(refusal("[1, 2]\n"), "1: got a list; expected a map of settings");
    assert_eq!(refusal("just text\n"), "1: got \"just text\"; expected a map of settings");
    assert_eq!(refusal("system: 5\n"), "1: system: got 5; expected a map of settings");
    assert_eq!(refusal("system:\n  host: ::1\n  host: ::1\n"), "3: system.host: given twice; keep one");
    assert!(refusal("system:\n  host: [\n").contains("not valid YAML"));
    assert!(refusal("system:\n\thost: x\n").starts_with("2: not valid YAML: "));
    let file = ConfigFile::parse("c.yaml".into(), b"a: 1\nb: \xff\n".to_vec());
    assert_eq!(file.err().unwrap().to_string(), "c.yaml:2: not valid YAML: a byte that is not UTF-8");
}

#[test]
fn a_function_is_refused_where_it_is_wrong() {
    assert_eq!(
        refusal("functions:\n  f:\n    min_instances: 5\n    max_instances: 2\n"),
        "3: functions.f.min_instances: 5 is more than max_instances, which is 2"
    );
    assert_eq!(
        refusal("functions:\n  f:\n    memory: 64Mi\n    image: python:3.12\n"),
        "4: functions.f.image: got \"python:3.12\"; expected default, unless execution_mode is container"
    );
    assert_eq!(
        refusal("functions:\n  f:\n    environment:\n      A: x\n      PIN: 4711\n"),
        "5: functions.f.environment.PIN: got a number (not shown); expected text; put the value in quotes"
    );
    assert_eq!(
        refusal("functions:\n  f:\n    code: x\n    source: x.py\n"),
        "3: functions.f.code: given together with source; keep one of them"
    );
    assert!(refusal("functions:\n  a: {}\n  'b/c': {}\n")
        .starts_with("3: functions.\"b/c\": got \"b/c\"; expected 1 to 63"));
    assert!(refusal("functions:\n  f:\n    code: ''\n").starts_with("3: functions.f.code: "));
    assert!(refusal("functions:\n  f: 1\n").starts_with("2: functions.f: got 1; expected a map"));
    assert!(refusal("functions:\n  f:\n    source: no-such-file.py\n")
        .starts_with("3: functions.f.source: cannot read conf/no-such-file.py: "));
}

#[test]
fn a_function_that_needs_what_is_not_there_yet_is_still_a_set_of_defaults() {
    let settings = load_text("functions:\n  f: {execution_mode: container, dependencies: [numpy]}\n  g:\n  404: {}\n");
    let names: Vec<&str> = settings.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["f", "g", "404"]);
    assert_eq!(settings.functions[2].settings, FunctionSettings::default());
}

#[test]
fn each_key_arrives_where_it_belongs() {
    let settings = load_text(
        "system:
  host: localhost
  drain_timeout: 1m
  shutdown_grace: 2m
  cold_start_timeout: 500ms
  function_storage_path: state
  container_runtime: run/engine.sock
  base_image: registry.example:5000/python:3.12
  image_scan: [bin/scan, --image, '{image}']
  image_scan_timeout: 1m
  image_scan_max_age: 0
  registry_auth: auth.json
  container_pool_size: 3
  container_security_label: apparmor=docker-default
  workers: 3
  pin_workers: false
  max_concurrent_functions: 4
  sandbox_uid_base: 100000
  python: bin/python
  runtimes: {python3.9: /opt/py39, python3.12: python3.12}
  well_known_keys: false
  api_keys:
    - {name: ci, key: 0123456789abcdef, scopes: [admin]}
limits: {max_request_body: 1Mi, max_response_body: 2048, max_connections: 5, max_invocations: 6,
  max_queue_per_function: 7, max_queue_wait: 7s, max_functions: 8, max_log_entries: 9}
",
    );
    assert_eq!(settings.drain_timeout, Duration::from_secs(60));
    assert_eq!(settings.shutdown_grace, Duration::from_secs(120));
    assert_eq!(settings.cold_start_timeout, Duration::from_millis(500));
    assert_eq!(settings.storage_path, Path::new("conf/state"), "relative to the file");
    assert_eq!(settings.container_runtime, ContainerRuntime::Socket("conf/run/engine.sock".into()));
    assert_eq!(settings.base_image, "registry.example:5000/python:3.12");
    let arguments = ["--image", "{image}"].map(str::to_owned).to_vec();
    assert_eq!(settings.image_scan, Some(ImageScan { program: "conf/bin/scan".into(), arguments }));
    assert_eq!((settings.image_scan_timeout, settings.container_pool_size), (Duration::from_secs(60), 3));
    assert_eq!(
        (settings.image_scan_max_age, settings.registry_auth.as_deref()),
        (Duration::ZERO, Some(Path::new("conf/auth.json")))
    );
    assert_eq!(settings.container_security_label.as_deref(), Some("apparmor=docker-default"));
    assert_eq!((settings.workers, settings.pin_workers, settings.sandbox_uid_base), (3, false, 100_000));
    assert_eq!((settings.slots_max, settings.pool_size), (4, 4), "the default pool gives way");
    assert_eq!(settings.python, Path::new("conf/bin/python"));
    assert_eq!(settings.runtimes["python3.9"], Path::new("/opt/py39"));
    assert_eq!(settings.runtimes["python3.12"], Path::new("python3.12"), "a bare name is for PATH");
    assert!(!settings.well_known_keys && !settings.allow_well_known_keys_anywhere);
    assert_eq!(settings.api_keys[0].scopes, [ApiScope::Admin]);
    let limits = ServerLimits {
        max_connections: 5,
        max_request_body_bytes: 1024 * 1024,
        max_response_body_bytes: 2048,
        max_invocations: 6,
        max_queue_per_function: 7,
        max_queue_wait: Duration::from_secs(7),
        max_functions: 8,
        max_log_entries: 9,
    };
    assert_eq!(settings.limits, limits);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let text = "system: {api_gateway_port: 1, logging_level: ERROR, default_mode: container, host: '::1'}\n";
    let env = |name: &str| match name {
        "FAAS_API_PORT" => Some("2".to_owned()),
        "FAAS_LOG_LEVEL" => Some("warn".to_owned()),
        "FAAS_DEFAULT_MODE" => Some("process".to_owned()),
        "FAAS_DISABLE_CONTAINER" => Some("1".to_owned()),
        other => home(other),
    };
    let none = CliOptions::default();
    let file = load_with(text, &none, &home).unwrap();
    assert_eq!((file.port, file.log_level, file.default_mode), (1, LevelFilter::Error, ExecutionMode::Container));
    let over = load_with(text, &none, &env).unwrap();
    assert_eq!((over.port, over.log_level, over.default_mode), (2, LevelFilter::Warn, ExecutionMode::Process));
    assert_eq!(over.container_runtime, ContainerRuntime::Disabled);
    let flags = CliOptions { config: None, host: Some([127, 0, 0, 2].into()), port: Some(3), debug: true };
    let over = load_with(text, &flags, &env).unwrap();
    assert_eq!((over.port, over.log_level, over.host), (3, LevelFilter::Debug, IpAddr::from([127, 0, 0, 2])));
}

#[test]
fn the_environment_is_checked_too() {
    let wrong = |name: &'static str, value: &'static str| {
        let env = move |asked: &str| if asked == name { Some(value.to_owned()) } else { home(asked) };
        load_with("", &CliOptions::default(), &env).unwrap_err()
    };
    assert_eq!(
        wrong("FAAS_API_PORT", "http"),
        "environment variable FAAS_API_PORT: got \"http\"; expected a whole number from 0 to 65535"
    );
    assert!(wrong("FAAS_DEFAULT_MODE", "vm").ends_with("got \"vm\"; expected process or container"));
    assert!(wrong("FAAS_LOG_LEVEL", "7").contains("FAAS_LOG_LEVEL: got \"7\"; expected OFF, "));
    assert!(wrong("FAAS_DISABLE_CONTAINER", "maybe").contains("FAAS_DISABLE_CONTAINER"));
}

#[test]
fn containers_by_default_and_disabled_contradict_each_other() {
    let message = refusal("system: {default_mode: container, container_runtime: none}\n");
    assert!(message.starts_with("system.default_mode: container, but containers are disabled"), "{message}");
}

#[test]
fn an_engine_is_named_or_found_by_its_socket() {
    let runtime = |value: &str| load_text(&format!("system: {{container_runtime: '{value}'}}\n")).container_runtime;
    assert_eq!((runtime("docker"), runtime("PODMAN")), (ContainerRuntime::Docker, ContainerRuntime::Podman));
    assert_eq!(runtime("none"), ContainerRuntime::Disabled);
    for path in ["/run/e.sock", "unix:///run/e.sock"] {
        assert_eq!(runtime(path), ContainerRuntime::Socket("/run/e.sock".into()));
    }
    assert_eq!(runtime("./none"), ContainerRuntime::Socket("conf/./none".into()), "a path, whatever its name");
    let disabled = |name: &str| if name == "FAAS_DISABLE_CONTAINER" { Some("1".to_owned()) } else { home(name) };
    let text = "system: {container_runtime: /run/e.sock}\n";
    let settings = load_with(text, &CliOptions::default(), &disabled).unwrap();
    assert_eq!(settings.container_runtime, ContainerRuntime::Disabled, "the environment wins");
    let long = format!("/{}", "x".repeat(107));
    assert!(refusal(&format!("system: {{container_runtime: {long}}}\n")).contains("of at most 107 bytes"));
}

#[test]
fn what_is_said_of_containers_has_a_value_that_leaves_it_to_the_server() {
    let settings = load_text("system: {image_scan: [], container_security_label: default, container_pool_size: 0}\n");
    assert_eq!((settings.image_scan, settings.container_security_label), (None, None));
    assert_eq!(settings.container_pool_size, 0);
    let scan = load_text("system: {image_scan: [trivy, 'x={image}']}\n").image_scan.unwrap();
    assert_eq!(scan.program, Path::new("trivy"), "a bare name is for PATH");
    for label in ["label=type:svirt_t", "apparmor=a/b.c_d-e+f"] {
        let settings = load_text(&format!("system: {{container_security_label: '{label}'}}\n"));
        assert_eq!(settings.container_security_label.as_deref(), Some(label));
    }
    let small = load_text("system: {max_concurrent_functions: 1}\n");
    assert_eq!((small.pool_size, small.container_pool_size), (1, 1), "the default pools give way");
    assert_eq!(
        refusal("system:\n  max_concurrent_functions: 4\n  container_pool_size: 5\n"),
        "3: system.container_pool_size: 5 is more than max_concurrent_functions, which is 4"
    );
}

#[test]
fn well_known_keys_stay_at_home() {
    let with = |more: &str, host: &str| {
        load_with(&format!("system: {{host: '{host}'{more}}}\n"), &CliOptions::default(), &home)
    };
    for host in ["0.0.0.0", "::", "192.168.1.5", "::ffff:10.0.0.1"] {
        let message = with("", host).unwrap_err();
        for part in
            [host, "openssl rand -hex 32", "key_sha256", "system.api_keys", "allow_well_known_keys_anywhere: true"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(with(", well_known_keys: false", host).is_ok());
        assert!(with(", allow_well_known_keys_anywhere: true", host).is_ok());
    }
    for host in ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"] {
        assert!(with("", host).is_ok(), "{host}");
    }
    let flag = CliOptions { host: Some([0, 0, 0, 0].into()), ..CliOptions::default() };
    assert!(load_with("", &flag, &home).is_err(), "by a flag as well");
}

#[test]
fn functions_are_kept_in_the_users_state_directory() {
    let storage = |pairs: &'static [(&str, &str)]| {
        let env = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        load(&CliOptions { config: Some("/dev/null".into()), ..CliOptions::default() }, &env)
            .map(|settings| settings.storage_path)
    };
    assert_eq!(storage(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]).unwrap(), Path::new("/s/faas"));
    assert_eq!(storage(&[("HOME", "/h"), ("XDG_STATE_HOME", "")]).unwrap(), Path::new("/h/.local/state/faas"));
    assert_eq!(storage(&[("HOME", "/h"), ("XDG_STATE_HOME", "s")]).unwrap(), Path::new("/h/.local/state/faas"));
    for nowhere in [&[][..], &[("HOME", "h")]] {
        let message = storage(nowhere).unwrap_err().to_string();
        assert!(message.ends_with("set system.function_storage_path"), "{message}");
    }
}

#[test]
fn the_named_file_is_read_and_must_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("port1.yaml"), "system: {api_gateway_port: 1}").unwrap();
    std::fs::write(path("port2.yaml"), "system: {api_gateway_port: 2}").unwrap();
    std::fs::write(path("huge.yaml"), "#".repeat(limits::CONFIG_FILE_BYTES_MAX + 1)).unwrap();
    std::fs::write(path("f.py"), "def handle(request): return 1\n").unwrap();
    std::fs::write(path("source.yaml"), "functions: {f: {source: f.py}}").unwrap();
    let env_file = path("port2.yaml").to_str().unwrap().to_owned();
    let env = |name: &str| if name == "FAAS_CONFIG_FILE" { Some(env_file.clone()) } else { home(name) };
    let named = |name: &str| load(&CliOptions { config: Some(path(name)), ..CliOptions::default() }, &env);

    assert_eq!(named("port1.yaml").unwrap().port, 1, "the flag wins over the variable");
    let by_variable = load(&CliOptions::default(), &env).unwrap();
    assert_eq!((by_variable.port, by_variable.config_file), (2, Some(path("port2.yaml"))));
    assert_eq!(named("source.yaml").unwrap().functions[0].code.as_deref(), Some("def handle(request): return 1\n"));
    assert!(matches!(named("missing.yaml"), Err(ConfigError::Unreadable { .. })));
    assert!(matches!(named("."), Err(ConfigError::Unreadable { .. })), "a directory");
    assert!(matches!(named("huge.yaml"), Err(ConfigError::TooLarge { .. })));
}
