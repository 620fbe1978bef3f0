//! `landfall changes`: what differs on a disk between two moments, page by page, so that neither end holds it all.

use super::table::Table;
use super::{Format, Place, say};
use crate::http::client::{Control, escaped};
use crate::http::messages::{ChangedRange, Changes as Page};
use crate::units::{ByteSize, counted};
use clap::Args;
use serde_json::json;

/// Say which parts of a disk differ between two moments
///
/// Exact to 4 KiB, without reading any content. Either moment may be the older one, and they may lie on different
/// branches. What was written in between counts, also where it was rewritten with the same bytes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  landfall changes web/os --from -1h --to latest --summary
  landfall changes web/os --from seq:812 --to web~test@latest --json")]
pub(super) struct Changes {
    /// MACHINE/DISK or MACHINE~BRANCH/DISK
    disk: String,
    /// The one moment: WHEN, or MACHINE~BRANCH@WHEN for one of another line
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    from: String,
    /// The other moment
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    to: String,
    /// Only how much it is
    #[arg(long)]
    summary: bool,
    #[command(flatten)]
    format: Format,
}

impl Changes {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        let mut printer = Printer::new(self.format, self.summary);
        let mut page = self.page(&control, &self.from, &self.to, None)?;
        loop {
            printer.take(&page);
            let Some(next) = page.next else { break };
            // By the names that always mean these moments, whatever happens between two pages.
            page = self.page(&control, &page.from, &page.to, Some(next))?;
        }
        printer.end(&page);
        Ok(())
    }

    fn page(
        &self,
        control: &Control,
        from: &str,
        to: &str,
        after: Option<u64>,
    ) -> anyhow::Result<Page> {
        let (disk, from, to) = (escaped(&self.disk), escaped(from), escaped(to));
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        Ok(control.get(&format!("/v1/changes?disk={disk}&from={from}&to={to}{after}"))?)
    }
}

/// Prints ranges as pages come, whole ones: a range may go on in the next page.
struct Printer {
    format: Format,
    summary: bool,
    table: Table,
    /// Rows of it that were not printed.
    rows: usize,
    /// The last range: it may go on.
    open: Option<ChangedRange>,
    begun: bool,
    ranges: u64,
    written_bytes: u64,
    unknown_bytes: u64,
}

impl Printer {
    fn new(format: Format, summary: bool) -> Self {
        Self {
            format,
            summary,
            table: Table::new(&[">OFFSET", ">LENGTH", ">SIZE", "WHAT"]),
            rows: 0,
            open: None,
            begun: false,
            ranges: 0,
            written_bytes: 0,
            unknown_bytes: 0,
        }
    }

    fn take(&mut self, page: &Page) {
        if self.format.json && !self.begun {
            let head = [("from", &page.from), ("from_time", &page.from_time), ("to", &page.to)];
            let head = head.map(|(key, value)| format!("\"{key}\": {}", json!(value))).join(", ");
            let (time, size) = (json!(page.to_time), page.size_bytes);
            say(&format!("{{{head}, \"to_time\": {time}, \"size_bytes\": {size},"));
            if !self.summary {
                say("\"ranges\": [");
            }
        }
        self.begun = true;
        for range in &page.ranges {
            match &mut self.open {
                Some(open)
                    if open.written == range.written
                        && open.offset + open.length == range.offset =>
                {
                    open.length += range.length;
                }
                _ => {
                    let before = self.open.replace(*range);
                    before.into_iter().for_each(|before| self.print(before));
                }
            }
        }
        self.flush();
    }

    fn print(&mut self, range: ChangedRange) {
        if self.format.json && !self.summary {
            let comma = if self.ranges == 0 { "" } else { "," };
            say(&format!("{comma}{}", json!(range)));
        } else if !self.summary {
            let what = if range.written { "written" } else { "unknown" };
            self.rows += 1;
            self.table.row(vec![
                range.offset.to_string(),
                range.length.to_string(),
                ByteSize::new(range.length).to_string(),
                what.to_owned(),
            ]);
        }
        self.ranges += 1;
        match range.written {
            true => self.written_bytes += range.length,
            false => self.unknown_bytes += range.length,
        }
    }

    /// Prints the rows there are.
    fn flush(&mut self) {
        if std::mem::take(&mut self.rows) > 0 {
            say(self.table.take().trim_end());
        }
    }

    fn end(&mut self, last: &Page) {
        self.open.take().into_iter().for_each(|open| self.print(open));
        self.flush();
        if self.format.json {
            let end = if self.summary { "" } else { "], " };
            let (ranges, written, unknown) = (self.ranges, self.written_bytes, self.unknown_bytes);
            say(&format!(
                "{end}\"range_count\": {ranges}, \"written_bytes\": {written}, \"unknown_bytes\": {unknown}}}"
            ));
            return;
        }
        say(&self.total(last));
    }

    fn total(&self, last: &Page) -> String {
        let between = format!(
            "between {} ({}) and {} ({})",
            last.from, last.from_time, last.to, last.to_time
        );
        if self.ranges == 0 {
            return format!("nothing was written {between}");
        }
        let size = |bytes| ByteSize::new(bytes).to_string();
        let mut total = format!(
            "{}, {} of {} written {between}",
            counted(self.ranges, "range"),
            size(self.written_bytes),
            size(last.size_bytes)
        );
        if self.unknown_bytes > 0 {
            let unknown = size(self.unknown_bytes);
            total.push_str(&format!(
                "; records in between were lost to media damage, so {unknown} more may differ"
            ));
        }
        total
    }
}
