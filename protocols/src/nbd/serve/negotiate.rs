//! Negotiation over a socket: moves bytes for the [`Handshake`], opens the exports it asks for.

use super::Service;
use super::execute::Source;
use super::link::{Link, SecureError};
use crate::admission::{Place, Served};
use crate::nbd::contexts::BlockContext;
use crate::nbd::export::{Export, Exports, OpenError, Visitor};
use crate::nbd::session::{
    Access, Context, End, ExportFacts, Handshake, HandshakeError, Negotiated, Step, TlsMode,
};
use crate::nbd::tls::Security;
use crate::nbd::wire::option::MetaRequest;
use crate::nbd::wire::{MAX_REQUEST, MAX_SELECTED};
use landfall_disks::Buffer;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Exports a connection may hold open while it negotiates. With one more the oldest is let go: its name is resolved anew
/// if it is asked for again.
const MAX_HELD: usize = 8;

/// Smallest preferred block that may be announced, in bytes: the unit of history.
const PREFERRED_BLOCK: u32 = 4096;

/// Largest one, in bytes.
const LARGEST_PREFERRED_BLOCK: u32 = 1 << 20;
const _: () = assert!(LARGEST_PREFERRED_BLOCK <= MAX_REQUEST);

/// Why negotiation led nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum NegotiationError {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Secure(#[from] SecureError),
    #[error(transparent)]
    Session(#[from] HandshakeError),
    #[error("too many others came meanwhile")]
    CutOff,
}

/// A connection on which requests follow.
pub(super) struct Entered {
    pub(super) visitor: Visitor,
    pub(super) negotiated: Negotiated,
    pub(super) export: Export,
    /// Who describes blocks, for each of the contexts that were negotiated.
    pub(super) sources: Vec<Source>,
    /// Its place among those who are served.
    pub(super) served: Served,
}

/// Negotiates; `None` when the client took leave. The link is there before and after, unless TLS did not come about.
pub(super) async fn negotiate(
    link: &mut Option<Link>,
    security: &Security,
    service: &Service,
    mut visitor: Visitor,
    place: &Place,
) -> Result<Option<Entered>, NegotiationError> {
    let exports = &*service.exports;
    let mut session = Handshake::new(match security {
        Security::Plain => TlsMode::Off,
        Security::Offered(_) => TlsMode::Offered,
        Security::Required(_) => TlsMode::Required,
    });
    let mut held = Held::default();
    let mut served = None;
    loop {
        let Link { incoming, outgoing } = link.as_mut().expect("TLS came about");
        let output = session.take_output();
        if !output.is_empty() {
            let sent = outgoing.send(vec![Buffer::copy_of(&output)]).await;
            // Whoever leaves need not wait until that is acknowledged.
            if session.step() != Step::End(End::Aborted) {
                sent?;
            }
        }
        match session.step() {
            Step::Receive(length) => {
                let data = incoming.read_exact(length).await?;
                if service.is_stopping() {
                    session.stop();
                }
                session.received(&data);
            }
            Step::StartTls => {
                let (Security::Offered(config) | Security::Required(config)) = security else {
                    unreachable!("without TLS the session refuses it")
                };
                let plain = link.take().expect("looked at above");
                let (secured, subject) = plain.secure(config).await?;
                *link = Some(secured);
                visitor.certificate = Some(subject);
                // What was opened for whoever asked in the clear is not kept for the one who is known now.
                held = Held::default();
                session.secured();
            }
            Step::List => session.listed(&exports.list(&visitor).await),
            Step::Open(name) => {
                let opened = if session.is_entering() {
                    let admitted = || place.serve().ok_or_else(|| service.is_full());
                    held.enter(&name, exports, &visitor, admitted).await
                } else {
                    held.open(&name, exports, &visitor).await.map(|export| (export, None))
                };
                match opened {
                    Ok((export, entered)) => {
                        served = entered;
                        session.opened(Ok(&facts(export)));
                    }
                    Err(error) => session.opened(Err(&error)),
                }
            }
            Step::ListContexts(request) => {
                let contexts = Arc::clone(&held.opened(&request.name).contexts);
                session.contexts_listed(&contexts.list(&request.queries).await);
            }
            Step::OpenContexts(request) => {
                session.contexts_opened(&held.open_contexts(&request).await);
            }
            Step::End(End::Aborted) => return Ok(None),
            Step::End(End::Broken(error)) => return Err(error.into()),
            Step::End(End::Transmission(negotiated)) => {
                let (export, sources) = held.take(&negotiated);
                let served = served.expect("a place was taken before it was entered");
                return Ok(Some(Entered { visitor, negotiated, export, sources, served }));
            }
        }
    }
}

