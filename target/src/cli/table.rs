//! Tables for people: columns as wide as they need to be, numbers to the right, nothing drawn around them.

/// A table in the making.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    /// How wide columns were in what was taken so far; nothing was if there are none.
    widths: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Column {
    title: &'static str,
    right: bool,
}

impl Table {
    /// A table with these columns; a title that starts with `>` aligns its column to the right.
    pub(super) fn new(titles: &[&'static str]) -> Self {
        let column = |title: &&'static str| match title.strip_prefix('>') {
            Some(title) => Column { title, right: true },
            None => Column { title, right: false },
        };
        Self { columns: titles.iter().map(column).collect(), rows: Vec::new(), widths: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell per column");
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The text, a line per row.
    pub(super) fn text(mut self) -> String {
        self.take()
    }

    /// The text of the rows since the last call: titles stand above the first, and columns become no narrower.
    pub(super) fn take(&mut self) -> String {
        let titles: Vec<String> = self.columns.iter().map(|c| c.title.to_owned()).collect();
        let begins = self.widths.is_empty();
        self.widths.resize(self.columns.len(), 0);
        for (index, widest) in self.widths.iter_mut().enumerate() {
            let cells = self.rows.iter().chain([&titles]).map(|row| width(&row[index]));
            *widest = cells.max().unwrap_or(0).max(*widest);
        }
        let mut text = String::new();
        let rows = std::mem::take(&mut self.rows);
        for row in begins.then_some(&titles).into_iter().chain(&rows) {
            let mut line = String::new();
            for ((cell, column), width_of_column) in row.iter().zip(&self.columns).zip(&self.widths)
            {
                let gap = " ".repeat(width_of_column - width(cell));
                let (before, after) = if column.right { (&*gap, "") } else { ("", &*gap) };
                line.push_str(before);
                line.push_str(cell);
                line.push_str(after);
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Characters are taken for one column wide, which names are; a free text may shift its row.
fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">SIZE", "STATE"]);
        table.row(vec!["web".into(), "128 MiB".into(), "ready".into()]);
        table.row(vec!["database".into(), "1 GiB".into(), String::new()]);
        let expected = "\
NAME         SIZE  STATE
web       128 MiB  ready
database    1 GiB  -
";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn a_long_table_comes_in_parts() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["database".into(), "ready".into()]);
        assert_eq!(table.take(), "NAME      STATE\ndatabase  ready\n");
        table.row(vec!["web".into(), "ready".into()]);
        assert_eq!(table.take(), "web       ready\n");
        assert_eq!(table.take(), "");
    }
}
