//! The text of a sidecar: sentences for people, then a field a line, then a checksum. Pure.
//!
//! **Invariant:** there is one text for what it says. What is read is written again, and has to be the same, sentences too: so
//! nobody finds a sentence above fields that say something else.

use super::{FileStamp, HeldPoint, Holds, Sidecar};
use crate::ids::{DiskId, LineId, MachineId, Sequence};
use crate::manifest::standby::{HeldMoment, MAX_HELD};
use crate::name::{Label, Name};
use crate::point::PointKind;
use crate::time::Timestamp;
use std::fmt::Write as _;
use std::str::Lines;

/// Longest sidecar, in bytes.
pub const MAX_BYTES: usize = 64 << 10;
/// Most files that an image consists of.
pub const MAX_FILES: usize = 64;

const FORMAT: &str = "landfall-standby 1";

/// Why a text is no sidecar, or none that can be trusted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SidecarFault {
    /// Longer than any.
    #[error("it has {0} bytes, more than any")]
    TooLong(usize),
    /// Something else, or cut off.
    #[error("its field {0:?} is missing or makes no sense")]
    Field(&'static str),
    /// Somebody edited it, or the medium did.
    #[error("it was changed since it was written")]
    Changed,
}

impl Sidecar {
    /// As it is written.
    pub fn encode(&self) -> String {
        let mut text = self.sentences();
        let mut field = |name: &str, value: &str| {
            writeln!(text, "{name}: {value}").expect("memory takes it");
        };
        field("format", FORMAT);
        field("target", &hex(self.target));
        field("machine", self.machine.as_str());
        field("machine-id", &self.machine_id.number().to_string());
        field("disk", self.disk.as_str());
        field("disk-id", &self.disk_id.number().to_string());
        field("image", self.format.name());
        field("set", &self.set.join(" "));
        field("written", &self.written.nanoseconds().to_string());
        match &self.holds {
            Holds::Moment { moment, size_bytes, content, files } => {
                field("state", "whole");
                field("holds", &point(moment));
                field("size", &size_bytes.to_string());
                field("content", content.as_deref().unwrap_or("-"));
                for stamp in files {
                    let FileStamp { name, inode, length_bytes, modified, changed } = stamp;
                    let stamp = format!("{name} {inode} {length_bytes} {modified} {changed}");
                    field("file", &stamp);
                }
            }
            Holds::Between { from, to } => {
                field("state", "between");
                field("held", &point(from));
                field("becomes", &point(to));
            }
            Holds::Unknown { to } => {
                field("state", "unknown");
                field("becomes", &point(to));
            }
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        writeln!(text, "crc32c: {checksum:08x}").expect("memory takes it");
        text
    }

    /// What a person is to know first.
    fn sentences(&self) -> String {
        let Self { disk, machine, .. } = self;
        match &self.holds {
            Holds::Moment { moment, .. } if self.set.len() > 1 => format!(
                "# Disk {disk} of {machine} as it was at {moment}.\n\
                 # Boot it only together with all files of its set, when all their .landfall files say the same.\n"
            ),
            Holds::Moment { moment, .. } => {
                format!("# Disk {disk} of {machine} as it was at {moment}. It may be booted.\n")
            }
            Holds::Between { from, to } => format!(
                "# DO NOT BOOT: disk {disk} of {machine} on its way from {from}\n\
                 # to {to}. The target that wrote it goes on when it runs again.\n"
            ),
            Holds::Unknown { to } => format!(
                "# DO NOT BOOT: disk {disk} of {machine} is being written, to hold {to}.\n\
                 # The target that began it goes on when it runs again.\n"
            ),
        }
    }

    /// Reads a text; allocates no more than it is long.
    pub fn parse(bytes: &[u8]) -> Result<Self, SidecarFault> {
        if bytes.len() > MAX_BYTES {
            return Err(SidecarFault::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| SidecarFault::Field("format"))?;
        let mut fields = Fields { lines: text.lines(), next: None };
        let sidecar = fields.sidecar()?;
        if sidecar.encode() == text { Ok(sidecar) } else { Err(SidecarFault::Changed) }
    }
}

fn point(point: &HeldPoint) -> String {
    let HeldMoment { line, sequence, time } = point.at;
    let kind = point.kind.map_or("instant", PointKind::word);
    let mut text = format!("{time} seq:{sequence} line:{} {kind}", line.number());
    if let Some(label) = &point.label {
        write!(text, " {}", label.as_str()).expect("memory takes it");
    }
    text
}

fn hex(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// Fields in the one order they have.
struct Fields<'a> {
    lines: Lines<'a>,
    /// A line that was looked at.
    next: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn line(&mut self) -> Option<&'a str> {
        self.next.take().or_else(|| self.lines.by_ref().find(|line| !line.starts_with('#')))
    }

    /// The value of the next field, if it has this name.
    fn maybe(&mut self, name: &str) -> Option<&'a str> {
        let line = self.line()?;
        let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
        if value.is_none() {
            self.next = Some(line);
        }
        value
    }