/// Exports opened during negotiation, by the name the client used: one resolution per name and connection.
#[derive(Default)]
struct Held {
    exports: VecDeque<(String, Export)>,
    /// The one whose contexts were opened last.
    chosen: Option<Chosen>,
}

/// An export, and contexts of it. They are of the very moment that it shows, so it is not let go before them.
struct Chosen {
    name: String,
    export: Export,
    contexts: Vec<(String, Arc<dyn BlockContext>)>,
}

impl Held {
    async fn open(
        &mut self,
        name: &str,
        exports: &dyn Exports,
        visitor: &Visitor,
    ) -> Result<&Export, OpenError> {
        if self.find(name).is_none() {
            let export = exports.open(name, visitor).await?;
            if self.exports.len() == MAX_HELD {
                self.exports.pop_front();
            }
            self.exports.push_back((name.to_owned(), export));
        }
        Ok(self.opened(name))
    }

    /// Opens an export to be used, with a place among those who are served: that comes first, so that nobody enters who could
    /// not go on.
    async fn enter(
        &mut self,
        name: &str,
        exports: &dyn Exports,
        visitor: &Visitor,
        admitted: impl FnOnce() -> Result<Served, OpenError>,
    ) -> Result<(&Export, Option<Served>), OpenError> {
        let export = self.open(name, exports, visitor).await?;
        let served = admitted()?;
        let entered = match &export.usage {
            Some(usage) => usage.enter().await,
            None => Ok(()),
        };
        match entered {
            Ok(()) => Ok((export, Some(served))),
            Err(error) => {
                served.step_back();
                Err(error)
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Export> {
        let chosen = self.chosen.iter().map(|chosen| (&chosen.name, &chosen.export));
        let exports = self.exports.iter().map(|(held, export)| (held, export));
        chosen.chain(exports).find(|(held, _)| *held == name).map(|(_, export)| export)
    }

    /// The export of this name, which was opened just now.
    fn opened(&self, name: &str) -> &Export {
        self.find(name).expect("nothing is let go until the next one is opened")
    }

    /// Opens contexts of an export, in the place of those that were opened before; one more than may be selected at most. The
    /// names of those that there are.
    async fn open_contexts(&mut self, request: &MetaRequest) -> Vec<String> {
        let export = self.opened(&request.name).clone();
        self.chosen = None;
        let mut contexts = Vec::new();
        for query in &request.queries {
            if contexts.len() > MAX_SELECTED {
                break;
            }
            if let Some(context) = export.contexts.open(query).await {
                contexts.push((query.clone(), context));
            }
        }
        let names = contexts.iter().map(|(name, _)| name.clone()).collect();
        self.chosen = Some(Chosen { name: request.name.clone(), export, contexts });
        names
    }

    /// The export that was negotiated, and who describes its blocks; everything else is released.
    fn take(self, negotiated: &Negotiated) -> (Export, Vec<Source>) {
        let export = self.opened(&negotiated.name).clone();
        let opened = self.chosen.map(|chosen| chosen.contexts).unwrap_or_default();
        let source = |context: &Context| match context {
            Context::BaseAllocation => Source::Map,
            Context::OfExport(name) => {
                let found = opened.iter().find(|(opened, _)| opened == name);
                let (_, found) = found.expect("what is selected was opened last");
                Source::Context(Arc::clone(found))
            }
        };
        let contexts = &negotiated.transmission.contexts;
        (export, contexts.iter().map(|(_, context)| source(context)).collect())
    }
}

fn facts(export: &Export) -> ExportFacts {
    let geometry = export.disk.geometry();
    ExportFacts {
        name: export.name.clone(),
        description: export.description.clone(),
        size_bytes: geometry.size_bytes,
        access: if geometry.read_only { Access::ReadOnly } else { Access::Writable },
        multi_conn: export.multi_conn,
        preferred_block: preferred_block(geometry.physical_sector),
    }
}

/// A power of two, whatever a disk says of its sectors.
fn preferred_block(sector: u32) -> u32 {
    sector.clamp(PREFERRED_BLOCK, LARGEST_PREFERRED_BLOCK).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_block_is_a_power_of_two_within_limits() {
        let blocks = [0, 512, 4096, 4097, 6000, 65_536, 1 << 20, (1 << 20) + 1, 1 << 31, u32::MAX];
        let expected = [4096, 4096, 4096, 8192, 8192, 65_536, 1 << 20, 1 << 20, 1 << 20, 1 << 20];
        assert_eq!(blocks.map(preferred_block), expected);
    }
}
