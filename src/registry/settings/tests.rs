//! What a function's settings may be, and that they survive the way through JSON.

use proptest::prelude::*;

use super::*;

fn read(fields: Value) -> Result<FunctionSettings, SettingError> {
    FunctionSettings::from_json(fields.as_object().expect("the test gives an object"))
}

fn refusal(fields: Value) -> String {
    read(fields.clone()).expect_err(&format!("{fields} must be refused")).to_string()
}

fn resolved(fields: Value) -> FunctionConfig {
    read(fields).unwrap().resolve(ExecutionMode::Process).unwrap()
}

#[test]
fn nothing_given_is_the_defaults() {
    let config = resolved(json!({}));
    assert_eq!(
        config.to_json(true),
        json!({
            "runtime": "python3", "execution_mode": "process", "image": "default", "network": "none", "handler": "handle",
            "timeout": 30, "memory": "256Mi", "cpu_limit": "1000m", "dependencies": [], "environment": {}, "min_instances": 0, "max_instances": 10,
            "max_invocations_per_instance": "unlimited", "idle_ttl": "default",
        })
    );
    assert_eq!(
        read(json!({})).unwrap().resolve(ExecutionMode::Container).unwrap().execution_mode,
        ExecutionMode::Container
    );
}

#[test]
fn null_is_not_given() {
    let all_null: Map<String, Value> = SETTING_KEYS.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
    assert_eq!(FunctionSettings::from_json(&all_null), Ok(FunctionSettings::default()));
}

#[test]
fn units_are_understood() {
    for (given, ms) in [(json!(30), 30_000), (json!(0.5), 500), (json!("500ms"), 500), (json!("30s"), 30_000)] {
        assert_eq!(resolved(json!({ "timeout": given })).timeout_ms, ms, "{given}");
    }
    let mi = 1024 * 1024;
    for (given, bytes) in
        [(json!("256Mi"), 256 * mi), (json!("1Gi"), 1024 * mi), (json!("64M"), 64_000_000), (json!(64 * mi), 64 * mi)]
    {
        assert_eq!(resolved(json!({ "memory": given })).memory_bytes, bytes, "{given}");
    }
    for (given, millis) in [(json!("100m"), 100), (json!("1.5"), 1500), (json!(2), 2000), (json!(0.1), 100)] {
        assert_eq!(resolved(json!({ "cpu_limit": given })).cpu_millis, millis, "{given}");
    }
}

#[test]
fn an_unknown_field_names_the_nearest() {
    assert_eq!(refusal(json!({ "memroy": "1Gi" })), "memroy: unknown key; did you mean memory?");
    assert!(refusal(json!({ "colour": 1 })).starts_with("colour: unknown key; known are runtime, "));
}

