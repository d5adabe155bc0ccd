//! Deployments of functions that run in containers, with an engine that is made up. The threads are left out: what a
//! control thread would do is done here.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use serde_json::{json, Value};

use super::super::*;
use super::*;
use crate::backend::docker::health::{EngineState, Health};
use crate::backend::process::runtimes::{Runtimes, SandboxSettings};
use crate::backend::runtimes::Images;
use crate::config::{load, CliOptions, DeclaredFunction, Settings, Sources};
use crate::doorbell::{line, Desk};
use crate::egress::Egress;
use crate::limits::FRONT_QUEUE_MAX;
use crate::logs::FunctionLogs;
use crate::registry::function::Network;
use crate::registry::image::ImageId;
use crate::registry::testing::image_id;
use crate::reload::{control_settings, Parts};
use crate::systemd::Notifier;

const CODE: &str = "def handle(request): pass\n";

/// What each name stands for at present, and how often anybody asked.
#[derive(Debug, Default)]
struct Engine {
    images: Mutex<BTreeMap<String, ImageId>>,
    asked: AtomicUsize,
}

impl ImageSource for Arc<Engine> {
    fn prepare_image(&self, reference: &str) -> Result<ImageId, ImageError> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let found = self.images.lock().unwrap().get(reference).cloned();
        found.ok_or_else(|| ImageError::NotFound { message: "no such image".to_owned() })
    }

    fn look_at(&self, code: &str, _config: &FunctionConfig, _runtime: RuntimeId) -> Result<(), CheckError> {
        assert!(!code.is_empty());
        Ok(())
    }
}

struct Stage {
    shared: Shared,
    runtimes: Arc<AllRuntimes>,
    engine: Arc<Engine>,
    front: Desk<FrontEvent>,
    /// Its thread has never begun: nothing is logged here.
    _logs: FunctionLogs,
    directory: tempfile::TempDir,
}

fn settings(system: &str) -> Settings {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("system: {{{system}}}\n")).unwrap();
    let options = CliOptions { config: Some(file.path().to_owned()), ..CliOptions::default() };
    load(&options, &|name: &str| (name == "HOME").then(|| "/home/me".to_owned())).unwrap()
}

impl Stage {
    /// `base:1` is image a, `other:1` image b.
    fn new(system: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let settings = settings(&format!("default_mode: container, base_image: 'base:1'{system}"));
        let (front_line, front) = line(FRONT_QUEUE_MAX).unwrap();
        let (supervisor, _) = line(1).unwrap();
        let sandbox = SandboxSettings::unused(vec![Network::None]);
        let process = Arc::new(Runtimes::new(sandbox, BTreeMap::new()));
        let runtimes = Arc::new(AllRuntimes::new(Arc::clone(&process), Arc::new(Images::default()), None));
        let store = Store::open(&state).unwrap();
        let (logs, _opening) = FunctionLogs::start_closed(&state, 1).unwrap();
        let engine = Arc::new(Engine::default());
        engine.is("base:1", 'a');
        engine.is("other:1", 'b');
        let parts = Parts {
            runtimes: Arc::clone(&process),
            egress: Egress::new(0, Vec::new()),
            logs: logs.sink(),
            response_bytes_max: Arc::default(),
            front: front_line.clone(),
            engine: Arc::new(Health::new(EngineState::Unknown)),
            notifier: Arc::new(Notifier::from_environment()),
        };
        let tools = Tools {
            figures: FigureSource::default(),
            checker: Checker::new(process, supervisor, None),
            runtimes: Arc::clone(&runtimes),
            images: Some(Box::new(Arc::clone(&engine))),
            logs: logs.sink(),
            front: front_line,
            reloader: Reloader::new(Sources::new(CliOptions::default()), settings.clone(), parts),
        };
        let shared = Shared::new(store, &[], control_settings(&settings), tools);
        Stage { shared, runtimes, engine, front, _logs: logs, directory }
    }

