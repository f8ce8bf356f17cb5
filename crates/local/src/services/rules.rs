//! Services and their endpoints -> nftables rules. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

use crate::controllers::SERVICE_NAME;

/// Removes everything that `render` makes.
pub(super) const REMOVE: &str = "add table ip weir-services\ndelete table ip weir-services\n";

const COMMENT_CHARS_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn parse(protocol: Option<&str>) -> Option<Self> {
        match protocol.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of one Service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Destination {
    name: String,
    /// Always the same endpoint for a client, as long as the endpoints stay the same.
    by_client: bool,
    endpoints: BTreeSet<(Ipv4Addr, u16)>,
}

/// What is to be translated.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Addresses of Services: what goes there and is no destination with endpoints is refused.
    addresses: BTreeSet<Ipv4Addr>,
    destinations: BTreeMap<(Ipv4Addr, Transport, u16), Destination>,
}

pub(super) fn table(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Table {
    let mut by_service: BTreeMap<(Option<String>, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        if let Some(name) = slice.labels().get(SERVICE_NAME) {
            by_service.entry((slice.namespace(), name)).or_default().push(slice);
        }
    }
    let mut table = Table::default();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let Some(address) = address.filter(|_| spec.type_.as_deref() != Some("ExternalName")) else {
            continue;
        };
        table.addresses.insert(address);
        let name = service.name_any();
        let own = by_service
            .get(&(service.namespace(), name.as_str()))
            .map_or(&[][..], Vec::as_slice);
        for port in spec.ports.iter().flatten() {
            let transport = Transport::parse(port.protocol.as_deref());
            let (Some(transport), Ok(number)) = (transport, u16::try_from(port.port)) else {
                continue;
            };
            let port_name = port.name.as_deref().unwrap_or_default();
            let destination = Destination {
                name: format!("{}/{name}:{port_name}", service.namespace().unwrap_or_default()),
                by_client: spec.session_affinity.as_deref() == Some("ClientIP"),
                endpoints: endpoints(own, port_name, transport),
            };
            table.destinations.insert((address, transport, number), destination);
        }
    }
    table
}

/// Ready endpoints; if there are none, those that still serve although they are about to end.
fn endpoints(slices: &[&EndpointSlice], port: &str, transport: Transport) -> BTreeSet<(Ipv4Addr, u16)> {
    let condition = |endpoint: &Endpoint, of: fn(&_) -> Option<bool>| endpoint.conditions.as_ref().and_then(of);
    let is_ready = |endpoint: &Endpoint| {
        condition(endpoint, |c: &k8s_openapi::api::discovery::v1::EndpointConditions| {
            c.ready
        })
        .unwrap_or(true)
    };
    let still_serves = |endpoint: &Endpoint| {
        condition(endpoint, |c| c.serving) == Some(true) && condition(endpoint, |c| c.terminating) == Some(true)
    };
    let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let mut ports = slice.ports.iter().flatten();
        let found = ports.find(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == port
                && Transport::parse(candidate.protocol.as_deref()) == Some(transport)
        });
        let number = found
            .and_then(|port| port.port)
            .and_then(|number| u16::try_from(number).ok());
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            // More than one address of an endpoint means the same thing: the first.
            let address = endpoint
                .addresses
                .first()
                .and_then(|address| address.parse::<Ipv4Addr>().ok());
            let Some(address) = address else { continue };
            if is_ready(endpoint) {
                ready.insert((address, number));
            } else if still_serves(endpoint) {
                ending.insert((address, number));
            }
        }
    }
    if ready.is_empty() { ending } else { ready }
}

/// One transaction: the old table goes and the new one comes at the same moment.
pub(super) fn render(table: &Table) -> String {
    let mut text = format!("{REMOVE}table ip weir-services {{\n");
    let reachable = || {
        table
            .destinations
            .iter()
            .filter(|(_, destination)| !destination.endpoints.is_empty())
    };
    let chain =
        |(address, transport, port): &(Ipv4Addr, Transport, u16)| format!("{}_{address}_{port}", transport.name());

    let addresses = table.addresses.iter().map(Ipv4Addr::to_string);
    set(&mut text, "set addresses", "ipv4_addr", addresses.collect());
    let pods: BTreeSet<Ipv4Addr> = reachable()
        .flat_map(|(_, d)| d.endpoints.iter().map(|(ip, _)| *ip))
        .collect();
    set(
        &mut text,
        "set to_itself",
        "ipv4_addr . ipv4_addr",
        pods.iter().map(|ip| format!("{ip} . {ip}")).collect(),
    );
    for (key, destination) in reachable() {
        push_destination(&mut text, &chain(key), key.1, destination);
    }
    let verdicts =
        reachable().map(|(key, _)| format!("{} . {} . {} : goto {}", key.0, key.1.name(), key.2, chain(key)));
    set(
        &mut text,
        "map destinations",
        "ipv4_addr . inet_proto . inet_service : verdict",
        verdicts.collect(),
    );

    text.push_str(
        "  chain translate {
    ip daddr . meta l4proto . th dport vmap @destinations
  }
  chain prerouting {
    type nat hook prerouting priority dstnat
    jump translate
  }
  chain output {
    type nat hook output priority -100
    jump translate
  }
  # A pod that reaches itself by its Service must see the answer come back from where it sent to.
  chain postrouting {
    type nat hook postrouting priority srcnat
    ip saddr . ip daddr @to_itself masquerade
  }
  # What still has a Service's address here was not translated: nobody is behind that port.
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject with icmp type port-unreachable
  }
  chain refuse_forwarded {
    type filter hook prerouting priority filter
    ip daddr @addresses goto refuse
  }
  chain refuse_own {
    type filter hook output priority filter
    ip daddr @addresses goto refuse
  }
}
",
    );
    text
}

fn set(text: &mut String, what: &str, type_: &str, elements: Vec<String>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {what} {{\n    type {type_}");
    if !elements.is_empty() {
        let _ = writeln!(text, "    elements = {{\n      {}\n    }}", elements.join(",\n      "));
    }
    text.push_str("  }\n");
}

fn push_destination(text: &mut String, chain: &str, transport: Transport, destination: &Destination) {
    let endpoints: Vec<String> = destination
        .endpoints
        .iter()
        .map(|(ip, port)| format!("{ip} . {port}"))
        .collect();
    let choice = if destination.by_client {
        "jhash ip saddr"
    } else {
        "numgen inc"
    };
    let target = match destination.endpoints.first() {
        Some((ip, port)) if endpoints.len() == 1 => format!("{ip}:{port}"),
        _ => {
            let numbered: Vec<String> = endpoints
                .iter()
                .enumerate()
                .map(|(n, e)| format!("{n} : {e}"))
                .collect();
            format!("{choice} mod {} map {{ {} }}", endpoints.len(), numbered.join(", "))
        }
    };
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "-./:".contains(*c);
    let comment: String = destination
        .name
        .chars()
        .filter(allowed)
        .take(COMMENT_CHARS_MAX)
        .collect();
    let _ = writeln!(
        text,
        "  chain {chain} {{\n    meta l4proto {} dnat to {target} comment \"{comment}\"\n  }}",
        transport.name()
    );
}
