//! What the plugins before have done: `prevResult`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// The part of a result that all versions from 0.3.0 on have in common.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Outcome {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
}

#[derive(Clone, Debug, Deserialize)]
struct Interface {
    /// The network namespace that it is in; none for one on the node.
    #[serde(default)]
    sandbox: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Ip {
    address: IpNet,
    /// Which of the interfaces has it.
    interface: Option<usize>,
}

/// An address is said to be of an interface that is not there.
#[derive(Debug, thiserror::Error)]
#[error("prevResult: {address} is said to be of interface {index}, and there are {count}")]
pub(super) struct NoInterface {
    address: IpNet,
    index: usize,
    count: usize,
}

impl Outcome {
    /// The addresses of the container's interfaces. One that is said to be of no interface is the container's.
    pub(super) fn addresses(&self) -> Result<Vec<IpAddr>, NoInterface> {
        let mut addresses = Vec::new();
        for Ip { address, interface } in &self.ips {
            let inside = match interface {
                None => true,
                Some(index) => {
                    let found = self.interfaces.get(*index);
                    let interface = found.ok_or(NoInterface {
                        address: *address,
                        index: *index,
                        count: self.interfaces.len(),
                    })?;
                    !interface.sandbox.is_empty()
                }
            };
            if inside {
                addresses.push(address.addr());
            }
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Result<Vec<IpAddr>, NoInterface> {
        serde_json::from_str::<Outcome>(text)
            .expect("a result")
            .addresses()
    }

    #[test]
    fn addresses_of_the_nodes_side_are_not_the_pods() {
        let text = r#"{"cniVersion": "1.0.0",
            "interfaces": [{"name": "veth0", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/a"}],
            "ips": [{"address": "10.0.0.1/24", "interface": 0},
                {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1},
                {"address": "fd00::2/64", "interface": 1}], "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}"#;
        let expected: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(text).unwrap(), expected);
    }

    #[test]
    fn older_versions_and_results_without_interfaces_are_read() {
        let text = r#"{"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.0.0.2/32"}]}"#;
        assert_eq!(addresses(text).unwrap(), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert!(addresses("{}").unwrap().is_empty());
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let error = addresses(r#"{"interfaces": [], "ips": [{"address": "10.0.0.2/32", "interface": 0}]}"#)
            .unwrap_err();
        assert!(error.to_string().contains("interface 0"), "{error}");
    }
}
