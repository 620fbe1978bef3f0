//! What is sent: every PDU gets its numbers here.

use super::task::Held;
use super::{Outcome, Session};
use crate::iscsi::session::collection::Wanted;
use crate::iscsi::wire::command::{Residual, ScsiResponse};
use crate::iscsi::wire::control::{LogoutAnswer, LogoutResponse, NopIn, NopOut, TextResponse};
use crate::iscsi::wire::data::{DataIn, DataStatus, ReadyToTransfer};
use crate::iscsi::wire::header::DataLength;
use crate::iscsi::wire::notice::{AsyncMessage, Event, Reject, RejectReason};
use crate::iscsi::wire::number::{
    DataSn, InitiatorTaskTag, LunField, ResponseNumbers, TargetTransferTag,
};
use crate::iscsi::wire::pdu::Response;
use crate::iscsi::wire::task::{TaskAnswer, TaskResponse};
use crate::iscsi::wire::{HeaderBytes, MAX_SENSE};
use landfall_disks::Buffer;

/// GOOD.
const GOOD: u8 = 0;

impl<T> Session<T> {
    /// Numbers of the next response, which counts.
    fn count(&mut self) -> ResponseNumbers {
        let numbers = self.numbers();
        self.stat_sn = self.stat_sn.next();
        numbers
    }

    /// Numbers of a PDU that does not count.
    fn numbers(&self) -> ResponseNumbers {
        ResponseNumbers {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.window.expected(),
            max_cmd_sn: self.window.last(),
        }
    }

    fn push(&mut self, response: &Response, data: &[u8]) {
        let length = DataLength::new(data.len()).expect("segments are cut to what can be received");
        self.output.push(self.digests(), &response.encode(length), data);
    }

    /// The end of a command, behind what it reads.
    pub(super) fn answer_command(
        &mut self,
        tag: InitiatorTaskTag,
        held: &Held<T>,
        outcome: Outcome,
    ) {
        let Outcome { status, sense, mut data } = outcome;
        let given = if held.reads { u64::try_from(data.len()).unwrap_or(u64::MAX) } else { 0 };
        let residual = if held.reads && held.wanted == 0 {
            Residual::of(held.expected, given)
        } else if held.writes {
            Residual::of(held.expected, held.wanted)
        } else {
            // Nothing can be transferred in this direction.
            let wanted = held.wanted.max(u64::try_from(data.len()).unwrap_or(u64::MAX));
            Residual::of(0, wanted)
        };
        let room = usize::try_from(held.expected).expect("32 bits fit a usize");
        let length = if held.reads { data.len().min(room) } else { 0 };
        data.narrow(0..length);
        let with_data = status == GOOD && sense.is_empty() && length > 0;
        let end = with_data.then_some((status, residual));
        let pdus = self.send_data(tag, data, end);
        if !with_data {
            let mut segment = Vec::new();
            if !sense.is_empty() {
                let sense = &sense[..sense.len().min(MAX_SENSE)];
                let length = u16::try_from(sense.len()).expect("cut just now");
                segment.extend_from_slice(&length.to_be_bytes());
                segment.extend_from_slice(sense);
            }
            let response = ScsiResponse {
                residual,
                response: ScsiResponse::COMPLETED,
                status,
                task_tag: tag,
                numbers: self.count(),
                exp_data_sn: DataSn::new(pdus + held.requests),
            };
            self.push(&Response::Command(response), &segment);
        }
    }