#[test]
fn each_wrong_value_is_refused_by_name() {
    let wrong = [
        (
            "runtime",
            vec![
                json!("python2"),
                json!("python3."),
                json!("python3.7"),
                json!("python3.08"),
                json!("python3.11.2"),
                json!("nodejs"),
                json!(3.11),
            ],
        ),
        ("execution_mode", vec![json!("vm"), json!(""), json!(true)]),
        (
            "image",
            vec![
                json!(""),
                json!("a b"),
                json!("../a"),
                json!("a:"),
                json!("A"),
                json!("x".repeat(600)),
                json!(3.11),
                json!(["python"]),
            ],
        ),
        ("network", vec![json!("bridge"), json!(""), json!(false), json!(["none"])]),
        (
            "handler",
            vec![
                json!(""),
                json!("."),
                json!("a."),
                json!(".b"),
                json!("a.b.c"),
                json!("class"),
                json!("main.lambda"),
                json!("1a"),
                json!("a b"),
                json!("é"),
                json!("a".repeat(500)),
                json!(1),
            ],
        ),
        (
            "timeout",
            vec![
                json!(0),
                json!(-1),
                json!(901),
                json!("16m"),
                json!("soon"),
                json!("30 s"),
                json!(true),
                json!(0.0001),
                json!([1]),
            ],
        ),
        ("memory", vec![json!("1Mi"), json!("2Ti"), json!("256MB"), json!("lots"), json!(-1), json!(0), json!({})]),
        ("cpu_limit", vec![json!(0), json!("9m"), json!("2000"), json!("1.5m2"), json!([])]),
        (
            "dependencies",
            vec![
                json!("requests"),
                json!([""]),
                json!([1]),
                json!(["a\nb"]),
                json!(["x".repeat(600)]),
                json!(vec!["a"; 257]),
            ],
        ),
        (
            "environment",
            vec![
                json!([]),
                json!({"A": 1}),
                json!({"A": true}),
                json!({"A": null}),
                json!({"1A": "x"}),
                json!({"A-B": "x"}),
                json!({"": "x"}),
                json!({"FAAS_FUNCTION": "x"}),
                json!({"FAAS_VERSION": "x"}),
                json!({"FAAS_INSTANCE": "x"}),
                json!({"A": "x\u{0}"}),
                json!({"A": "x".repeat(70_000)}),
            ],
        ),
        ("min_instances", vec![json!(-1), json!(1001), json!(1.5), json!("1")]),
        ("max_instances", vec![json!(0), json!(1001), json!("many")]),
        (
            "max_invocations_per_instance",
            vec![json!(0), json!(-1), json!(1.5), json!(1_000_000_001), json!("10"), json!("none"), json!([])],
        ),
        ("idle_ttl", vec![json!(0), json!(-1), json!("8d"), json!("800h"), json!("always"), json!(true), json!([])]),
    ];
    assert_eq!(wrong.len(), SETTING_KEYS.len(), "every field is here");
    for (field, values) in wrong {
        for value in values {
            let text = refusal(json!({ field: value }));
            assert!(text.starts_with(field), "{field} {value}: {text}");
            assert!(text.len() < 400, "{field}: the message is bounded: {text}");
        }
    }
}

#[test]
fn a_number_in_the_environment_is_to_be_quoted_and_not_shown() {
    let text = refusal(json!({ "environment": { "PIN": 4711 } }));
    assert_eq!(text, "environment.PIN: got a number (not shown); expected text; put the value in quotes");
}

#[test]
fn a_variable_that_the_server_sets_is_refused_by_its_name() {
    let text = refusal(json!({ "environment": { "FAAS_FUNCTION": "other" } }));
    let why = "got text (not shown); expected another name: the server itself sets this variable";
    assert_eq!(text, format!("environment.FAAS_FUNCTION: {why}"));
    assert!(read(json!({ "environment": { "FAAS_REGION": "x" } })).is_ok());
}

#[test]
fn an_idle_time_that_is_none_is_told_the_words_and_the_range_that_it_may_have() {
    let range = "10ms to 168h (7 days), as a number of seconds or with a unit (500ms, 30s, 5m, 1h)";
    for (given, shown) in [
        (json!("adaptiv"), "\"adaptiv\""),
        (json!("forever"), "\"forever\""),
        (json!("7d"), "\"7d\""),
        (json!(true), "true"),
        (json!(0), "0"),
    ] {
        let text = refusal(json!({ "idle_ttl": given }));
        assert_eq!(text, format!("idle_ttl: got {shown}; expected adaptive, default, or {range}"));
        let entry = Entry::new(KeyPath::root().key("warm_instance_ttl"), &given);
        let text = read_idle_ttl(&entry).unwrap_err().to_string();
        assert_eq!(text, format!("warm_instance_ttl: got {shown}; expected adaptive, or {range}"));
    }
}

#[test]
fn a_handler_is_a_name_in_the_default_module_or_another() {
    let handler = |text: &str| resolved(json!({ "handler": text })).handler;
    assert_eq!(handler("run"), Handler { module: "main".into(), name: "run".into() });
    assert_eq!(handler("app.run"), Handler { module: "app".into(), name: "run".into() });
    assert_eq!(handler("main.run").to_string(), "run");
    assert_eq!(handler("app.run").to_string(), "app.run");
}

#[test]
fn more_minimum_than_maximum_instances_is_refused() {
    let settings = read(json!({ "min_instances": 5, "max_instances": 4 })).unwrap();
    let text = settings.resolve(ExecutionMode::Process).unwrap_err().to_string();
    assert_eq!(text, "min_instances: 5 is more than max_instances, which is 4");
}

