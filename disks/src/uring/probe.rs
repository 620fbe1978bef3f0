//! What the kernel must offer, looked for once at start, so that a missing feature is a clear message and not a
//! failure in the middle of a request.

use io_uring::{IoUring, Probe, opcode};
use std::io;

/// Why the engine could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Settings that no engine can run with.
    #[error("engine settings: {0}")]
    Settings(&'static str),
    /// `io_uring_setup` failed.
    #[error("io_uring is not available on Linux {kernel}: {source}{hint}")]
    Unavailable {
        /// Release of the running kernel.
        kernel: String,
        /// What the kernel said.
        source: io::Error,
        /// What usually causes it, with a leading blank; may be empty.
        hint: &'static str,
    },
    /// The kernel lacks a feature or operation.
    #[error("io_uring of Linux {kernel} lacks {missing}; Linux 5.15 or newer is needed")]
    Missing {
        /// Release of the running kernel.
        kernel: String,
        /// Names of what is missing.
        missing: String,
    },
    /// A thread or an eventfd could not be made.
    #[error("cannot start the engine's threads: {0}")]
    Threads(#[source] io::Error),
}

/// Every operation the engine submits.
const NEEDED: [(u8, &str); 9] = [
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
];

/// Sets up a ring with the best mode the kernel has, and checks that it can do what is needed.
///
/// The ring belongs to the calling thread.
pub(super) fn open_ring(entries: u32) -> Result<IoUring, EngineError> {
    let io = build(entries).map_err(|source| EngineError::Unavailable {
        kernel: kernel(),
        hint: hint(&source),
        source,
    })?;
    let mut probe = Probe::new();
    let probed = io.submitter().register_probe(&mut probe).is_ok();
    let missing = missing(&io, |code| probed && probe.is_supported(code));
    if missing.is_empty() {
        Ok(io)
    } else {
        Err(EngineError::Missing { kernel: kernel(), missing: missing.join(", ") })
    }
}

/// Deferred task work (6.1) keeps completions from interrupting the thread; COOP_TASKRUN (5.19) is the next best.
fn build(entries: u32) -> io::Result<IoUring> {
    let base = || {
        let mut builder = IoUring::builder();
        // More completions than submissions: operations in flight are not bounded by the queue's size.
        builder.setup_clamp().setup_cqsize(entries.saturating_mul(4)).dontfork();
        builder
    };
    let refused = |result: &io::Result<IoUring>| matches!(result, Err(error) if error.raw_os_error() == Some(libc::EINVAL));
    let mut best = base();
    best.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let ring = best.build(entries);
    if !refused(&ring) {
        return ring;
    }
    let mut older = base();
    older.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
    let ring = older.build(entries);
    if refused(&ring) { base().build(entries) } else { ring }
}

fn missing(io: &IoUring, supported: impl Fn(u8) -> bool) -> Vec<&'static str> {
    let parameters = io.params();
    let features = [
        (parameters.is_feature_nodrop(), "feature NODROP"),
        (parameters.is_feature_submit_stable(), "feature SUBMIT_STABLE"),
        (parameters.is_feature_fast_poll(), "feature FAST_POLL"),
        (parameters.is_feature_ext_arg(), "feature EXT_ARG"),
    ];
    let features = features.into_iter().filter(|(present, _)| !present).map(|(_, name)| name);
    let operations = NEEDED.into_iter().filter(|(code, _)| !supported(*code)).map(|(_, name)| name);
    features.chain(operations).collect()
}

fn kernel() -> String {
    // Only for messages: a system without /proc is told so instead of a number.
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "(unknown release)".to_owned(), |release| release.trim().to_owned())
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => " (the kernel was built without it, or is older than 5.1)",
        Some(libc::EPERM | libc::EACCES) => {
            " (forbidden: look at the sysctl kernel.io_uring_disabled and at the container's seccomp profile)"
        }
        Some(libc::ENOMEM) => " (not enough lockable memory: raise RLIMIT_MEMLOCK)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_what_is_needed() {
        open_ring(8).expect("tests run on a kernel with io_uring");
    }

    #[test]
    fn a_missing_operation_is_named() {
        let io = build(8).expect("a ring");
        let names = missing(&io, |code| code != opcode::Fallocate::CODE);
        assert_eq!(names, ["FALLOCATE"]);
    }

    #[test]
    fn the_message_names_kernel_and_cause() {
        let source = io::Error::from_raw_os_error(libc::EPERM);
        let hint = hint(&source);
        let message = EngineError::Unavailable { kernel: "5.4.0".into(), source, hint }.to_string();
        assert!(message.contains("Linux 5.4.0"), "{message}");
        assert!(message.contains("io_uring_disabled"), "{message}");
    }
}