    fn done(&self) -> Result<Done, Problem> {
        match self.front.try_recv() {
            Some(FrontEvent::Control(reply)) => reply.result,
            other => panic!("{other:?}"),
        }
    }

    fn create(&self, name: &str, config: Value) -> Result<Arc<FunctionVersion>, Problem> {
        let body = json!({ "name": name, "code": CODE, "config": config }).to_string();
        self.shared.create(Ticket(1), body.as_bytes());
        version(self.done())
    }

    fn update(&self, name: &str, body: &Value) -> Result<Arc<FunctionVersion>, Problem> {
        self.shared.update(Ticket(1), name, body.to_string().as_bytes());
        version(self.done())
    }
}

impl Engine {
    /// From now on the name stands for the image whose digits are this one.
    fn is(&self, reference: &str, digit: char) {
        self.images.lock().unwrap().insert(reference.to_owned(), image_id(digit));
    }

    fn asked(&self) -> usize {
        self.asked.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn version(done: Result<Done, Problem>) -> Result<Arc<FunctionVersion>, Problem> {
    match done? {
        Done::Created(version) | Done::Updated(version) | Done::Unchanged(version) => Ok(version),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_version_is_stored_with_what_its_image_was_and_has_a_runtime_when_the_front_hears_of_it() {
    let stage = Stage::new("");
    let base = stage.create("base", json!({})).unwrap();
    let other = stage.create("other", json!({ "image": "other:1" })).unwrap();
    assert_eq!((&base.image_id, &other.image_id), (&Some(image_id('a')), &Some(image_id('b'))));
    assert_eq!((&base.config.image, other.config.image.as_deref()), (&None, Some("other:1")));
    let runtimes = [&base, &other].map(|function| stage.runtimes.known_for(function).unwrap());
    assert!(runtimes[0].is_container() && runtimes[0] != runtimes[1]);
    drop(stage.shared);
    let stored = Store::open(&stage.directory.path().join("state")).unwrap().load_all().unwrap().functions;
    assert_eq!(stored, [(*base).clone(), (*other).clone()]);
}

#[test]
fn an_update_has_what_the_name_stands_for_now_and_is_none_if_that_is_the_same() {
    let stage = Stage::new("");
    stage.create("f", json!({})).unwrap();
    assert_eq!(stage.update("f", &json!({ "code": CODE })).unwrap().version, 1);
    stage.engine.is("base:1", 'c');
    let moved = stage.update("f", &json!({ "code": CODE })).unwrap();
    assert_eq!((moved.version, &moved.image_id), (2, &Some(image_id('c'))));
    let other = stage.update("f", &json!({ "config": { "image": "other:1" } })).unwrap();
    assert_eq!((other.version, &other.image_id), (3, &Some(image_id('b'))));
    let back = stage.update("f", &json!({ "config": { "image": "default" } })).unwrap();
    assert_eq!((back.version, &back.image_id), (4, &Some(image_id('c'))));
}

#[test]
fn a_function_of_the_configuration_keeps_its_image_until_it_says_something_else() {
    let stage = Stage::new("");
    let declared = |code: &str| {
        vec![DeclaredFunction {
            name: "f".to_owned(),
            settings: FunctionSettings::default(),
            code: Some(code.to_owned()),
        }]
    };
    let image = || {
        let function = stage.shared.functions().pop().unwrap();
        (function.version, function.image_id.clone().unwrap(), stage.engine.asked())
    };
    stage.shared.deploy_declared(&declared(CODE));
    assert_eq!(image(), (1, image_id('a'), 1));
    stage.engine.is("base:1", 'c');
    stage.shared.deploy_declared(&declared(CODE));
    assert_eq!(image(), (1, image_id('a'), 1), "as at the next start");
    let vetted = stage.shared.vet_declared(&declared(CODE));
    stage.shared.deploy_declared_live(&declared(CODE), &vetted);
    assert_eq!(image(), (1, image_id('a'), 1), "it is as declared, and nobody is asked");
    let changed = declared("def handle(request): return 1\n");
    let vetted = stage.shared.vet_declared(&changed);
    assert_eq!(stage.engine.asked(), 2);
    stage.shared.deploy_declared_live(&changed, &vetted);
    assert_eq!(image(), (2, image_id('c'), 2), "what was found out beforehand is not asked again");
}

#[test]
fn an_image_that_cannot_be_had_or_is_refused_deploys_nothing_and_has_no_number() {
    let stage = Stage::new(", image_scan: [sh, -c, 'case $0 in sha256:b*) exit 1;; esac', '{image}']");
    let problem = stage.create("f", json!({ "image": "missing:1" })).unwrap_err();
    assert_eq!((problem.status(), problem.code()), (400, "image_unavailable"));
    assert!(problem.detail().starts_with("config.image: missing:1 cannot be had: no such image"));
    let problem = stage.create("f", json!({ "image": "other:1" })).unwrap_err();
    assert_eq!((problem.status(), problem.code()), (400, "image_refused"));
    assert!(stage.shared.functions().is_empty());
    assert_eq!(stage.runtimes.images().index_of(&image_id('b')), None);
    assert_eq!(stage.create("f", json!({})).unwrap().image_id, Some(image_id('a')));
    assert!(stage.update("f", &json!({ "config": { "image": "other:1" } })).is_err());
    assert_eq!(stage.shared.functions()[0].version, 1);
}

#[test]
fn a_function_that_runs_in_processes_asks_for_no_image_and_may_name_none() {
    let stage = Stage::new("");
    let problem = stage.create("f", json!({ "execution_mode": "process", "image": "base:1" })).unwrap_err();
    assert_eq!((problem.status(), problem.code()), (400, "invalid_config"));
    assert!(problem.detail().starts_with("config.image: got \"base:1\""), "{}", problem.detail());
    assert_eq!(stage.engine.asked(), 0);
}

#[test]
fn where_nobody_makes_containers_a_function_that_needs_one_is_refused() {
    let mut stage = Stage::new("");
    stage.shared.images = None;
    let problem = stage.create("f", json!({})).unwrap_err();
    assert_eq!((problem.status(), problem.code()), (400, "mode_unavailable"));
    assert!(problem.detail().starts_with("config.execution_mode: "), "{}", problem.detail());
}

#[test]
fn which_image_a_version_has_cannot_be_said_by_a_client() {
    let stage = Stage::new("");
    let id = image_id('f').to_string();
    let body = json!({ "name": "f", "code": CODE, "image_id": id }).to_string();
    stage.shared.create(Ticket(1), body.as_bytes());
    assert_eq!(version(stage.done()).unwrap_err().code(), "invalid_request");
    assert_eq!(stage.create("f", json!({ "image_id": id })).unwrap_err().code(), "invalid_config");
}

#[test]
fn a_client_is_told_of_an_image_and_not_of_the_scanners_words() {
    let command = ImageScan { program: "/opt/scanner".into(), arguments: vec!["{image}".into()] };
    let status = std::os::unix::process::ExitStatusExt::from_raw(256);
    let said = ScanError::Refused { status, output: "CVE-1 in /secret/layer".to_owned() };
    let late = ScanError::TimedOut { limit: std::time::Duration::from_secs(3) };
    let problems = [
        (not_there("a:1", &ImageError::NotFound { message: "no such image".into() }), 400, "image_unavailable"),
        (not_there("a:1", &ImageError::Engine { message: "not reached".into() }), 503, "engine_unavailable"),
        (refused("a:1", &command, &said), 400, "image_refused"),
        (refused("a:1", &command, &late), 503, "scan_failed"),
    ];
    for (problem, status, code) in problems {
        assert_eq!((problem.status(), problem.code()), (status, code));
        assert!(problem.detail().starts_with("config.image: a:1 "), "{}", problem.detail());
        assert!(!problem.detail().contains("/secret") && !problem.detail().contains("/opt/scanner"));
    }
}