#[test]
fn merging_puts_given_fields_over_and_replaces_the_environment_whole() {
    let base = read(json!({ "timeout": 1, "memory": "64Mi", "environment": { "A": "1", "B": "2" } })).unwrap();
    let over = read(json!({ "timeout": 2, "environment": { "C": "3" } })).unwrap();
    let expected = read(json!({ "timeout": 2, "memory": "64Mi", "environment": { "C": "3" } })).unwrap();
    assert_eq!(base.clone().merge(over), expected);
    assert_eq!(base.clone().merge(FunctionSettings::default()), base);
}

#[test]
fn an_update_can_take_the_end_of_instances_away_again() {
    let limited = read(json!({ "max_invocations_per_instance": 7 })).unwrap();
    let invocations = |over: Value| {
        let merged = limited.clone().merge(read(over).unwrap());
        merged.resolve(ExecutionMode::Process).unwrap().max_invocations_per_instance
    };
    assert_eq!(invocations(json!({})), InvocationsMax::AtMost(7));
    assert_eq!(invocations(json!({ "max_invocations_per_instance": null })), InvocationsMax::AtMost(7));
    assert_eq!(invocations(json!({ "max_invocations_per_instance": "unlimited" })), InvocationsMax::Unlimited);
}

#[test]
fn hidden_environment_values_leave_the_names() {
    let config = resolved(json!({ "environment": { "TOKEN": "secret" } }));
    assert_eq!(config.to_json(false)["environment"], json!({ "TOKEN": null }));
    assert!(!config.to_json(false).to_string().contains("secret"));
}

#[test]
fn function_names() {
    for good in ["a", "0", "hello-world", "A_b-1", &"x".repeat(63)] {
        assert_eq!(validate_name(good), Ok(()), "{good}");
    }
    for bad in ["", "-a", "_a", "a.b", "a/b", "..", "a b", "é", "a\n", "a\0", &"x".repeat(64)] {
        let text = validate_name(bad).expect_err(bad).to_string();
        assert!(text.starts_with("name: got ") && !text.contains(['\n', '\0']), "{text}");
    }
}

#[test]
fn an_image_is_a_name_or_the_servers_and_an_update_can_take_it_back() {
    let boxed = |fields: Value| read(fields).unwrap().resolve(ExecutionMode::Container).map(|config| config.image);
    assert_eq!(boxed(json!({})), Ok(None));
    assert_eq!(boxed(json!({ "image": null })), Ok(None));
    assert_eq!(boxed(json!({ "image": "Default" })), Ok(None));
    assert_eq!(boxed(json!({ "image": "default:latest" })), Ok(Some("default:latest".to_owned())));
    let given = read(json!({ "execution_mode": "container", "image": "python:3.12-slim" })).unwrap();
    let image = |over: Value| {
        let merged = given.clone().merge(read(over).unwrap());
        merged.resolve(ExecutionMode::Process).map(|config| config.image).map_err(|error| error.to_string())
    };
    assert_eq!(image(json!({ "timeout": 1 })), Ok(Some("python:3.12-slim".to_owned())));
    assert_eq!(image(json!({ "image": "default" })), Ok(None));
    assert_eq!(image(json!({ "execution_mode": "process", "image": "default" })), Ok(None));
}

#[test]
fn an_image_without_a_container_is_refused_by_its_name() {
    let refused = |fields: Value, mode| read(fields).unwrap().resolve(mode).unwrap_err().to_string();
    let expected = "image: got \"python:3\"; expected default, unless execution_mode is container";
    assert_eq!(refused(json!({ "image": "python:3" }), ExecutionMode::Process), expected);
    let both = json!({ "image": "python:3", "execution_mode": "process" });
    assert_eq!(refused(both, ExecutionMode::Container), expected);
}

#[test]
fn which_image_a_version_has_is_no_setting() {
    let id = format!("sha256:{}", "a".repeat(64));
    assert!(refusal(json!({ "image_id": id })).starts_with("image_id: unknown key"));
}

