//! The `faas` binary: arguments, configuration, start, exit code.

use std::net::SocketAddr;
use std::process::ExitCode;

use faas::cli::{self, Command};
use faas::config::{CliOptions, Settings, Sources};

/// Something is wrong with how the program was called.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            cli::complain(&error);
            return ExitCode::from(USAGE);
        }
    };
    match command {
        Command::RunPlan => faas::sandbox::run_plan_main(faas::backend::process::report_refused_plan),
        Command::Inherit => faas::backend::docker::heir_main(),
        Command::Help => {
            cli::say(cli::HELP);
            ExitCode::SUCCESS
        }
        Command::Version => {
            cli::say(&format!("{}\n", cli::VERSION));
            ExitCode::SUCCESS
        }
        Command::CreateConfig(path) => match cli::create_config(&path) {
            Ok(()) => {
                cli::say(&format!("wrote {}\n", path.display()));
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        },
        Command::CheckSystem { options, verbose } => with_settings(options, |settings, _| {
            if faas::system_check::check(settings, verbose) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }),
        Command::Serve { options, takeover } => {
            with_settings(options, |settings, sources| serve(settings, sources, takeover))
        }
    }
}

fn with_settings(options: CliOptions, run: impl FnOnce(&Settings, Sources) -> ExitCode) -> ExitCode {
    let mut sources = Sources::new(options);
    match sources.load() {
        Ok(settings) => run(&settings, sources),
        Err(error) => failed(&error),
    }
}

fn serve(settings: &Settings, sources: Sources, takeover: bool) -> ExitCode {
    match faas::server::serve(settings, sources, takeover, |address| cli::say(&welcome(settings, address))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// What a server says when it serves, and how to try it.
fn welcome(settings: &Settings, address: SocketAddr) -> String {
    let configuration = match &settings.config_file {
        Some(path) => path.display().to_string(),
        None => "built-in defaults; faas --create-config writes a file to change".to_owned(),
    };
    // The well-known key is worth naming only where it opens anything.
    let key = if settings.well_known_keys { "demo-key" } else { "KEY" };
    let functions = match settings.well_known_keys || !settings.api_keys.is_empty() {
        true => format!(
            r#"  curl http://{address}/functions -H 'Authorization: Bearer {key}' \
    -d '{{"name": "hello", "code": "def handle(request):\n    return {{\"hello\": \"world\"}}"}}'
  curl http://{address}/invoke/hello -H 'Authorization: Bearer {key}'
"#
        ),
        false => "No functions can be posted or called: there is no API key, system.api_keys makes some.\n".to_owned(),
    };
    format!(
        r#"{version} serves on http://{address}
  configuration  {configuration}
  state          {state}
  isolation      {isolation}
Try it:
  curl http://{address}/health
{functions}"#,
        version = cli::VERSION,
        state = settings.storage_path.display(),
        isolation = settings.isolation,
    )
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    cli::complain(error);
    ExitCode::FAILURE
}
