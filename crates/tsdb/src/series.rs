//! One series of the head: its chunks and the rules for what may be appended.

use crate::chunk::{Chunk, Sealed};
use crate::histogram::Histograms;
use weir_series::{AppendError, Histogram, HistogramSample, Sample, is_stale};

#[derive(Debug, Default)]
pub(crate) struct Series {
    open: Chunk,
    /// In the order of time.
    sealed: Vec<Sealed>,
    histograms: Option<Box<Histograms>>,
    /// Whether a sample came, or was asked for in vain.
    asked: bool,
}

impl Series {
    /// Appends a sample that is newer than all others. The newest one again is no error and no sample.
    pub fn push(&mut self, sample: Sample) -> Result<(), AppendError> {
        if let Some(last) = self.open.last() {
            if sample.ts_ms < last.ts_ms {
                return Err(AppendError::OutOfOrder);
            }
            if sample.ts_ms == last.ts_ms {
                let same = sample.value.to_bits() == last.value.to_bits();
                return if same { Ok(()) } else { Err(AppendError::Duplicate) };
            }
        }
        if let Some(histograms) = &self.histograms
            && histograms.last_ms().is_some_and(|last| sample.ts_ms <= last)
        {
            return Err(AppendError::OutOfOrder);
        }
        self.asked = true;
        if !self.open.takes(sample.ts_ms) {
            let sealed = self.open.seal();
            self.push_sealed(sealed);
        }
        self.open.push(sample);
        if is_stale(sample.value) {
            self.open.rest();
        }
        Ok(())
    }

    fn push_sealed(&mut self, sealed: Sealed) {
        self.sealed.reserve_exact(1);
        self.sealed.push(sealed);
    }

    /// As [`Series::push`].
    pub fn push_histogram(&mut self, ts_ms: i64, value: &Histogram) -> Result<(), AppendError> {
        if self.open.last().is_some_and(|last| ts_ms <= last.ts_ms) {
            return Err(AppendError::OutOfOrder);
        }
        self.asked = true;
        self.histograms.get_or_insert_default().push(ts_ms, value)
    }

    /// What a snapshot holds: chunks, the open one as if it were sealed, histograms.
    pub fn parts(&self) -> (&[Sealed], Option<Sealed>, Option<&Histograms>) {
        let open = (self.open.count() > 0).then(|| self.open.to_sealed());
        (&self.sealed, open, self.histograms.as_deref())
    }

    /// The series of such parts; the last chunk goes on growing.
    pub fn from_parts(mut sealed: Vec<Sealed>, histograms: Histograms) -> Series {
        let mut open = Chunk::default();
        if let Some(last) = sealed.pop() {
            let mut samples = Vec::with_capacity(last.count().into());
            last.read(i64::MIN, i64::MAX, &mut samples);
            samples.into_iter().for_each(|sample| open.push(sample));
        }
        sealed.shrink_to_fit();
        Series {
            open,
            sealed,
            histograms: (!histograms.is_empty()).then(|| Box::new(histograms)),
            asked: false,
        }
    }

    fn floats_overlap(&self, start_ms: i64, end_ms: i64) -> bool {
        self.open.count() > 0 && self.open.last_ms() >= start_ms && self.open.first_ms() <= end_ms
            || self
                .sealed
                .iter()
                .any(|c| c.last_ms() >= start_ms && c.first_ms() <= end_ms)
    }

    /// Whether a chunk overlaps the time. Chunks are not opened, so a gap inside one counts as an overlap.
    pub fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        let histograms = self.histograms.as_ref();
        self.floats_overlap(start_ms, end_ms) || histograms.is_some_and(|h| h.overlaps(start_ms, end_ms))
    }

    /// Appends the samples from `start_ms` to `end_ms` to `out`; `bits` is room to work in.
    pub fn read(&self, start_ms: i64, end_ms: i64, bits: &mut Vec<u8>, out: &mut Vec<Sample>) {
        let first = self.sealed.partition_point(|c| c.last_ms() < start_ms);
        for chunk in self.sealed[first..].iter().take_while(|c| c.first_ms() <= end_ms) {
            chunk.read(start_ms, end_ms, out);
        }
        if self.open.count() > 0 && self.open.last_ms() >= start_ms && self.open.first_ms() <= end_ms {
            self.open.read(start_ms, end_ms, bits, out);
        }
    }

    /// As [`Series::read`].
    pub fn read_histograms(&self, start_ms: i64, end_ms: i64, out: &mut Vec<HistogramSample>) {
        if let Some(histograms) = &self.histograms {
            histograms.read(start_ms, end_ms, out);
        }
    }

    /// Drops the chunks that end before `oldest_ms`.
    pub fn drop_before(&mut self, oldest_ms: i64) {
        let gone = self.sealed.partition_point(|c| c.last_ms() < oldest_ms);
        if gone > 0 {
            self.sealed.drain(..gone);
            self.sealed.shrink_to_fit();
        }
        if self.open.count() > 0 && self.open.last_ms() < oldest_ms {
            self.open = Chunk::default();
        }
        if let Some(histograms) = &mut self.histograms {
            histograms.drop_before(oldest_ms);
            if histograms.is_empty() {
                self.histograms = None;
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.open.count() == 0 && self.sealed.is_empty() && self.histograms.is_none()
    }

    /// Whether the series may go. One that was just made stays for one question more: its first sample is on the way.
    pub fn is_over(&mut self) -> bool {
        self.is_empty() && std::mem::replace(&mut self.asked, true)
    }

    /// What [`Series::is_over`] said, if nothing came since.
    pub fn may_go(&self) -> bool {
        self.is_empty() && self.asked
    }

    /// Calls with the time of the last sample and the bytes of each chunk.
    pub fn each_chunk(&self, mut with: impl FnMut(i64, usize)) {
        for chunk in &self.sealed {
            with(chunk.last_ms(), size_of::<Sealed>() + chunk.bytes().len());
        }
        if self.open.count() > 0 {
            with(self.open.last_ms(), self.open.heap_bytes());
        }
        if let Some(histograms) = &self.histograms {
            histograms.each_chunk(with);
        }
    }

    /// Bytes beside the series itself.
    pub fn heap_bytes(&self) -> usize {
        self.open.heap_bytes()
            + self.sealed.capacity() * size_of::<Sealed>()
            + self.sealed.iter().map(|c| c.bytes().len()).sum::<usize>()
            + self.histograms.as_ref().map_or(0, |h| h.heap_bytes())
    }
}
