//! The rules of order, each with what the code does for it. Breaking one must lead to harm, or it is no rule.

/// An order in which things happen, or become durable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// A group is indexed and acknowledged after its flush.
    FlushedBeforeAcknowledged,
    /// How far the index is, is part of the write that brings it there.
    ProgressWithItsEntries,
    /// A start logs where the truth of an open segment ends, and the lane goes on in a new one.
    EndLoggedBeforeGoingOn,
    /// Nobody may hold anything older when a fold begins.
    HoldersAskedFirst,
    /// No moment below the new floor can be opened once a fold has begun.
    DroppedBeforeFoldStarted,
    /// That a fold began is durable before the image is touched.
    FoldStartedBeforeImage,
    /// The image is flushed before its new floor is logged.
    ImageFlushedBeforeFoldDone,
    /// Versions may vanish only when the floor that covers them is durable.
    ForgottenAfterFoldDone,
    /// A fold that was cut off is done again.
    FoldRepeated,
    /// A read asks for the floor after its cursor was opened.
    FloorAfterCursor,
    /// A segment is released by floors, not by the start of history.
    ReleasedByFloors,
    /// A segment's file goes after the manifest says that it is gone.
    LoggedBeforeUnlinked,
    /// What the manifest keeps of a released segment says where the line stood.
    TailKept,
    /// Leaves that name the segment are dropped when reads that began before its release have ended.
    ReadsEndedBeforeLeavesDropped,
    /// Leaves that name the segment are dropped before its file goes.
    LeavesDropped,
    /// Reads that may have found such a leaf have ended before its file goes.
    ReadsEndedBeforeUnlinked,
}
