//! What nobody chose, for the tests of both sides of the protocol: this server's, and that of an engine's client.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Words of the protocol, right and wrong, so that random input gets past the first byte.
pub(crate) fn words(known: Vec<&'static str>) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => prop::sample::select(known).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..40),
    ];
    vec(word, 0..40).prop_map(|words| words.concat())
}

/// Cuts `bytes` at random places.
pub(crate) fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// The end of a head and what follows it: this body, with its length or in chunks of these sizes, over and over.
pub(crate) fn framed(body: &[u8], chunk_sizes: Option<Vec<usize>>) -> Vec<u8> {
    let Some(sizes) = chunk_sizes else {
        return [format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat();
    };
    let mut bytes = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut rest = body;
    for size in sizes.into_iter().cycle() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
        rest = after;
        if chunk.is_empty() {
            break;
        }
    }
    bytes
}
