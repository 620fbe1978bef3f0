//! `[encryption]`: where the keys that wrap data keys come from, and getting them at the start.
//!
//! A key is 64 hexadecimal digits, in a file or on the standard output of a command (a client of a key service, a TPM). It is read
//! once at the start, never written anywhere, and wiped when the target ends. A file counts only if nobody but its owner may read
//! it, and its owner is who runs the target, or root.

use landfall_retention::sealing::{Encryption, KeyEncryptionKey, KeyTextError};
use serde::Deserialize;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Most bytes that are read of a key: white space may stand around it.
const MAX_KEY_TEXT: u64 = 4096;
/// Time that a command has to print a key.
const COMMAND_TIME: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const COMMAND_LOOKS: Duration = Duration::from_millis(20);

/// Where keys come from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct EncryptionConfig {
    /// Wraps data keys; nothing: new machines are not encrypted.
    pub(crate) key: Option<KeySource>,
    /// Wrapped them before.
    pub(crate) earlier: Vec<KeySource>,
}

/// Where a key comes from.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeySource {
    /// A file.
    File(PathBuf),
    /// What a program prints, called with these arguments, without a shell.
    Command(Vec<String>),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "key file {}", path.display()),
            // Arguments may be secrets themselves.
            Self::Command(words) => {
                write!(f, "key command {}", words.first().map_or("", String::as_str))
            }
        }
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySourceError {
    /// The file cannot be read, or the program not be run.
    #[error("{of}: {source}")]
    Io {
        /// The source.
        of: KeySource,
        /// Why.
        source: std::io::Error,
    },
    /// Others may read the file.
    #[error("{of} may be read by others (mode {mode:o}): chmod 600 it")]
    Readable {
        /// The source.
        of: KeySource,
        /// Its mode.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("{of} belongs to user {owner}, and this process is user {own}")]
    Owner {
        /// The source.
        of: KeySource,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        own: u32,
    },
    /// It is no file.
    #[error("{of} is no ordinary file")]
    NoFile {
        /// The source.
        of: KeySource,
    },
    /// The program failed.
    #[error("{of} ended with {status}")]
    Failed {
        /// The source.
        of: KeySource,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The program took too long.
    #[error("{of} printed nothing within {COMMAND_TIME:?}")]
    Late {
        /// The source.
        of: KeySource,
    },
    /// It is no key.
    #[error("{of}: {source}; make one with `openssl rand -hex 32`")]
    Text {
        /// The source.
        of: KeySource,
        /// What is wrong.
        source: KeyTextError,
    },
}

impl EncryptionConfig {
    /// Gets all keys.
    pub(crate) fn load(&self) -> Result<Encryption, KeySourceError> {
        let wrap_with = self.key.as_ref().map(KeySource::load).transpose()?;
        let earlier = self.earlier.iter().map(KeySource::load).collect::<Result<_, _>>()?;
        Ok(Encryption { wrap_with, earlier })
    }
}

impl KeySource {
    fn load(&self) -> Result<KeyEncryptionKey, KeySourceError> {
        let text = match self {
            Self::File(path) => self.read(path)?,
            Self::Command(words) => self.run(words)?,
        };
        KeyEncryptionKey::parse(&text)
            .map_err(|source| KeySourceError::Text { of: self.clone(), source })
    }

    fn io(&self, source: std::io::Error) -> KeySourceError {
        KeySourceError::Io { of: self.clone(), source }
    }

    fn read(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, KeySourceError> {
        let file = std::fs::File::open(path).map_err(|error| self.io(error))?;
        let metadata = file.metadata().map_err(|error| self.io(error))?;
        let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
        let (of, mode) = (self.clone(), metadata.mode() & 0o7777);
        if !metadata.is_file() {
            return Err(KeySourceError::NoFile { of });
        }
        if owner != own && owner != 0 {
            return Err(KeySourceError::Owner { of, owner, own });
        }
        if mode & 0o077 != 0 {
            return Err(KeySourceError::Readable { of, mode });
        }
        self.take(file)
    }

    fn take(&self, from: impl std::io::Read) -> Result<Zeroizing<Vec<u8>>, KeySourceError> {
        // With room for all of it: a buffer that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(2 * 4096));
        from.take(MAX_KEY_TEXT).read_to_end(&mut text).map_err(|error| self.io(error))?;
        Ok(text)
    }

    fn run(&self, words: &[String]) -> Result<Zeroizing<Vec<u8>>, KeySourceError> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(
                self.io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no program"))
            );
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| self.io(error))?;
        let ended = wait(&mut child);
        let status = match ended {
            Ok(Some(status)) => status,
            Ok(None) | Err(_) => {
                // It may have ended on its own by now.
                let _ = child.kill();
                let _ = child.wait();
                let of = self.clone();
                return Err(ended
                    .err()
                    .map_or(KeySourceError::Late { of }, |error| self.io(error)));
            }
        };
        if !status.success() {
            return Err(KeySourceError::Failed { of: self.clone(), status });
        }
        // A pipe holds more than a key has.
        self.take(child.stdout.take().expect("it was piped"))
    }
}

/// Waits for a program, for a while.
fn wait(child: &mut std::process::Child) -> std::io::Result<Option<std::process::ExitStatus>> {
    let begun = Instant::now();
    while begun.elapsed() < COMMAND_TIME {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(COMMAND_LOOKS);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

    fn command(script: &str) -> KeySource {
        KeySource::Command(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    #[test]
    fn a_key_comes_from_a_file_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let source = KeySource::File(path.clone());
        assert!(matches!(source.load(), Err(KeySourceError::Io { .. })), "there is none");
        std::fs::write(&path, KEY).expect("written");
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("ours");
            let loaded = source.load();
            assert_eq!(loaded.is_ok(), good, "{mode:o}: {loaded:?}");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("ours");
        std::fs::write(&path, "hunter2").expect("written");
        let refused = source.load().expect_err("no key").to_string();
        assert!(refused.contains("7 characters") && !refused.contains("hunter2"), "{refused}");
        let folder = KeySource::File(folder.path().to_owned());
        assert!(matches!(folder.load(), Err(KeySourceError::NoFile { .. })));
    }

    #[test]
    fn a_key_comes_from_a_command_that_succeeds() {
        let expected = KeyEncryptionKey::parse(KEY.as_bytes()).expect("a key").id();
        let loaded = command(&format!("echo {KEY}")).load().expect("it prints one");
        assert_eq!(loaded.id(), expected);
        let failed = command(&format!("echo {KEY}; exit 3")).load().expect_err("it failed");
        assert!(matches!(failed, KeySourceError::Failed { .. }), "{failed}");
        assert!(!failed.to_string().contains("echo"), "arguments may be secrets: {failed}");
        assert!(matches!(command("true").load(), Err(KeySourceError::Text { .. })));
        let none = KeySource::Command(Vec::new()).load();
        assert!(matches!(none, Err(KeySourceError::Io { .. })));
    }
}
