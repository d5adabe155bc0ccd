//! The `faas` binary: arguments, configuration, start, exit code.

use std::process::ExitCode;

use faas::cli::{self, Command};
use faas::config;
use faas::config::{CliOptions, Settings};

/// Something is wrong with how the program was called.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("faas: {error}");
            return ExitCode::from(USAGE);
        }
    };
    match command {
        Command::RunPlan => faas::sandbox::run_plan_main(),
        Command::Help => {
            print!("{}", cli::HELP);
            ExitCode::SUCCESS
        }
        Command::Version => {
            println!("{}", cli::VERSION);
            ExitCode::SUCCESS
        }
        Command::CreateConfig(path) => match cli::create_config(&path) {
            Ok(()) => {
                println!("wrote {}", path.display());
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        },
        Command::CheckSystem(options) => with_settings(&options, |settings| {
            if faas::system_check::check(settings) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }),
        Command::Serve(options) => with_settings(&options, serve),
    }
}

fn with_settings(options: &CliOptions, run: impl FnOnce(&Settings) -> ExitCode) -> ExitCode {
    // A variable that is not UTF-8 cannot be any value that is allowed, so it is treated as one that is wrong.
    let environment = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    match config::load(options, &environment) {
        Ok(settings) => run(&settings),
        Err(error) => failed(&error),
    }
}

fn serve(settings: &Settings) -> ExitCode {
    let ready = |address: std::net::SocketAddr| {
        println!("faas {} serves on http://{address}", env!("CARGO_PKG_VERSION"));
        match &settings.config_file {
            Some(path) => println!("  configuration  {}", path.display()),
            None => println!("  configuration  built-in defaults; faas --create-config writes a file to change"),
        }
        println!("  state          {}", settings.storage_path.display());
        println!("  isolation      {}", settings.isolation);
        // The well-known key is worth naming only where it opens anything.
        let key = if settings.well_known_keys { "demo-key" } else { "KEY" };
        println!("Try it:");
        println!("  curl http://{address}/health");
        println!("  curl http://{address}/functions -H 'Authorization: Bearer {key}' \\");
        println!("    -d '{{\"name\": \"hello\", \"code\": \"def handle(request):\\n    return {{\\\"hello\\\": \\\"world\\\"}}\"}}'");
        println!("  curl http://{address}/invoke/hello -H 'Authorization: Bearer {key}'");
    };
    match faas::server::serve(settings, ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("faas: {error}");
    ExitCode::FAILURE
}
