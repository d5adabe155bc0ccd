//! Every form of every flag, and every mistake.

use std::net::IpAddr;

use super::*;

fn serve(args: &[&str]) -> CliOptions {
    match parse(args) {
        Ok(Command::Serve { options, takeover: false }) => options,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn refusal(args: &[&str]) -> String {
    parse(args).expect_err(&format!("{args:?}")).to_string()
}

#[test]
fn nothing_serves_with_the_defaults() {
    assert_eq!(serve(&[]), CliOptions::default());
}

#[test]
fn the_configuration_is_an_argument_or_a_flag() {
    for args in [
        &["a.yaml"][..],
        &["-c", "a.yaml"],
        &["-ca.yaml"],
        &["--config", "a.yaml"],
        &["--config=a.yaml"],
        &["--", "a.yaml"],
    ] {
        assert_eq!(serve(args).config, Some(PathBuf::from("a.yaml")), "{args:?}");
    }
    assert_eq!(serve(&["--", "-odd"]).config, Some(PathBuf::from("-odd")));
}

#[test]
fn flags_and_their_values() {
    let options = serve(&["--host", "::1", "--port=0", "--debug", "a.yaml"]);
    let expected = CliOptions {
        config: Some("a.yaml".into()),
        host: Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])),
        port: Some(0),
        debug: true,
    };
    assert_eq!(options, expected);
    assert_eq!(serve(&["--host", "localhost"]).host, Some(IpAddr::from([127, 0, 0, 1])));
    assert_eq!(serve(&["--port", "1", "--port", "2"]).port, Some(2), "the last counts");
}

#[test]
fn commands() {
    assert_eq!(parse(["--help"]), Ok(Command::Help));
    assert_eq!(parse(["-h"]), Ok(Command::Help));
    assert_eq!(parse(["-V"]), Ok(Command::Version));
    let options = CliOptions { config: Some("a.yaml".into()), ..CliOptions::default() };
    assert_eq!(
        parse(["a.yaml", "--check-system"]),
        Ok(Command::CheckSystem { options: options.clone(), verbose: false })
    );
    assert_eq!(parse(["--check-system", "a.yaml", "--verbose"]), Ok(Command::CheckSystem { options, verbose: true }));
    let alone = UsageError::Without { flag: "--verbose", needs: "--check-system" };
    assert_eq!(parse(["--verbose"]), Err(alone));
    assert_eq!(parse([RUN_PLAN]), Ok(Command::RunPlan));
    assert_eq!(parse([HEIR_COMMAND]), Ok(Command::Inherit));
    assert_eq!(serve(&["./__run-plan"]).config, Some("./__run-plan".into()), "only the bare word is the subcommand");
}

#[test]
fn the_sample_goes_beside_or_where_it_is_told() {
    let beside = Ok(Command::CreateConfig("./faas_config.yaml".into()));
    assert_eq!(parse(["--create-config"]), beside);
    assert_eq!(parse(["--create-config", "--debug"]), beside, "a flag is not a path");
    for args in [&["--create-config", "x.yaml"][..], &["--create-config=x.yaml"]] {
        assert_eq!(parse(args), Ok(Command::CreateConfig("x.yaml".into())), "{args:?}");
    }
}

#[test]
fn each_mistake_is_named() {
    assert_eq!(refusal(&["--prot", "1"]), "unknown flag --prot; did you mean --port?");
    assert_eq!(refusal(&["--confg=x"]), "unknown flag --confg; did you mean --config?");
    assert_eq!(refusal(&["--frobnicate"]), "unknown flag --frobnicate; see faas --help");
    assert_eq!(refusal(&["-x"]), "unknown flag -x; see faas --help");
    assert_eq!(refusal(&["--port"]), "--port needs a number from 0 to 65535");
    assert_eq!(refusal(&["--port", "65536"]), "--port: got \"65536\"; expected a number from 0 to 65535");
    assert_eq!(refusal(&["--host", "example.org"]), "--host: got \"example.org\"; expected an IP address or localhost");
    assert_eq!(refusal(&["--debug=yes"]), "--debug takes no value; got \"yes\"");
    for args in [&["a.yaml", "b.yaml"][..], &["-c", "a.yaml", "b.yaml"], &["b.yaml", "--create-config", "x.yaml"]] {
        assert_eq!(refusal(args), "unexpected argument \"b.yaml\"; one configuration file is enough", "{args:?}");
    }
}

#[test]
fn arguments_that_are_not_text_are_paths_or_mistakes() {
    use std::os::unix::ffi::OsStringExt;
    let odd = || OsString::from_vec(vec![b'a', 0xff]);
    let options = CliOptions { config: Some(odd().into()), ..CliOptions::default() };
    assert_eq!(parse([odd()]), Ok(Command::Serve { options, takeover: false }));
    assert!(matches!(parse([OsString::from("--port"), odd()]), Err(UsageError::WrongValue { .. })));
    assert!(parse([OsString::from_vec(b"--\xff".to_vec())]).is_err());
}

#[test]
fn a_takeover_is_a_way_of_serving_and_goes_with_nothing_else() {
    let options = CliOptions { config: Some("a.yaml".into()), ..CliOptions::default() };
    assert_eq!(parse(["--takeover", "a.yaml"]), Ok(Command::Serve { options, takeover: true }));
    assert_eq!(refusal(&["--takeover", "--check-system"]), "--takeover does not go with --check-system");
    assert_eq!(refusal(&["--create-config", "--takeover"]), "--takeover does not go with --create-config");
}

#[test]
fn the_help_names_every_flag_and_fits_a_terminal() {
    for flag in FLAGS {
        assert!(HELP.contains(flag), "{flag}");
    }
    assert!(!HELP.contains(RUN_PLAN), "a hidden subcommand stays hidden");
    for line in HELP.lines() {
        assert!(line.len() <= 85, "{line}");
    }
}

#[test]
fn the_sample_is_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("faas_config.yaml");
    create_config(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), SAMPLE);
    std::fs::write(&path, "mine").unwrap();
    let error = create_config(&path).unwrap_err();
    assert!(matches!(error, CreateConfigError::Exists { .. }) && error.to_string().ends_with("it is left as it is"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn a_dangling_link_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (link, target) = (directory.path().join("link"), directory.path().join("target"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(matches!(create_config(&link), Err(CreateConfigError::Exists { .. })));
    assert!(!target.exists());
    let nowhere = directory.path().join("no/such/place");
    assert!(matches!(create_config(&nowhere), Err(CreateConfigError::Unwritable { .. })));
}
