//! How a file lies in its file system, as `filefrag` tells.

use super::command::run;

/// The stretches of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretches {
    /// How many there are.
    pub all: usize,
    /// Those whose blocks are other files' too.
    pub shared: usize,
}

impl Stretches {
    /// Those of the file at `path`.
    #[track_caller]
    pub fn of(path: &str) -> Self {
        // "   0:        0..     255:         24..       279:    256:             last,shared,eof"
        let said = run("filefrag", &["-v", path]);
        let first = |line: &str| line.split(':').next().unwrap_or_default().trim().to_owned();
        let lines = said.lines().filter(|line| first(line).parse::<u32>().is_ok());
        let mut found = Self { all: 0, shared: 0 };
        for line in lines {
            found.all += 1;
            found.shared += usize::from(line.contains("shared"));
        }
        found
    }
}
