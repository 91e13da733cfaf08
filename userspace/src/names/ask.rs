//! Asking a name server.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RecordType},
};

use tracing::warn;

use crate::objects::Host;

const DNS_PORT: u16 = 53;
/// How long a question waits for its answer, and how often it is put.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;

/// Resolving cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The resolver cannot be made.
    #[error("cannot make a resolver")]
    Build(#[source] NetError),
}

/// Where to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

/// It is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address with an optional port, such as 10.96.0.10, 127.0.0.1:5353 or [::1]:5353")]
pub struct ParseNameServerError(String);

impl FromStr for NameServer {
    type Err = ParseNameServerError;

    fn from_str(text: &str) -> Result<Self, ParseNameServerError> {
        let address = text
            .parse::<SocketAddr>()
            .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)));
        address
            .map(Self)
            .map_err(|_| ParseNameServerError(text.to_owned()))
    }
}

/// What was said of the addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// These, for so long; none is an answer, too.
    Addresses(BTreeSet<IpAddr>, Duration),
    /// Nothing: it is not known whether what was known is still true.
    Failed(String),
}

/// What was said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) v4: Answer,
    pub(super) v6: Answer,
}

/// Asks.
pub(super) struct Ask {
    /// Or why nobody can be asked: a node without a resolver still has rules to be held to.
    resolver: Result<TokioResolver, String>,
}

impl Ask {
    pub(super) fn new(server: Option<NameServer>) -> Result<Self, ResolverError> {
        let mut builder = match server {
            None => match TokioResolver::builder_tokio() {
                Ok(builder) => builder,
                Err(error) => {
                    let message = format!(
                        "cannot use the system's resolver configuration, /etc/resolv.conf ({error}); name a server with --resolver"
                    );
                    warn!(message);
                    return Ok(Self {
                        resolver: Err(message),
                    });
                }
            },
            Some(NameServer(address)) => {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut server.connections {
                    connection.port = address.port();
                }
                let config = ResolverConfig::from_name_servers(vec![server]);
                let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
                builder.options_mut().use_hosts_file = ResolveHosts::Never;
                builder
            }
        };
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        // When to ask again is decided here.
        options.cache_size = 0;
        let resolver = builder.build().map_err(ResolverError::Build)?;
        Ok(Self {
            resolver: Ok(resolver),
        })
    }

    pub(super) async fn ask(&self, host: &Host) -> Outcome {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(message) => {
                let failed = Answer::Failed(message.clone());
                return Outcome {
                    v4: failed.clone(),
                    v6: failed,
                };
            }
        };
        // Search domains are not for names that others declare.
        let name = match Name::from_utf8(host.as_str()) {
            Ok(mut name) => {
                name.set_fqdn(true);
                name
            }
            Err(error) => {
                let failed = Answer::Failed(error.to_string());
                return Outcome {
                    v4: failed.clone(),
                    v6: failed,
                };
            }
        };
        let (v4, v6) = tokio::join!(
            resolver.lookup(name.clone(), RecordType::A),
            resolver.lookup(name.clone(), RecordType::AAAA),
        );
        Outcome {
            v4: answer(v4),
            v6: answer(v6),
        }
    }
}

fn answer(result: Result<hickory_resolver::lookup::Lookup, NetError>) -> Answer {
    match result {
        Ok(lookup) => {
            let ttl = lookup
                .answers()
                .iter()
                .map(|record| record.ttl)
                .min()
                .unwrap_or_default();
            let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
            Answer::Addresses(addresses.map(|addr| addr.to_canonical()).collect(), seconds(ttl))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { negative_ttl, .. }))) => {
            Answer::Addresses(BTreeSet::new(), seconds(negative_ttl.unwrap_or_default()))
        }
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(u64::from(ttl))
}