fn any_config() -> impl Strategy<Value = FunctionConfig> {
    let identifier = "[a-zA-Z_][a-zA-Z0-9_]{0,20}".prop_filter("no keyword", |text| is_identifier(text));
    let handler = (identifier.clone(), identifier).prop_map(|(module, name)| Handler { module, name });
    let runtime = prop_oneof![Just("python3".to_owned()), (8..100_u32).prop_map(|minor| format!("python3.{minor}"))];
    let image = prop_oneof![Just(None), "[a-z]{1,9}(:[a-z0-9][a-z0-9.]{0,9})?".prop_map(Some)];
    let image = image.prop_filter("not the word", |image| image.as_deref() != Some("default"));
    let mode =
        prop_oneof![Just((ExecutionMode::Process, None)), image.prop_map(|image| (ExecutionMode::Container, image))];
    let network = prop_oneof![Just(Network::None), Just(Network::Outbound), Just(Network::Host)];
    let numbers = (
        limits::FUNCTION_TIMEOUT_MS_MIN..=limits::FUNCTION_TIMEOUT_MS_MAX,
        limits::FUNCTION_MEMORY_BYTES_MIN..=limits::FUNCTION_MEMORY_BYTES_MAX,
        limits::FUNCTION_CPU_MILLIS_MIN..=limits::FUNCTION_CPU_MILLIS_MAX,
        1..=limits::FUNCTION_INSTANCES_MAX,
        any::<prop::sample::Index>(),
        prop_oneof![
            Just(InvocationsMax::Unlimited),
            (1..=limits::FUNCTION_INVOCATIONS_PER_INSTANCE_MAX).prop_map(InvocationsMax::AtMost)
        ],
        prop::option::of(prop_oneof![Just(IdleTtl::Adaptive), limits::WARM_INSTANCE_TTL_MS.prop_map(IdleTtl::AfterMs)]),
    );
    let dependencies = prop::collection::vec("[a-z]{1,9}(==[0-9.]{1,5})?", 0..4);
    let environment = prop::collection::btree_map("[A-Za-z_][A-Za-z0-9_]{0,9}", "[^\0]{0,20}", 0..4);
    (runtime, mode, network, handler, numbers, dependencies, environment).prop_map(
        |(runtime, (execution_mode, image), network, handler, numbers, dependencies, environment)| FunctionConfig {
            runtime,
            execution_mode,
            image,
            network,
            handler,
            timeout_ms: numbers.0,
            memory_bytes: numbers.1,
            cpu_millis: numbers.2,
            dependencies,
            environment,
            min_instances: numbers.4.index(numbers.3 as usize + 1) as u32,
            max_instances: numbers.3,
            max_invocations_per_instance: numbers.5,
            idle_ttl: numbers.6,
        },
    )
}

#[test]
fn an_idle_time_is_a_time_or_a_word() {
    let ttl = |value: Value| resolved(json!({ "idle_ttl": value })).idle_ttl;
    assert_eq!(ttl(json!("90s")), Some(IdleTtl::AfterMs(90_000)));
    assert_eq!(ttl(json!(0.5)), Some(IdleTtl::AfterMs(500)));
    assert_eq!(ttl(json!("adaptive")), Some(IdleTtl::Adaptive));
    assert_eq!((ttl(json!("default")), ttl(json!(null))), (None, None));
    // An update can take it back.
    let given = read(json!({ "idle_ttl": "adaptive" })).unwrap();
    let back = given.clone().merge(read(json!({ "idle_ttl": "default" })).unwrap());
    assert_eq!(back.resolve(ExecutionMode::Process).unwrap().idle_ttl, None);
    let kept = given.merge(read(json!({ "memory": "64Mi" })).unwrap());
    assert_eq!(kept.resolve(ExecutionMode::Process).unwrap().idle_ttl, Some(IdleTtl::Adaptive));
}

proptest! {
    #[test]
    fn a_configuration_survives_json(config in any_config()) {
        // Through text, as the store and the API do it.
        let text = config.to_json(true).to_string();
        let read = read(serde_json::from_str(&text).unwrap()).unwrap();
        prop_assert_eq!(&read, &config.to_settings());
        // Every field is given, so the default mode must not matter.
        prop_assert_eq!(read.resolve(ExecutionMode::Process).unwrap(), config.clone());
        prop_assert_eq!(read.resolve(ExecutionMode::Container).unwrap(), config);
    }

    #[test]
    fn no_text_in_a_field_panics(field in 0..SETTING_KEYS.len(), text in ".{0,80}") {
        let _ = read(json!({ SETTING_KEYS[field]: text }));
    }
}
