//! A look at code before it is stored: does it compile, and does it bind its handler. In a sandbox, since a compiler
//! can be attacked too: a process's or a container's, as the function will have; it is thrown away afterwards.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use crate::backend::docker::job::ContainerJob;
use crate::backend::{Instance, Wish};
use crate::call::ExitReason;
use crate::doorbell::Line;
use crate::limits::{
    BLANK_START_TIMEOUT, CHECK_SANDBOXES_MAX, CHECK_TIMEOUT, CONTAINER_BLANK_TIMEOUT, CONTAINER_EXIT_WAIT,
    WIRE_MESSAGE_BYTES_MAX,
};
use crate::registry::function::{FunctionConfig, Network};
use crate::scheduler::RuntimeId;
use crate::sys;
use crate::wire::{self, CheckHead, CheckProblem, CodeMessages, Direction, Kind, WireError};

use super::process::runtimes::{NetworkError, RuntimeError, Runtimes};
use super::process::supervisor::SupervisorJob;

/// Looks at code; cheap to clone, used by every control thread.
#[derive(Clone)]
pub struct Checker {
    runtimes: Arc<Runtimes>,
    supervisor: Line<SupervisorJob>,
    containers: Option<Line<ContainerJob>>,
}

/// What kind of fault code has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not compile.
    Syntax,
    /// It never binds the handler's name.
    Handler,
    /// It is beyond what the compiler can take.
    Limit,
}

impl Fault {
    /// The stable `code` of the API's problem.
    pub fn code(self) -> &'static str {
        match self {
            Fault::Syntax => "invalid_code",
            Fault::Handler => "handler_not_found",
            Fault::Limit => "code_too_complex",
        }
    }
}

/// Why code is not accepted, or could not be looked at.
#[derive(Debug)]
pub enum CheckError {
    /// The code has this fault.
    Rejected {
        /// Of which kind.
        reason: Fault,
        /// Where, counted from 1.
        line: Option<u32>,
        /// Where in the line, counted from 1.
        column: Option<u32>,
        /// What the compiler said.
        message: String,
    },
    /// The function asks for an interpreter that is not there.
    Runtime(RuntimeError),
    /// No sandbox could be had.
    NoSandbox {
        /// What the supervisor said.
        reason: String,
    },
    /// The compiler did not finish in time.
    TimedOut,
    /// The sandbox ended or broke the protocol before it gave a verdict.
    Broken {
        /// What was seen.
        reason: String,
    },
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckError::Rejected { message, .. } => f.write_str(message),
            CheckError::Runtime(error) => error.fmt(f),
            CheckError::NoSandbox { reason } => write!(f, "no sandbox to look at it: {reason}"),
            CheckError::TimedOut => write!(f, "looking at it took longer than {CHECK_TIMEOUT:?}"),
            CheckError::Broken { reason } => write!(f, "the sandbox that looked at it failed: {reason}"),
        }
    }
}

impl std::error::Error for CheckError {}

/// A sandbox for one look at code. It is ended however the look ends, and also when nobody takes it any more.
#[derive(Debug)]
pub struct Throwaway(Option<Instance>);

impl Throwaway {
    /// Takes charge of an instance.
    pub fn new(instance: Instance) -> Self {
        Throwaway(Some(instance))
    }

    /// Lets go of it without ending it.
    pub fn into_instance(mut self) -> Option<Instance> {
        self.0.take()
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let Some(mut instance) = self.0.take() else { return };
        instance.custody.kill();
        let limit = Instant::now() + crate::limits::KILL_WAIT;
        let _ = sys::io::wait_readable(instance.custody.ended(), limit);
        while instance.custody.end().reason().is_none() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        instance.custody.bury();
    }
}

impl Checker {
    /// A checker that asks these for its sandboxes.
    pub fn new(
        runtimes: Arc<Runtimes>,
        supervisor: Line<SupervisorJob>,
        containers: Option<Line<ContainerJob>>,
    ) -> Self {
        Checker { runtimes, supervisor, containers }
    }

    /// Whether functions may have this network here.
    ///
    /// # Errors
    /// Why they may not.
    pub fn permit(&self, network: Network) -> Result<(), NetworkError> {
        self.runtimes.permit(network)
    }

    /// Looks at the code of a function. Blocks for some milliseconds, at most for the limits' sum.
    ///
    /// A look changes nothing, so one that failed for its sandbox's sake (its zygote died at that moment) is repeated.
    ///
    /// # Errors
    /// [`CheckError::Rejected`] when the code is at fault, another variant when it could not be looked at.
    pub fn check(&self, code: &str, config: &FunctionConfig) -> Result<(), CheckError> {
        let runtime = self.runtimes.resolve(&config.runtime).map_err(CheckError::Runtime)?;
        self.check_with(runtime, code, config)
    }

