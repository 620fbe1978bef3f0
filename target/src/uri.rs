//! Ready-to-paste NBD URIs, by `doc/uri.md` of NetworkBlockDevice/nbd.
//!
//! ```text
//!   nbd+unix:///web/os@seq:12?socket=/var/lib/landfall/nbd.sock        nbd://127.0.0.1:10809/web/os@seq:12
//! ```
//!
//! Everything after the first slash of the path is the name of the export. Only what would end or change a part of the
//! URI is escaped, so that names stay readable.

use crate::config::NbdTls;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// Characters that may stand in a path as they are, besides letters and digits.
const PATH: &[u8] = b"-._~!$'()*,;=:@/";
/// Characters that may stand in a query value as they are, besides letters and digits.
const QUERY: &[u8] = b"-._~/:@";

/// The export `name` over the Unix socket at `socket`.
pub(crate) fn over_socket(name: &str, socket: &Path) -> String {
    let socket = escaped(socket.as_os_str().as_encoded_bytes(), QUERY);
    format!("nbd+unix:///{}?socket={socket}", escaped(name.as_bytes(), PATH))
}

/// The export `name` over TCP.
pub(crate) fn over_tcp(name: &str, address: SocketAddr, tls: NbdTls) -> String {
    let scheme = match tls {
        NbdTls::Off | NbdTls::Offered => "nbd",
        NbdTls::Required => "nbds",
    };
    format!("{scheme}://{address}/{}", escaped(name.as_bytes(), PATH))
}

fn escaped(bytes: &[u8], plain: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            text.push(char::from(*byte));
        } else {
            write!(text, "%{byte:02X}").expect("a string takes everything");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_readable() {
        let socket = Path::new("/var/lib/landfall/nbd.sock");
        assert_eq!(
            over_socket("web/os@2026-11-21T14:03:05.5Z", socket),
            "nbd+unix:///web/os@2026-11-21T14:03:05.5Z?socket=/var/lib/landfall/nbd.sock"
        );
        let address = "127.0.0.1:10809".parse().unwrap();
        assert_eq!(over_tcp("web~b/os", address, NbdTls::Off), "nbd://127.0.0.1:10809/web~b/os");
        let secured = over_tcp("web/os", address, NbdTls::Required);
        assert_eq!(secured, "nbds://127.0.0.1:10809/web/os");
        let six = "[::1]:10809".parse().unwrap();
        assert_eq!(over_tcp("web/os", six, NbdTls::Offered), "nbd://[::1]:10809/web/os");
    }

    #[test]
    fn what_would_end_a_part_is_escaped() {
        assert_eq!(
            over_socket("web/os@tag:50% ü?#", Path::new("/a b&c=d/x")),
            "nbd+unix:///web/os@tag:50%25%20%C3%BC%3F%23?socket=/a%20b%26c%3Dd/x"
        );
    }
}
