//! Which targets there are, and where: what `SendTargets` asks for (RFC 7143, appendix C).

use super::Connection;
use crate::iscsi::name::Name;
use crate::iscsi::serve::PORTAL_GROUP;
use crate::iscsi::session::full::Which;
use crate::iscsi::session::login::Want;
use crate::iscsi::wire::keys::append;
use std::net::SocketAddr;
use std::rc::Rc;

impl Connection {
    /// Looks for targets and tells the session.
    pub(super) async fn discover(self: &Rc<Self>, which: Which) {
        let found = match (which, &self.target) {
            (Which::Own, Some(own)) => vec![own.clone()],
            (Which::Own, None) => Vec::new(),
            (Which::All, _) => self.service.targets.list(&self.visitor).await,
            (Which::Named(name), _) => self.named(&name).await.into_iter().collect(),
        };
        let mut text = Vec::new();
        for target in found {
            append(&mut text, "TargetName", target.as_str());
            if let Some(portal) = self.portal {
                append(&mut text, "TargetAddress", &address(portal));
            }
        }
        self.session.borrow_mut().discovered(&text);
        self.act();
    }
}

impl Connection {
    /// The target of that name, if its initiator may know of it.
    async fn named(&self, name: &str) -> Option<Name> {
        let want = Want::Target(Name::parse(name).ok()?);
        self.service.targets.demand(&want, &self.visitor).await.ok()?;
        let Want::Target(name) = want else { unreachable!("it was made so") };
        Some(name)
    }
}

/// A `TargetAddress` (section 13.8): the address at which the initiator came. A listener for both
/// families has those of IPv4 as mapped ones, and link-local ones with a scope that means nothing
/// elsewhere.
fn address(portal: SocketAddr) -> String {
    let portal = SocketAddr::new(portal.ip().to_canonical(), portal.port());
    format!("{portal},{}", PORTAL_GROUP.number())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV6;

    #[test]
    fn initiators_are_told_addresses_that_they_know() {
        for (portal, told) in [
            ("192.0.2.1:3260", "192.0.2.1:3260,1"),
            ("[::ffff:192.0.2.1]:3260", "192.0.2.1:3260,1"),
            ("[2001:db8::1]:3260", "[2001:db8::1]:3260,1"),
        ] {
            assert_eq!(address(portal.parse().expect("an address")), told);
        }
        let scoped = SocketAddrV6::new("fe80::1".parse().expect("an address"), 3260, 0, 7);
        assert_eq!(address(scoped.into()), "[fe80::1]:3260,1");
    }
}
