//! Tables as kubectl prints them: capitals, aligned columns, no lines. The only place that pads text.

/// Blanks between columns.
const GAP: usize = 3;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Names and words.
    Left,
    /// Figures.
    Right,
}

/// Rows under headings.
#[derive(Clone, Debug, Default)]
pub struct Table {
    headings: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<'a>(headings: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        Table {
            headings: headings.into_iter().map(|(h, a)| (h.to_owned(), a)).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty, surplus ones are left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|c| c.replace(['\n', '\t'], " ")).collect();
        cells.resize(self.headings.len(), String::new());
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, each line ended.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|r| r[column].chars().count());
            cells
                .chain([self.headings[column].0.chars().count()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let headings: Vec<String> = self.headings.iter().map(|(h, _)| h.clone()).collect();
        let mut text = String::new();
        for cells in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(&self.headings) {
                if !line.is_empty() {
                    line.push_str(&" ".repeat(GAP));
                }
                let padding = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell.as_str(), &padding]),
                    Align::Right => line.extend([padding.as_str(), cell]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_without_trailing_blanks() {
        let mut table = Table::new([("NAME", Align::Left), ("RPS", Align::Right), ("NODE", Align::Left)]);
        table.row(["foo-6846bf6b-gjmvz".into(), "1.8rps".into(), "a".into()]);
        table.row(["é".into(), "-".into()]);
        let expected = "NAME                    RPS   NODE\n\
                        foo-6846bf6b-gjmvz   1.8rps   a\n\
                        é                         -\n";
        assert_eq!(table.render(), expected);
    }
}
