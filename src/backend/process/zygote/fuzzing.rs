//! Any datagram in a zygote's place: nothing panics, and a blank or its failure is heard of only if the datagram is
//! exactly that one frame.

use super::{decode, News};
use crate::wire;

/// The input is one datagram from a zygote.
pub(crate) fn fuzz_zygote_message(datagram: &[u8]) {
    let number = |at: usize, len: usize| {
        datagram[at..at + len].iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte))
    };
    match decode(datagram) {
        News::Spawned { blank, pid } => {
            assert_eq!((datagram.len(), number(0, 4), number(4, 4)), (28, 4, 33));
            assert_eq!((blank, u64::from(pid)), (number(8, 8), number(24, 4)));
        }
        News::Failed { blank, failure } => {
            let mut again = wire::encode_spawn_failed(blank, failure);
            // The one field that is not told: nobody asks a zygote for it.
            again[16..24].copy_from_slice(&datagram[16..24]);
            assert_eq!(again, datagram);
        }
        News::Ready => {
            assert_eq!((number(0, 4), number(4, 4)), (datagram.len() as u64 - 24, 35));
            assert!(std::str::from_utf8(&datagram[24..]).is_ok_and(|json| json.contains("python")));
        }
        // The text ends up in the log and in the answer to a call.
        News::Gone { reason } => assert!(reason.len() < 500, "{reason}"),
    }
}
