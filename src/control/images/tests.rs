//! Deployments of functions that run in containers, with an engine that is made up. The threads are left out: what a
//! control thread would do is done here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
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
use crate::limits::{FRONT_QUEUE_MAX, IMAGE_PREPARATIONS_MAX, PREPARATION_BYTES_MAX};
use crate::logs::FunctionLogs;
use crate::registry::function::Network;
use crate::registry::image::ImageId;
use crate::registry::testing::image_id;
use crate::reload::{control_settings, Parts};
use crate::systemd::Notifier;

const CODE: &str = "def handle(request): pass\n";

/// What each name stands for at present, what it stands for elsewhere, and how often anybody asked.
#[derive(Debug, Default)]
struct Engine {
    images: Mutex<BTreeMap<String, ImageId>>,
    elsewhere: Mutex<BTreeMap<String, ImageId>>,
    asked: AtomicUsize,
    pulled: AtomicUsize,
    /// How often it was told to give up pulls.
    stopped: AtomicUsize,
    /// Held to let pulls take their time.
    pulls: Mutex<()>,
}

impl ImageSource for Arc<Engine> {
    fn find_image(&self, reference: &Reference) -> Result<Option<ImageId>, ImageError> {
        self.asked.fetch_add(1, Relaxed);
        Ok(self.images.lock().unwrap().get(&reference.to_string()).cloned())
    }

    fn pull_image(&self, reference: &Reference) -> Result<(ImageId, Pulled), ImageError> {
        self.pulled.fetch_add(1, Relaxed);
        drop(self.pulls.lock().unwrap());
        let image = reference.to_string();
        assert!(!image.contains("panics"), "on purpose");
        let found = self.elsewhere.lock().unwrap().get(&image).cloned();
        let id = found.ok_or_else(|| ImageError::NotFound { message: "no such image".to_owned() })?;
        self.images.lock().unwrap().insert(image.clone(), id.clone());
        Ok((id, Pulled { image, digest: None, took: Duration::from_millis(1500), layers: 2, bytes: 3 }))
    }

    fn pull_no_more(&self) {
        self.stopped.fetch_add(1, Relaxed);
    }

    fn look_at(&self, code: &str, _config: &FunctionConfig, _runtime: RuntimeId) -> Result<(), CheckError> {
        assert!(!code.is_empty());
        Ok(())
    }
}