    /// The same with a runtime that is known: that of an image, for instance.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_with(&self, runtime: RuntimeId, code: &str, config: &FunctionConfig) -> Result<(), CheckError> {
        let mut sandboxes = 0;
        loop {
            sandboxes += 1;
            match self.look(runtime, code, config) {
                Err(CheckError::NoSandbox { reason } | CheckError::Broken { reason })
                    if sandboxes < CHECK_SANDBOXES_MAX =>
                {
                    log::info!("a look at code is repeated: {reason}");
                }
                outcome => return outcome,
            }
        }
    }

    fn look(&self, runtime: RuntimeId, code: &str, config: &FunctionConfig) -> Result<(), CheckError> {
        match &mut self.sandbox(runtime)?.0 {
            Some(instance) => converse(instance, code, config),
            None => Err(CheckError::Broken { reason: "it was thrown away".to_owned() }),
        }
    }

    fn sandbox(&self, runtime: RuntimeId) -> Result<Throwaway, CheckError> {
        let no_sandbox = |reason: &str| CheckError::NoSandbox { reason: reason.to_owned() };
        let (answer, sandbox) = bounded(1);
        let wish = Wish::ForChecker { runtime, answer };
        let (is_ordered, limit) = match &self.containers {
            Some(containers) if runtime.is_container() => {
                (containers.send(ContainerJob::Make(wish)).is_ok(), CONTAINER_BLANK_TIMEOUT)
            }
            _ => (self.supervisor.send(SupervisorJob::Make(wish)).is_ok(), BLANK_START_TIMEOUT),
        };
        if !is_ordered {
            return Err(no_sandbox("the server is stopping"));
        }
        // Who was asked answers within a limit of its own; the margin is for a busy machine.
        sandbox
            .recv_timeout(limit + Duration::from_secs(5))
            .map_err(|_| no_sandbox("the supervisor does not answer"))?
            .map_err(|reason| CheckError::NoSandbox { reason })
    }
}

fn converse(instance: &mut Instance, code: &str, config: &FunctionConfig) -> Result<(), CheckError> {
    let deadline = Instant::now() + CHECK_TIMEOUT;
    let head = CheckHead { module: &config.handler.module, handler: &config.handler.name };
    let messages = CodeMessages::check(&head, code).map_err(|error| broken(&error))?;
    for message in messages {
        while let Err(error) = sys::io::send(&instance.channel, &[IoSlice::new(&message)]) {
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(broken(&error));
            }
            if Instant::now() >= deadline {
                return Err(CheckError::TimedOut);
            }
            // The code is larger than the socket's buffer, and the sandbox is taking it out.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let mut buffer = vec![0; WIRE_MESSAGE_BYTES_MAX + 1];
    loop {
        match sys::io::recv(&instance.channel, &mut buffer) {
            Ok((0, _)) => return Err(CheckError::Broken { reason: "it ended".to_owned() }),
            Ok((length, _)) => {
                if let Some(verdict) = read_verdict(&buffer[..length])? {
                    return verdict;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(instance, deadline)?,
            Err(error) => return Err(broken(&error)),
        }
    }
}

fn read_verdict(message: &[u8]) -> Result<Option<Result<(), CheckError>>, CheckError> {
    let frames = wire::decode_message(message, Direction::FromInstance).map_err(|error| broken(&error))?;
    for frame in frames {
        match frame.kind {
            Kind::Hello | Kind::Log => {}
            Kind::CheckResult => {
                let result = wire::decode_check_result(&frame).map_err(|error| broken(&error))?;
                return Ok(Some(result.map_err(rejected)));
            }
            Kind::Error => {
                let report = wire::decode_error(&frame).map_err(|error| broken(&error))?;
                return Err(CheckError::NoSandbox { reason: report.message });
            }
            kind => return Err(broken(&WireError::UnexpectedFrame { kind })),
        }
    }
    Ok(None)
}

fn rejected(problem: CheckProblem) -> CheckError {
    let (reason, line, column, message) = match problem {
        CheckProblem::Syntax { line, column, message } => (Fault::Syntax, line, column, message),
        CheckProblem::Handler { message } => (Fault::Handler, None, None, message),
        CheckProblem::Limit { message } => (Fault::Limit, None, None, message),
    };
    CheckError::Rejected { reason, line, column, message }
}

fn broken(error: &dyn fmt::Display) -> CheckError {
    CheckError::Broken { reason: error.to_string() }
}

/// What it means that the sandbox ended without a verdict: a compiler that used up its memory or crashed did so over
/// this code, and would again.
fn ended(exit: Option<ExitReason>) -> CheckError {
    let message = match exit {
        Some(ExitReason::OutOfMemory { limit_bytes }) => {
            format!("compiling the code takes more than {} MiB of memory", limit_bytes >> 20)
        }
        Some(ExitReason::Signal(libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGABRT)) => {
            "the compiler crashed on the code".to_owned()
        }
        exit => return CheckError::Broken { reason: format!("it ended before it gave a verdict: {exit:?}") },
    };
    CheckError::Rejected { reason: Fault::Limit, line: None, column: None, message }
}

/// How a sandbox ended, which may have to be asked for.
fn exit_of(instance: &mut Instance) -> Option<ExitReason> {
    let limit = Instant::now() + CONTAINER_EXIT_WAIT + Duration::from_secs(1);
    loop {
        match instance.custody.end().reason() {
            None if Instant::now() < limit => std::thread::sleep(Duration::from_millis(1)),
            exit => return exit,
        }
    }
}

/// Waits until the sandbox has said something or is gone: when it ends, its end of the channel stays open in this
/// process, so its process is watched too.
fn wait(instance: &mut Instance, deadline: Instant) -> Result<(), CheckError> {
    match sys::io::wait_either(&instance.channel, instance.custody.ended(), deadline) {
        Ok(sys::io::Woken::First) => Ok(()),
        Ok(sys::io::Woken::Second) => Err(ended(exit_of(instance))),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(CheckError::TimedOut),
        Err(error) => Err(broken(&error)),
    }
}
