//! The series of a target in the order of its page, so that the next page, which mostly is the same, needs no look-up.
//!
//! A series is known again by the mark of its text at its place. Only where a page differs from the one before is a table of
//! all marks made, for that one page.

use rapidhash::{RapidHashMap, RapidHashSet};
use weir_series::{SeriesRef, exposition::text::Mark};

/// A series of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Known {
    /// What it is in the store; [`DROPPED`] where relabelling drops it.
    pub series: SeriesRef,
    // Not a mark as such, which would be larger by its padding: there is one of these for every series there is.
    hash: u64,
    len: u32,
    /// It comes with timestamps of its own.
    pub timed: bool,
    /// It is a native histogram.
    pub native: bool,
}

const _: () = assert!(size_of::<Known>() == 24);

/// No store has so many series.
pub(super) const DROPPED: SeriesRef = SeriesRef(u64::MAX);
/// Not resolved yet, or refused.
pub(super) const UNRESOLVED: SeriesRef = SeriesRef(u64::MAX - 1);

impl Known {
    /// One that is not resolved yet.
    pub fn new(mark: Mark, timed: bool, native: bool) -> Self {
        let Mark { hash, len } = mark;
        Known {
            series: UNRESOLVED,
            hash,
            len,
            timed,
            native,
        }
    }

    /// The mark of its text.
    pub fn mark(&self) -> Mark {
        let Known { hash, len, .. } = *self;
        Mark { hash, len }
    }

    /// Whether the store has it.
    pub fn is_stored(&self) -> bool {
        self.series != DROPPED && self.series != UNRESOLVED
    }
}

/// The series of the last page.
#[derive(Debug, Default)]
pub(super) struct Order(Vec<Known>);

/// A walk through a page along the order of the last one.
pub(super) struct Walk<'a> {
    last: &'a mut [Known],
    cursor: usize,
    /// Once the page differs.
    differing: Option<Differing>,
}

struct Differing {
    by_hash: RapidHashMap<u64, u32>,
    seen: Vec<bool>,
    order: Vec<Known>,
}

/// How a page differs from the one before.
pub(super) struct Difference {
    /// Stored series that are not on the page any more.
    pub vanished: Vec<Known>,
    order: Option<Vec<Known>>,
}

impl Order {
    pub fn walk(&mut self) -> Walk<'_> {
        Walk {
            last: &mut self.0,
            cursor: 0,
            differing: None,
        }
    }

    /// Takes the new order over.
    pub fn replace(&mut self, difference: Difference) {
        if let Some(mut order) = difference.order {
            order.retain(|known| known.series != UNRESOLVED);
            order.shrink_to_fit();
            self.0 = order;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

impl Walk<'_> {
    /// What should come next.
    pub fn expected(&self) -> Option<Mark> {
        self.last.get(self.cursor).map(Known::mark)
    }

    /// The series that was expected came.
    pub fn advance(&mut self, timed: bool) -> Known {
        let known = &mut self.last[self.cursor];
        if known.timed != timed {
            known.timed = timed;
        }
        let known = *known;
        if let Some(differing) = &mut self.differing {
            differing.seen[self.cursor] = true;
            differing.order.push(known);
        }
        self.cursor += 1;
        known
    }

    /// Another one came: where the last page had it, if it did.
    pub fn find(&mut self, mark: Mark, timed: bool) -> Option<Known> {
        let differing = self
            .differing
            .get_or_insert_with(|| Differing::new(self.last, self.cursor));
        let at = *differing.by_hash.get(&mark.hash)? as usize;
        if self.last[at].mark() != mark {
            return None;
        }
        self.cursor = at;
        Some(self.advance(timed))
    }

    /// A series that the last page did not have; returns its place.
    pub fn push(&mut self, known: Known) -> usize {
        let differing = self
            .differing
            .get_or_insert_with(|| Differing::new(self.last, self.cursor));
        differing.order.push(known);
        differing.order.len() - 1
    }

    /// What became of the series at a place that [`Walk::push`] gave.
    pub fn resolved(&mut self, place: usize, series: SeriesRef) {
        if let Some(known) = self.differing.as_mut().and_then(|d| d.order.get_mut(place)) {
            known.series = series;
        }
    }

    /// The end of the page.
    pub fn finish(self) -> Difference {
        match self.differing {
            None if self.cursor == self.last.len() => Difference {
                vanished: Vec::new(),
                order: None,
            },
            None => Difference {
                vanished: self.last[self.cursor..]
                    .iter()
                    .filter(|k| k.is_stored())
                    .copied()
                    .collect(),
                order: Some(self.last[..self.cursor].to_vec()),
            }
            .without_twins(),
            Some(differing) => {
                let gone = self
                    .last
                    .iter()
                    .zip(&differing.seen)
                    .filter(|(known, seen)| !**seen && known.is_stored());
                Difference {
                    vanished: gone.map(|(known, _)| *known).collect(),
                    order: Some(differing.order),
                }
                .without_twins()
            }
        }
    }
}

impl Difference {
    /// A series that is written in another way than before has not vanished.
    fn without_twins(mut self) -> Self {
        if !self.vanished.is_empty() {
            let here: RapidHashSet<u64> = self.order.iter().flatten().map(|known| known.series.0).collect();
            self.vanished.retain(|known| !here.contains(&known.series.0));
        }
        self
    }
}

impl Differing {
    fn new(last: &[Known], cursor: usize) -> Self {
        let place = |(at, known): (usize, &Known)| (known.hash, u32::try_from(at).unwrap_or(u32::MAX));
        let mut seen = vec![false; last.len()];
        seen[..cursor].fill(true);
        Differing {
            by_hash: last.iter().enumerate().map(place).collect(),
            seen,
            order: last[..cursor].to_vec(),
        }
    }
}