struct Stage {
    shared: Arc<Shared>,
    runtimes: Arc<AllRuntimes>,
    engine: Arc<Engine>,
    front: Desk<FrontEvent>,
    /// A client that waits for as long as it takes.
    here: Attendance,
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
            verdicts: state.join("image_scans.json"),
            logs: logs.sink(),
            front: front_line,
            reloader: Reloader::new(Sources::new(CliOptions::default()), settings.clone(), parts),
        };
        let shared = Shared::new(store, &[], control_settings(&settings), tools);
        let shared = Arc::new(shared);
        Stage { shared, runtimes, engine, front, here: Attendance::default(), _logs: logs, directory }
    }

    /// Begins a job: it is answered, or put aside.
    fn begin(&self, ticket: u64, work: Work) {
        self.begin_for(&self.here, ticket, work);
    }

    /// The same for this client.
    fn begin_for(&self, client: &Attendance, ticket: u64, work: Work) {
        self.shared.run(ControlJob { ticket: Ticket(ticket), client: client.presence(), work }, None);
    }

    /// Does what a control thread would do with a job that was put aside.
    fn go_on(&self) {
        let (job, waited) = self.shared.preparations.resumed.recv_timeout(Duration::from_secs(60)).unwrap();
        self.shared.run(job, Some(&waited));
    }

    fn reply(&self) -> Option<Box<ControlReply>> {
        match self.front.try_recv() {
            Some(FrontEvent::Control(reply)) => Some(reply),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    fn done(&self) -> Result<Done, Problem> {
        self.reply()
            .unwrap_or_else(|| {
                self.go_on();
                self.reply().unwrap()
            })
            .result
    }

    fn create(&self, name: &str, config: Value) -> Result<Arc<FunctionVersion>, Problem> {
        self.begin(1, creation(name, &config));
        version(self.done())
    }

    fn update(&self, name: &str, body: &Value) -> Result<Arc<FunctionVersion>, Problem> {
        self.begin(1, Work::Update(name.to_owned(), body.to_string().into_bytes()));
        version(self.done())
    }
}

fn creation(name: &str, config: &Value) -> Work {
    Work::Create(json!({ "name": name, "code": CODE, "config": config }).to_string().into_bytes())
}

impl Engine {
    /// From now on the name stands for the image whose digits are this one.
    fn is(&self, reference: &str, digit: char) {
        self.images.lock().unwrap().insert(reference.to_owned(), image_id(digit));
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    /// There is one elsewhere.
    fn could_have(&self, reference: &str, digit: char) {
        self.elsewhere.lock().unwrap().insert(reference.to_owned(), image_id(digit));
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
    Arc::get_mut(&mut stage.shared).unwrap().images = None;
    let problem = stage.create("f", json!({})).unwrap_err();
    assert_eq!((problem.status(), problem.code()), (400, "mode_unavailable"));
    assert!(problem.detail().starts_with("config.execution_mode: "), "{}", problem.detail());
}

#[test]
fn which_image_a_version_has_cannot_be_said_by_a_client() {
    let stage = Stage::new("");
    let id = image_id('f').to_string();
    let body = json!({ "name": "f", "code": CODE, "image_id": id }).to_string();
    stage.begin(1, Work::Create(body.into_bytes()));
    assert_eq!(version(stage.done()).unwrap_err().code(), "invalid_request");
    assert_eq!(stage.create("f", json!({ "image_id": id })).unwrap_err().code(), "invalid_config");
}

#[test]
fn a_client_is_told_of_an_image_and_of_the_scan_s_report_but_not_which_program_that_was() {
    let command = ImageScan { program: "/opt/scanner".into(), arguments: vec!["{image}".into()] };
    let said = Refusal { status: "exit status: 1".into(), report: "CVE-1 in libx\n".into() };
    let late = ScanError::TimedOut { limit: Duration::from_secs(3) };
    let unsuitable = ImageError::Unsuitable { message: "it has volumes".into() };
    let problems = [
        (not_there("a:1", &ImageError::NotFound { message: "no such image".into() }), 400, "image_unavailable"),
        (not_there("a:1", &unsuitable), 400, "image_unsuitable"),
        (not_there("a:1", &ImageError::Engine { message: "not reached".into() }), 503, "engine_unavailable"),
        (refused("a:1", &command, &said), 400, "image_refused"),
        (not_scanned("a:1", &command, &late), 503, "scan_failed"),
    ];
    for (problem, status, code) in problems {
        assert_eq!((problem.status(), problem.code()), (status, code));
        assert!(problem.detail().starts_with("config.image: a:1 "), "{}", problem.detail());
        assert!(!format!("{problem:?}").contains("/opt/scanner"));
        let report = problem.member("report").and_then(Value::as_str);
        assert_eq!(report, (code == "image_refused").then_some("CVE-1 in libx\n"));
    }
}

#[test]
fn a_deployment_that_needs_an_image_from_elsewhere_holds_no_thread_and_is_told_how_it_came() {
    let stage = Stage::new("");
    stage.engine.could_have("far:1", 'd');
    let slow = stage.engine.pulls.lock().unwrap();
    for ticket in [1, 2, 3] {
        let name = format!("f{ticket}");
        stage.begin(ticket, creation(&name, &json!({ "image": "far:1" })));
    }
    stage.begin(4, creation("near", &json!({})));
    let reply = stage.reply().unwrap();
    assert_eq!((reply.ticket, version(reply.result).unwrap().name.as_str()), (Ticket(4), "near"));
    assert_eq!(reply.pulled, None, "it was here");
    assert!(stage.reply().is_none() && stage.shared.preparations.resumed.is_empty());
    drop(slow);
    for ticket in [1, 2, 3] {
        stage.go_on();
        let reply = stage.reply().unwrap();
        assert_eq!(reply.ticket, Ticket(ticket));
        assert_eq!(version(reply.result).unwrap().image_id, Some(image_id('d')));
        let pulled = reply.pulled.unwrap().to_json();
        let expected = json!({ "image": "far:1", "digest": null, "layers": 2, "bytes": 3, "seconds": 1.5 });
        assert_eq!(pulled, expected);
    }
    assert_eq!(stage.engine.pulled.load(Relaxed), 1, "one pull for all who wait");
    stage.begin(5, creation("later", &json!({ "image": "far:1" })));
    assert_eq!(stage.reply().unwrap().pulled, None);
}

/// What is stored of `f`: its version, and its code.
fn stored(stage: &Stage) -> Option<(u64, String)> {
    let found = stage.shared.functions().into_iter().find(|function| function.name == "f");
    found.map(|function| (function.version, function.code.clone()))
}

fn with_code(code: &str) -> Work {
    Work::Update("f".to_owned(), json!({ "code": code }).to_string().into_bytes())
}

fn to_far() -> Work {
    Work::Update("f".to_owned(), json!({ "config": { "image": "far:1" } }).to_string().into_bytes())
}

const NEWER: &str = "def handle(request): return 'newer'\n";

#[test]
fn a_deployment_whose_client_went_while_it_waited_is_not_made() {
    let stage = Stage::new("");
    stage.engine.could_have("far:1", 'd');
    // A function that is new.
    let slow = stage.engine.pulls.lock().unwrap();
    let gone = Attendance::default();
    stage.begin_for(&gone, 1, creation("f", &json!({ "image": "far:1" })));
    drop((slow, gone));
    stage.go_on();
    assert!(stage.reply().is_some_and(|reply| reply.result.is_err()), "which the front tells nobody");
    assert_eq!(stored(&stage), None);
    // One that is changed, with nobody else at it.
    stage.create("f", json!({})).unwrap();
    stage.engine.images.lock().unwrap().remove("far:1");
    let slow = stage.engine.pulls.lock().unwrap();
    let (gone, stays) = (Attendance::default(), Attendance::default());
    stage.begin_for(&gone, 2, to_far());
    stage.begin_for(&stays, 3, to_far());
    drop((slow, gone));
    stage.go_on();
    assert!(stage.reply().is_some_and(|reply| reply.result.is_err()));
    assert_eq!(stored(&stage).unwrap().0, 1);
    stage.go_on();
    assert_eq!(version(stage.reply().unwrap().result).unwrap().version, 2, "who waits gets what he waits for");
}

#[test]
fn what_was_acknowledged_while_a_deployment_waited_stays_and_that_one_is_refused() {
    let stage = Stage::new("");
    stage.engine.could_have("far:1", 'd');
    let refused = || {
        stage.go_on();
        let problem = stage.reply().unwrap().result.unwrap_err();
        assert_eq!((problem.status(), problem.code()), (409, "conflict"));
    };
    let waits = |work: Work, meanwhile: &dyn Fn()| {
        stage.engine.images.lock().unwrap().remove("far:1");
        let slow = stage.engine.pulls.lock().unwrap();
        stage.begin(1, work);
        assert!(stage.reply().is_none());
        meanwhile();
        drop(slow);
    };
    let acknowledged = |work: Work| {
        stage.begin(2, work);
        assert!(stage.reply().unwrap().result.is_ok());
    };
    stage.create("f", json!({})).unwrap();
    waits(to_far(), &|| acknowledged(with_code(NEWER)));
    refused();
    assert_eq!(stored(&stage), Some((2, NEWER.to_owned())));
    // A function of the same number, and another one.
    waits(to_far(), &|| {
        acknowledged(Work::Delete("f".to_owned()));
        acknowledged(creation("f", &json!({})));
        acknowledged(with_code(NEWER));
    });
    refused();
    assert_eq!(stored(&stage), Some((2, NEWER.to_owned())));
    // That it stays as it is was acknowledged, too.
    waits(to_far(), &|| acknowledged(with_code(NEWER)));
    refused();
    assert_eq!(stored(&stage), Some((2, NEWER.to_owned())));
    // Made and deleted again: it is gone, and stays so.
    acknowledged(Work::Delete("f".to_owned()));
    waits(creation("f", &json!({ "image": "far:1" })), &|| {
        acknowledged(creation("f", &json!({})));
        acknowledged(Work::Delete("f".to_owned()));
    });
    refused();
    assert_eq!(stored(&stage), None);
    // Another function's changes are none of its, and what was refused is none.
    waits(creation("f", &json!({ "image": "far:1" })), &|| {
        acknowledged(creation("g", &json!({})));
        stage.begin(2, Work::Delete("f".to_owned()));
        assert_eq!(stage.reply().unwrap().result.unwrap_err().status(), 404);
    });
    stage.go_on();
    assert_eq!(version(stage.reply().unwrap().result).unwrap().version, 1);
}

#[test]
fn two_who_wait_for_the_same_change_are_both_acknowledged_and_of_two_changes_one_is() {
    let stage = Stage::new("");
    stage.create("f", json!({})).unwrap();
    stage.engine.could_have("far:1", 'd');
    let outcomes = |works: [Work; 2]| {
        stage.engine.images.lock().unwrap().remove("far:1");
        let slow = stage.engine.pulls.lock().unwrap();
        for (ticket, work) in (1..).zip(works) {
            stage.begin(ticket, work);
        }
        drop(slow);
        [1, 2].map(|_| {
            stage.go_on();
            version(stage.reply().unwrap().result).map(|version| version.version).map_err(|problem| problem.status())
        })
    };
    assert_eq!(outcomes([to_far(), to_far()]), [Ok(2), Ok(2)]);
    assert_eq!(outcomes([with_code(NEWER), with_code(CODE)]), [Ok(3), Err(409)]);
}

#[test]
fn who_waits_for_an_image_when_another_server_takes_over_is_told_at_once_and_nothing_is_pulled_any_more() {
    let stage = Stage::new("");
    stage.engine.could_have("far:1", 'd');
    let taken_over = || {
        let reply = stage.reply().unwrap();
        let problem = reply.result.unwrap_err();
        assert_eq!((problem.status(), problem.code()), (503, "taking_over"));
        reply.ticket
    };
    let slow = stage.engine.pulls.lock().unwrap();
    stage.begin(1, creation("f", &json!({ "image": "far:1" })));
    stage.begin(2, creation("g", &json!({ "image": "far:2" })));
    assert!(stage.reply().is_none());
    stage.shared.gate.close();
    stage.shared.prepare_no_more();
    let mut told = [taken_over(), taken_over()];
    told.sort_by_key(|ticket| ticket.0);
    assert_eq!(told, [Ticket(1), Ticket(2)]);
    assert_eq!(stage.engine.stopped.load(Relaxed), 1);
    stage.begin(3, creation("h", &json!({ "image": "far:1" })));
    assert_eq!(taken_over(), Ticket(3), "who comes now waits for nothing");
    drop(slow);
    assert!(stage.shared.preparations.resumed.recv_timeout(Duration::from_millis(100)).is_err());
    assert!(stage.reply().is_none(), "nobody is told twice");
    let need = Need { reference: Reference::parse("far:3").unwrap(), scan: None };
    let pulled = stage.engine.pulled.load(Relaxed);
    assert_eq!(stage.shared.fetch(&need).unwrap_err().code(), "taking_over", "nor does a reload begin to pull");
    assert_eq!(stage.engine.pulled.load(Relaxed), pulled);
}

#[test]
fn images_that_are_got_ready_have_a_bound_and_the_next_is_refused_for_now() {
    let stage = Stage::new("");
    let slow = stage.engine.pulls.lock().unwrap();
    for number in 0..IMAGE_PREPARATIONS_MAX as u64 {
        stage.begin(number, creation(&format!("f{number}"), &json!({ "image": format!("far:{number}") })));
    }
    assert!(stage.reply().is_none());
    stage.begin(100, creation("g", &json!({ "image": "far:100" })));
    let problem = stage.reply().unwrap().result.unwrap_err();
    assert_eq!((problem.status(), problem.code()), (503, "images_busy"));
    stage.begin(101, creation("h", &json!({ "image": "far:0" })));
    assert!(stage.reply().is_none(), "who needs one of these may wait for it, too");
    drop(slow);
    for _ in 0..=IMAGE_PREPARATIONS_MAX {
        stage.go_on();
        assert_eq!(stage.reply().unwrap().result.unwrap_err().code(), "image_unavailable");
    }
}

#[test]
fn deployments_that_wait_for_an_image_have_a_bound_in_bytes() {
    let stage = Stage::new("");
    let slow = stage.engine.pulls.lock().unwrap();
    let begin = |number: u64, padding: usize| {
        let Work::Create(mut body) = creation("f", &json!({ "image": "far:0" })) else { panic!("a creation") };
        body.resize(body.len() + padding, b' ');
        stage.begin(number, Work::Create(body));
    };
    begin(0, PREPARATION_BYTES_MAX / 2);
    assert!(stage.reply().is_none());
    begin(1, PREPARATION_BYTES_MAX / 2);
    let problem = stage.reply().unwrap().result.unwrap_err();
    assert_eq!((problem.status(), problem.code()), (503, "images_busy"));
    begin(2, 0);
    assert!(stage.reply().is_none(), "a small one has room");
    drop(slow);
    for _ in 0..2 {
        stage.go_on();
        assert_eq!(stage.reply().unwrap().result.unwrap_err().code(), "image_unavailable");
    }
}

#[test]
fn a_panic_while_an_image_is_got_ready_costs_those_who_wait_their_answer_and_nobody_else_anything() {
    let stage = Stage::new("");
    let problem = stage.create("f", json!({ "image": "panics:1" })).unwrap_err();
    assert_eq!(problem.status(), 500);
    stage.create("f", json!({})).unwrap();
}

#[test]
fn an_image_is_scanned_when_it_is_deployed_first_and_a_refusal_brings_its_report() {
    let script = "case $0 in sha256:b*) echo CVE-1; exit 1;; esac; echo >> ";
    let count = tempfile::NamedTempFile::new().unwrap();
    let count = count.path();
    let stage = Stage::new(&format!(", image_scan: [sh, -c, '{script}{}', '{{image}}']", count.display()));
    for name in ["f", "g"] {
        stage.create(name, json!({})).unwrap();
    }
    assert_eq!(std::fs::read_to_string(count).unwrap().lines().count(), 1, "the verdict is known");
    for _ in 0..2 {
        let problem = stage.create("h", json!({ "image": "other:1" })).unwrap_err();
        assert_eq!(problem.code(), "image_refused");
        assert_eq!(problem.member("report").and_then(Value::as_str), Some("CVE-1\n"));
    }
}
