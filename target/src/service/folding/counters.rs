//! What is counted of folding and of giving back.

/// What was counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FoldingCounters {
    /// Folds that ended well.
    pub(crate) folds: u64,
    /// Folds that were refused or cut off by something that failed.
    pub(crate) failures: u64,
    /// Bytes written to images by those that ended well.
    pub(crate) data_bytes: u64,
    /// Bytes of images that they made zero.
    pub(crate) zero_bytes: u64,
    /// Segments that were released.
    pub(crate) released_segments: u64,
    /// Their bytes.
    pub(crate) released_bytes: u64,
    /// Segments that were needed in part and are gone.
    pub(crate) compacted_segments: u64,
    /// Their bytes.
    pub(crate) compacted_bytes: u64,
    /// Bytes written anew for what was needed of them.
    pub(crate) moved_bytes: u64,
    /// Looks for free segments that failed.
    pub(crate) forget_failures: u64,
}
