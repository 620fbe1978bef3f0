//! Negotiation over a socket: moves bytes for the [`Handshake`], opens the exports it asks for.

use super::Service;
use super::link::{Link, SecureError};
use crate::nbd::export::{Export, Exports, OpenError, Visitor};
use crate::nbd::session::{
    Access, End, ExportFacts, Handshake, HandshakeError, Negotiated, Step, TlsMode,
};
use crate::nbd::tls::Security;
use crate::nbd::wire::MAX_REQUEST;
use landfall_disks::Buffer;
use std::collections::VecDeque;
use std::io;

/// Exports a connection may hold open while it negotiates. With one more the oldest is let go: its name is resolved anew
/// if it is asked for again.
const MAX_HELD: usize = 8;

/// Smallest preferred block that may be announced, in bytes: the unit of history.
const PREFERRED_BLOCK: u32 = 4096;

/// Why negotiation led nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum NegotiationError {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Secure(#[from] SecureError),
    #[error(transparent)]
    Session(#[from] HandshakeError),
}

/// A connection on which requests follow.
pub(super) struct Entered {
    pub(super) link: Link,
    pub(super) visitor: Visitor,
    pub(super) negotiated: Negotiated,
    pub(super) export: Export,
}

/// Negotiates; `None` when the client took leave.
pub(super) async fn negotiate(
    mut link: Link,
    security: &Security,
    service: &Service,
    mut visitor: Visitor,
) -> Result<Option<Entered>, NegotiationError> {
    let exports = &*service.exports;
    let mut session = Handshake::new(match security {
        Security::Plain => TlsMode::Off,
        Security::Offered(_) => TlsMode::Offered,
        Security::Required(_) => TlsMode::Required,
    });
    let mut held = Held::default();
    loop {
        let output = session.take_output();
        if !output.is_empty() {
            let sent = link.outgoing.send(vec![Buffer::copy_of(&output)]).await;
            // Whoever leaves need not wait until that is acknowledged.
            if session.step() != Step::End(End::Aborted) {
                sent?;
            }
        }
        match session.step() {
            Step::Receive(length) => {
                let data = link.incoming.read_exact(length).await?;
                if service.is_stopping() {
                    session.stop();
                }
                session.received(&data);
            }
            Step::StartTls => {
                let (Security::Offered(config) | Security::Required(config)) = security else {
                    unreachable!("without TLS the session refuses it")
                };
                let (secured, subject) = link.secure(config).await?;
                link = secured;
                visitor.certificate = Some(subject);
                // What was opened for whoever asked in the clear is not kept for the one who is known now.
                held = Held::default();
                session.secured();
            }
            Step::List => session.listed(&exports.list(&visitor).await),
            Step::Open(name) => {
                let entering = session.is_entering();
                match held.open(&name, exports, &visitor, entering).await {
                    Ok(export) => session.opened(Ok(&facts(export))),
                    Err(error) => session.opened(Err(&error)),
                }
            }
            Step::End(End::Aborted) => {
                link.outgoing.shutdown().await;
                return Ok(None);
            }
            Step::End(End::Broken(error)) => return Err(error.into()),
            Step::End(End::Transmission(negotiated)) => {
                let export = held.take(&negotiated.name);
                return Ok(Some(Entered { link, visitor, negotiated, export }));
            }
        }
    }
}

/// Exports opened during negotiation, by the name the client used: one resolution per name and connection.
#[derive(Default)]
struct Held {
    exports: VecDeque<(String, Export)>,
}

impl Held {
    async fn open(
        &mut self,
        name: &str,
        exports: &dyn Exports,
        visitor: &Visitor,
        entering: bool,
    ) -> Result<&Export, OpenError> {
        let index = match self.exports.iter().position(|(held, _)| held == name) {
            Some(index) => index,
            None => {
                let export = exports.open(name, visitor).await?;
                if self.exports.len() == MAX_HELD {
                    self.exports.pop_front();
                }
                self.exports.push_back((name.to_owned(), export));
                self.exports.len() - 1
            }
        };
        let export = &self.exports[index].1;
        if let Some(usage) = export.usage.as_ref().filter(|_| entering) {
            usage.enter().await?;
        }
        Ok(export)
    }

    /// The export of this name; all others are released.
    fn take(self, name: &str) -> Export {
        let found = self.exports.into_iter().find(|(held, _)| held == name);
        found.map(|(_, export)| export).expect("transmission starts right after the export opened")
    }
}

fn facts(export: &Export) -> ExportFacts {
    let geometry = export.disk.geometry();
    let largest = MAX_REQUEST.min(1 << 20);
    ExportFacts {
        name: export.name.clone(),
        description: export.description.clone(),
        size_bytes: geometry.size_bytes,
        access: if geometry.read_only { Access::ReadOnly } else { Access::Writable },
        multi_conn: export.multi_conn,
        preferred_block: geometry
            .physical_sector
            .clamp(PREFERRED_BLOCK, largest)
            .next_power_of_two(),
    }
}
