//! What somebody may say on the socket of a server who is no server that takes over, or dies in the midst of it.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use faas::registry::store::SCHEMA;
use faas::takeover::message::{Introduction, Message};
use faas::takeover::socket;
use serde_json::json;

use super::common::functions::sandboxed;
use super::common::{as_nobody, eventually, patience, Home, Random};
use super::{refusal, succeed, successor_command, ANSWERS};

/// A successor that is this test, as far as it was let in.
struct Impostor {
    stream: std::os::fd::OwnedFd,
}

impl Impostor {
    fn connect(home: &Home) -> Impostor {
        Impostor { stream: socket::connect(&home.state()).unwrap().expect("a server").0 }
    }

    fn say(&self, message: &Message) {
        socket::send(&self.stream, message, &[]).unwrap();
    }

    fn hear(&self) -> Option<Message> {
        let received = socket::receive_by(&self.stream, &mut socket::buffer(), Instant::now() + patience()).unwrap();
        received.map(|(message, _)| message.unwrap())
    }

    fn greeted(home: &Home) -> Impostor {
        let impostor = Impostor::connect(home);
        impostor.say(&Message::Hello(Introduction { pid: 1, version: "test".to_owned(), schema: SCHEMA }));
        assert!(matches!(impostor.hear(), Some(Message::Offer(_))));
        impostor
    }

    fn holding(home: &Home) -> Impostor {
        let impostor = Impostor::greeted(home);
        impostor.say(&Message::Freeze);
        assert_eq!(impostor.hear(), Some(Message::Frozen));
        impostor
    }
}

#[test]
fn a_successor_that_dies_while_changes_wait_lets_them_go_on() {
    let Some(server) = sandboxed("", "") else { return };
    for _ in 0..3 {
        let impostor = Impostor::holding(&server.home);
        std::thread::scope(|scope| {
            let name = "waits";
            let waiting = scope.spawn(|| server.deploy(name, ANSWERS, json!({})));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!waiting.is_finished(), "a change waits while the successor reads");
            assert_eq!(server.get("/functions").status, 200, "what is no change does not");
            drop(impostor);
            waiting.join().unwrap();
        });
        assert_eq!(server.answer("waits", ""), 1);
        assert_eq!(server.call("DELETE", "/functions/waits", "").status, 204);
    }
    let server = succeed(server);
    assert_eq!(server.get("/functions").status, 200);
}

#[test]
fn what_makes_no_sense_on_the_socket_is_hung_up_on_and_changes_nothing() {
    let Some(server) = sandboxed("", "") else { return };
    server.deploy("steady", ANSWERS, json!({}));
    let mut random = Random(0x5eed);
    for round in 0..60 {
        let impostor = match round % 3 {
            0 => Impostor::connect(&server.home),
            1 => Impostor::greeted(&server.home),
            _ => Impostor::holding(&server.home),
        };
        let mut bytes = match random.below(3) {
            0 => Message::Yours.encode(),
            1 => Message::Freeze.encode()[..4].to_vec(),
            _ => (0..1 + random.below(300)).map(|_| random.below(256) as u8).collect(),
        };
        bytes.truncate(1 + random.below(300));
        nix::sys::socket::send(
            std::os::fd::AsRawFd::as_raw_fd(&impostor.stream),
            &bytes,
            nix::sys::socket::MsgFlags::empty(),
        )
        .unwrap();
        assert!(matches!(impostor.hear(), Some(Message::Refused(_))), "round {round}: {bytes:?}");
        assert_eq!(impostor.hear(), None, "it hangs up");
        assert_eq!(server.answer("steady", ""), 1);
    }
    // A second one while a first is heard.
    let first = Impostor::greeted(&server.home);
    assert!(matches!(Impostor::connect(&server.home).hear(), Some(Message::Refused(_))));
    let said = refusal(&server.home, successor_command(&server.home));
    assert!(said.contains("taking over already"), "{said}");
    drop(first);
    server.deploy("after", ANSWERS, json!({}));
    assert_eq!(succeed(server).answer("after", ""), 1);
}

#[test]
fn another_user_is_not_let_in() {
    let Some(server) = sandboxed("", "") else { return };
    // Whatever was done to the files: the kernel says who it is.
    for (path, mode) in [(server.home.path().to_owned(), 0o755), (server.home.state(), 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = socket::path(&server.home.state());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut stranger = as_nobody(&server.home);
    let said = refusal(&server.home, {
        stranger.arg("--takeover");
        stranger
    });
    assert!(said.contains("belongs to uid 0"), "{said}");
    eventually("it is said", || server.home.log().contains("belongs to uid 65534").then_some(()));
    assert!(!server.home.log().contains("(version"), "it was not heard");
    std::fs::set_permissions(server.home.state(), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(succeed(server).get("/health").status, 200, "who may, is");
}
