//! The simplest store that can be: a list.

use weir_series::{Labels, Matcher, Select, SelectError, SeriesData};

#[derive(Clone, Debug, Default)]
pub struct Memory(pub Vec<SeriesData>);

impl Memory {
    fn matching(&self, matchers: &[Matcher]) -> impl Iterator<Item = &SeriesData> {
        self.0
            .iter()
            .filter(move |s| matchers.iter().all(|m| m.matches_labels(&s.labels)))
    }
}

impl Select for Memory {
    fn select(&self, m: &[Matcher], start: i64, end: i64, max: usize) -> Result<Vec<SeriesData>, SelectError> {
        let within = |s: &SeriesData| SeriesData {
            labels: s.labels.clone(),
            samples: s
                .samples
                .iter()
                .copied()
                .filter(|s| s.ts_ms >= start && s.ts_ms <= end)
                .collect(),
        };
        let found: Vec<SeriesData> = self.matching(m).map(within).filter(|s| !s.samples.is_empty()).collect();
        if found.iter().map(|s| s.samples.len()).sum::<usize>() > max {
            return Err(SelectError::TooManySamples { limit: max });
        }
        Ok(found)
    }

    fn series(&self, m: &[Matcher], start: i64, end: i64) -> Result<Vec<Labels>, SelectError> {
        Ok(self
            .select(m, start, end, usize::MAX)?
            .into_iter()
            .map(|s| s.labels)
            .collect())
    }

    fn label_names(&self, m: &[Matcher], _: i64, _: i64) -> Result<Vec<String>, SelectError> {
        let mut names: Vec<String> = self
            .matching(m)
            .flat_map(|s| s.labels.iter())
            .map(|l| l.name.to_string())
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn label_values(&self, name: &str, m: &[Matcher], _: i64, _: i64) -> Result<Vec<String>, SelectError> {
        let mut values: Vec<String> = self.matching(m).map(|s| s.labels.get(name).to_owned()).collect();
        values.retain(|v| !v.is_empty());
        values.sort();
        values.dedup();
        Ok(values)
    }
}
