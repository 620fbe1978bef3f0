//! `/metrics` as a scraper sees it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Every sample of one scrape, by name and labels as written.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Asks `address`.
    #[track_caller]
    pub fn scrape(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).expect("the target listens for HTTP");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let samples = answer.lines().filter(|line| line.starts_with("landfall_"));
        Self { samples: samples.filter_map(sample).collect() }
    }

    /// One of them, such as `landfall_delta_refused_total{code="wrong_hash"}`.
    #[track_caller]
    pub fn get(&self, name: &str) -> f64 {
        let found = self.samples.get(name).copied();
        found.unwrap_or_else(|| panic!("there is no {name} in {:#?}", self.samples))
    }

    /// The sum of all of one family, whatever their labels.
    pub fn sum(&self, family: &str) -> f64 {
        let of = |name: &str| name.split('{').next() == Some(family);
        self.samples.iter().filter(|(name, _)| of(name)).map(|(_, value)| value).sum()
    }
}
