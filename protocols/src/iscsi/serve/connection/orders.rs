//! What other sessions, and the server, want of this one ([`Order`]).

use super::{Connection, Ended};
use crate::iscsi::scsi::Lun;
use crate::iscsi::serve::seats::Order;
use crate::iscsi::session::full::Scope;
use std::rc::Rc;
use tokio::sync::{mpsc, oneshot};

/// Held by those who wait for the end of this session.
pub(super) type Left = Vec<oneshot::Sender<()>>;

/// What is wanted of a session whose tasks are all aborted is done already, but for its end, which
/// `left` waits for.
pub(super) async fn disregard(orders: &mut mpsc::UnboundedReceiver<Order>, left: &mut Left) {
    while let Some(order) = orders.recv().await {
        if let Order::End(_, waiting) = order {
            left.push(waiting);
        }
    }
}

impl Connection {
    /// Does what other sessions want.
    pub(super) async fn follow(
        self: &Rc<Self>,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        left: &mut Option<oneshot::Sender<()>>,
    ) -> Ended {
        loop {
            match orders.recv().await {
                Some(Order::End(why, waiting)) => {
                    *left = Some(waiting);
                    return why;
                }
                Some(Order::RequestLogout) => self.dismissed.notify_one(),
                Some(Order::Ping(waiting)) => {
                    self.asked.borrow_mut().push(waiting);
                    // One that was asked before has its time already, whoever asks again.
                    if self.session.borrow_mut().ping() {
                        self.pinged.notify_one();
                        self.filled.notify_one();
                    }
                }
                Some(Order::Abort { scope, cleared, _done }) => {
                    let any = self.session.borrow_mut().abort(scope);
                    if let (true, true, Scope::Unit(lun), Some(nexus)) =
                        (cleared, any, scope, &self.units.0)
                    {
                        nexus.cleared_by_another(Lun::from_bytes(lun.0));
                    }
                    self.act();
                    self.running.followed();
                    self.followed.notify_waiters();
                }
                None => unreachable!("a seat keeps its own end of the channel"),
            }
        }
    }
}