    fn field<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, SidecarFault> {
        self.maybe(name).and_then(read).ok_or(SidecarFault::Field(name))
    }

    fn sidecar(&mut self) -> Result<Sidecar, SidecarFault> {
        self.field("format", |text| (text == FORMAT).then_some(()))?;
        let target = |text| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes);
        let name = |text| Name::parse(text).ok();
        Ok(Sidecar {
            target: self.field("target", target)?,
            machine: self.field("machine", name)?,
            machine_id: self.field("machine-id", |text| text.parse().ok().map(MachineId::new))?,
            disk: self.field("disk", name)?,
            disk_id: self.field("disk-id", |text| text.parse().ok().map(DiskId::new))?,
            format: self.field("image", |text| text.parse().ok())?,
            set: self.field("set", set)?,
            written: self.field("written", number)?,
            holds: self.holds()?,
        })
    }

    fn holds(&mut self) -> Result<Holds, SidecarFault> {
        Ok(match self.field("state", Some)? {
            "whole" => Holds::Moment {
                moment: self.field("holds", read_point)?,
                size_bytes: self.field("size", |text| text.parse().ok())?,
                content: self.field("content", |text| Some(not_dash(text)))?,
                files: self.files()?,
            },
            "between" => Holds::Between {
                from: self.field("held", read_point)?,
                to: self.field("becomes", read_point)?,
            },
            "unknown" => Holds::Unknown { to: self.field("becomes", read_point)? },
            _ => return Err(SidecarFault::Field("state")),
        })
    }

    fn files(&mut self) -> Result<Vec<FileStamp>, SidecarFault> {
        let mut files = Vec::new();
        while let Some(text) = self.maybe("file") {
            let stamp = read_stamp(text).filter(|_| files.len() < MAX_FILES);
            files.push(stamp.ok_or(SidecarFault::Field("file"))?);
        }
        Ok(files)
    }
}

/// `-` stands for nothing.
fn not_dash(text: &str) -> Option<String> {
    (text != "-").then(|| text.to_owned())
}

fn number(text: &str) -> Option<Timestamp> {
    text.parse().ok().map(Timestamp::from_nanoseconds)
}

fn set(text: &str) -> Option<Vec<String>> {
    let names: Vec<String> = text.split(' ').take(MAX_HELD).map(str::to_owned).collect();
    names.iter().all(|name| is_file_name(name)).then_some(names)
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('/') && !text.chars().any(char::is_control)
}

fn read_point(text: &str) -> Option<HeldPoint> {
    let mut words = text.splitn(5, ' ');
    let time = Timestamp::parse(words.next()?).ok()?;
    let sequence = Sequence::new(words.next()?.strip_prefix("seq:")?.parse().ok()?);
    let line = LineId::new(words.next()?.strip_prefix("line:")?.parse().ok()?);
    let kind = match words.next()? {
        "instant" => None,
        word => Some(PointKind::of_word(word)?),
    };
    let label = match words.next() {
        None => None,
        Some(label) => Some(Label::parse(label).ok()?),
    };
    Some(HeldPoint { at: HeldMoment { line, sequence, time }, kind, label })
}

fn read_stamp(text: &str) -> Option<FileStamp> {
    let mut words = text.split(' ');
    let name = words.next().filter(|name| is_file_name(name))?.to_owned();
    let mut next = || words.next()?.parse().ok();
    let (inode, length_bytes, modified, changed) = (next()?, next()?, next()?, next()?);
    Some(FileStamp { name, inode, length_bytes, modified, changed })
}
