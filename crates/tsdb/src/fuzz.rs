//! What must hold for any bytes, as functions that a fuzzer calls.
//!
//! Enters: bytes of a disk. Leaves: nothing, or a panic that tells which invariant is broken.

use crate::chunk;
use crate::head::Head;
use crate::index::Id;
use crate::log::frame::{self, LOG, SNAPSHOT};
use crate::log::recover::replay_bytes;
use crate::log::snapshot::Making;
use crate::options::Options;
use weir_series::Sample;

/// One function to fuzz.
pub type Target = fn(&[u8]);

/// All of them; the name is that of the folder of its corpus.
pub const TARGETS: [(&str, Target); 2] = [("tsdb_log", log), ("tsdb_chunk", chunk::fuzz)];

/// Runs one target.
///
/// # Panics
/// Where an invariant is broken, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(n, _)| *n == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no fuzz target {name:?}"));
    target(bytes);
}

/// The first byte says what the others are: a file as it is, or records, each a length of two bytes and as many bytes,
/// which get the right checksums. Whatever a log leaves in the head comes back from a snapshot of it.
fn log(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let magic = if kind & 1 == 0 { LOG } else { SNAPSHOT };
    let mut file = magic.to_vec();
    if kind & 2 == 0 {
        file.extend_from_slice(bytes);
    } else {
        let mut rest = bytes;
        while let Some(([low, high], after)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
            frame::put(&mut file, |out| out.extend_from_slice(&after[..length]));
            rest = &after[length..];
        }
    }
    let head = Head::new(Options::default(), None);
    let good = replay_bytes(&file, &head, magic);
    assert!(good <= file.len() as u64, "more is good than there is");
    // A snapshot of what came of it says the same.
    let mut snapshot = SNAPSHOT.to_vec();
    let mut making = Making::new(&head);
    while making.page(&head, &mut snapshot) {}
    making.end(&head, &mut snapshot);
    let again = Head::new(Options::default(), None);
    let read = replay_bytes(&snapshot, &again, SNAPSHOT);
    assert_eq!(read, snapshot.len() as u64, "a snapshot that was written is refused");
    assert!(
        content(&head) == content(&again),
        "a snapshot reads as another than was written"
    );
    // Life goes on from there.
    let resolved = again.resolve([("a", "new one")].into_iter());
    if let Some(id) = resolved
        .ok()
        .filter(|id| content(&head).iter().all(|(known, _)| *known != id.0))
    {
        let mut refused = Vec::new();
        again.append(&[(id, Sample { ts_ms: 0, value: 1.0 })], &mut refused);
        assert_eq!(refused, [], "a new series takes no sample");
    }
}

/// Series with the number of their samples and the bits of all of them.
fn content(head: &Head) -> Vec<(Id, String)> {
    let mut all = Vec::new();
    head.pages.each(|number, page| {
        for (slot, series) in page.iter() {
            let (mut samples, mut histograms) = (Vec::new(), Vec::new());
            series.read(i64::MIN, i64::MAX, &mut Vec::new(), &mut samples);
            series.read_histograms(i64::MIN, i64::MAX, &mut histograms);
            let samples: Vec<_> = samples.iter().map(|s| (s.ts_ms, s.value.to_bits())).collect();
            let id = number * crate::pages::PAGE + u64::from(slot);
            all.push((id, format!("{samples:?} {histograms:?}")));
        }
    });
    all
}

#[cfg(test)]
#[path = "../../series/src/fuzz/tests.rs"]
mod tests;