    /// What a command reads, in segments and bursts, with its end in the last if there is one; how
    /// many PDUs that were.
    fn send_data(
        &mut self,
        tag: InitiatorTaskTag,
        mut data: Buffer,
        end: Option<(u8, Residual)>,
    ) -> u32 {
        let (segment, burst) = (self.terms.max_send_segment, self.terms.max_burst);
        let (mut offset, mut in_burst, mut pdus) = (0u32, 0u32, 0u32);
        while !data.is_empty() {
            let left = u32::try_from(data.len()).expect("cut to 32 bits before");
            let length = left.min(segment).min(burst - in_burst);
            let rest = data.split_off(usize::try_from(length).expect("32 bits fit a usize"));
            let is_last = rest.is_empty();
            in_burst += length;
            let end = end.filter(|_| is_last).map(|(status, residual)| {
                let ResponseNumbers { stat_sn, .. } = self.count();
                DataStatus { status, residual, stat_sn }
            });
            let ResponseNumbers { exp_cmd_sn, max_cmd_sn, .. } = self.numbers();
            let pdu = DataIn {
                is_final: is_last || in_burst == burst,
                task_tag: tag,
                end,
                exp_cmd_sn,
                max_cmd_sn,
                data_sn: DataSn::new(pdus),
                offset,
            };
            let size = DataLength::new(data.len()).expect("a segment has at most 24 bits");
            let header = Response::Data(pdu).encode(size);
            self.output.push_buffer(self.digests(), &header, data);
            if in_burst == burst {
                in_burst = 0;
            }
            offset += length;
            pdus += 1;
            data = rest;
        }
        pdus
    }

    /// Asks for data.
    pub(super) fn send_request(&mut self, tag: InitiatorTaskTag, lun: LunField, wanted: &Wanted) {
        let request = ReadyToTransfer {
            lun,
            task_tag: tag,
            transfer_tag: wanted.tag,
            numbers: self.numbers(),
            r2t_sn: wanted.number,
            offset: wanted.offset,
            length: wanted.length,
        };
        self.push(&Response::Ready(request), &[]);
    }

    pub(super) fn answer_task(&mut self, tag: InitiatorTaskTag, answer: TaskAnswer) {
        let response = TaskResponse { answer, task_tag: tag, numbers: self.count() };
        self.push(&Response::Task(response), &[]);
    }

    /// Sends a ping back, with as much of its data as the initiator takes.
    pub(super) fn echo(&mut self, nop: &NopOut, data: &[u8]) {
        let most = usize::try_from(self.terms.max_send_segment).expect("32 bits fit a usize");
        let response = NopIn {
            lun: LunField::default(),
            task_tag: nop.task_tag,
            transfer_tag: TargetTransferTag::RESERVED,
            numbers: self.count(),
        };
        self.push(&Response::Nop(response), &data[..data.len().min(most)]);
    }

    /// A ping of its own, which wants an answer unless its tag is reserved. It does not count
    /// (section 11.19).
    pub(super) fn send_ping(&mut self, tag: TargetTransferTag) {
        let ping = NopIn {
            lun: LunField::default(),
            task_tag: InitiatorTaskTag::RESERVED,
            transfer_tag: tag,
            numbers: self.numbers(),
        };
        self.push(&Response::Nop(ping), &[]);
    }

    pub(super) fn send_text(
        &mut self,
        tag: InitiatorTaskTag,
        next: Option<TargetTransferTag>,
        continues: bool,
        text: &[u8],
    ) {
        let response = TextResponse {
            is_final: next.is_none(),
            continues,
            lun: LunField::default(),
            task_tag: tag,
            transfer_tag: next.unwrap_or(TargetTransferTag::RESERVED),
            numbers: self.count(),
        };
        self.push(&Response::Text(response), text);
    }

    pub(super) fn logged_out(&mut self, tag: InitiatorTaskTag, answer: LogoutAnswer) {
        let response = LogoutResponse {
            answer,
            task_tag: tag,
            numbers: self.count(),
            time_to_wait: self.terms.time_to_wait,
            time_to_retain: 0,
        };
        self.push(&Response::Logout(response), &[]);
    }

    pub(super) fn notify(&mut self, event: Event) {
        let (lun, numbers) = (LunField::default(), self.count());
        let message = AsyncMessage { event, lun, numbers };
        self.push(&Response::Async(message), &[]);
    }

    pub(super) fn reject(&mut self, reason: RejectReason, header: &HeaderBytes) {
        let reject = Reject { reason, numbers: self.count(), data_sn: DataSn::default() };
        self.push(&Response::Reject(reject), header);
    }
}
