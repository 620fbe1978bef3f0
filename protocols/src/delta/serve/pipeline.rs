//! What a stream asks for, under way: hashes checked off the core, batches applied in order and several at once.
//!
//! ```text
//!   push ──▶ checking (all at once, off the core) ──in order──▶ applying (several) ──in order──▶ next
//!                                                  └─ mark, pass: alone, after all before them ──┘
//!   push ──▶ looking up hashes (any order) ─────────────────────────────────────────────────────▶ next
//! ```
//!
//! **Invariants**
//! - `apply` is called in order of position, and its future polled once, before the next call.
//! - `mark` and `pass_begin` are called when nothing is being applied, and nothing is called while they run.

use crate::delta::identity::Position;
use crate::delta::pack;
use crate::delta::refusal::Refusal;
use crate::delta::replicas::{Applied, Batch, ReplicaSink};
use crate::delta::wire::{BatchFrame, BlockHash, HashRequest, Mark, Marked, PassBegin};
use futures_util::StreamExt;
use futures_util::future::{LocalBoxFuture, ready};
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use landfall_disks::uring;
use std::task::{Context, Poll};

/// Something has ended.
#[derive(Debug)]
pub(super) enum Done {
    /// A batch is durable.
    Applied(Position),
    /// A mark became a point.
    Marked(Marked),
    /// Hashes were looked up.
    Hashes(HashRequest, Vec<BlockHash>),
    /// Something was refused or failed; nothing more is begun.
    Refused(Refusal),
}

/// The next thing to call, in order.
enum Step {
    Batch(Position, Result<Batch, Refusal>),
    Mark(Mark),
    PassBegin(PassBegin),
}

/// What runs alone.
enum Alone {
    Marked(Marked),
    PassBegun,
}

pub(super) struct Pipeline<'s> {
    sink: &'s dyn ReplicaSink,
    checking: FuturesOrdered<LocalBoxFuture<'s, Step>>,
    /// Checked, and waiting for what runs before it.
    held: Option<Step>,
    applying: FuturesOrdered<LocalBoxFuture<'s, (Position, Applied)>>,
    alone: Option<LocalBoxFuture<'s, Result<Alone, Refusal>>>,
    looking_up: FuturesUnordered<LocalBoxFuture<'s, Result<Done, Refusal>>>,
}

impl<'s> Pipeline<'s> {
    pub(super) fn new(sink: &'s dyn ReplicaSink) -> Self {
        Self {
            sink,
            checking: FuturesOrdered::new(),
            held: None,
            applying: FuturesOrdered::new(),
            alone: None,
            looking_up: FuturesUnordered::new(),
        }
    }

    pub(super) fn batch(&mut self, frame: BatchFrame) {
        let position = frame.position;
        self.checking.push_back(Box::pin(async move {
            Step::Batch(position, uring::offload(move || pack::unpack(&frame)).await)
        }));
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        self.checking.push_back(Box::pin(ready(Step::Mark(mark))));
    }

    pub(super) fn pass_begin(&mut self, pass: PassBegin) {
        self.checking.push_back(Box::pin(ready(Step::PassBegin(pass))));
    }

    pub(super) fn hashes(&mut self, request: HashRequest) {
        let lookup = self.sink.hashes(request);
        self.looking_up.push(Box::pin(async move {
            let blocks = lookup.await?;
            if blocks.len() == request.count as usize {
                Ok(Done::Hashes(request, blocks))
            } else {
                let got = blocks.len();
                Err(Refusal::Failed(format!("{got} hashes for {} blocks", request.count)))
            }
        }));
    }

    /// The next thing that ends; never, while nothing is under way.
    pub(super) async fn next(&mut self) -> Done {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Lets what was begun end, and begins nothing more.
    pub(super) async fn settle(mut self) {
        self.checking.clear();
        self.held = None;
        // Looking up changes nothing, so it may simply stop.
        self.looking_up.clear();
        while self.applying.next().await.is_some() {}
        if let Some(alone) = self.alone.take() {
            // The source hears of it when it connects again.
            let _ = alone.await;
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Done> {
        loop {
            if let Some(alone) = &mut self.alone
                && let Poll::Ready(ended) = alone.as_mut().poll(context)
            {
                self.alone = None;
                match ended {
                    Ok(Alone::Marked(marked)) => return Poll::Ready(Done::Marked(marked)),
                    Ok(Alone::PassBegun) => continue,
                    Err(refusal) => return Poll::Ready(Done::Refused(refusal)),
                }
            }
            if self.alone.is_none() && self.begin(context) {
                continue;
            }
            break;
        }
        if let Some(Step::Batch(_, Err(_))) = &self.held
            && let Some(Step::Batch(_, Err(refusal))) = self.held.take()
        {
            return Poll::Ready(Done::Refused(refusal));
        }
        if let Poll::Ready(Some((position, applied))) = self.applying.poll_next_unpin(context) {
            return Poll::Ready(match applied {
                Ok(()) => Done::Applied(position),
                Err(refusal) => Done::Refused(refusal),
            });
        }
        match self.looking_up.poll_next_unpin(context) {
            Poll::Ready(Some(done)) => Poll::Ready(done.unwrap_or_else(Done::Refused)),
            _ => Poll::Pending,
        }
    }

    /// Begins the next step if its turn has come; whether it did.
    fn begin(&mut self, context: &mut Context<'_>) -> bool {
        if self.held.is_none()
            && let Poll::Ready(Some(step)) = self.checking.poll_next_unpin(context)
        {
            self.held = Some(step);
        }
        match self.held.take() {
            Some(Step::Batch(position, Ok(batch))) => {
                self.apply(position, batch, context);
                true
            }
            Some(Step::Mark(mark)) if self.applying.is_empty() => {
                let marking = self.sink.mark(mark);
                self.alone = Some(Box::pin(async move { marking.await.map(Alone::Marked) }));
                true
            }
            Some(Step::PassBegin(pass)) if self.applying.is_empty() => {
                let beginning = self.sink.pass_begin(pass);
                self.alone =
                    Some(Box::pin(async move { beginning.await.map(|()| Alone::PassBegun) }));
                true
            }
            later => {
                self.held = later;
                false
            }
        }
    }

    fn apply(&mut self, position: Position, batch: Batch, context: &mut Context<'_>) {
        let mut applying = self.sink.apply(position, batch);
        match applying.as_mut().poll(context) {
            Poll::Ready(applied) => self.applying.push_back(Box::pin(ready((position, applied)))),
            Poll::Pending => {
                self.applying.push_back(Box::pin(async move { (position, applying.await) }));
            }
        }
    }
}
