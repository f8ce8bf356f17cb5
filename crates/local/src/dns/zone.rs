//! Services and EndpointSlices -> names and records, as the Kubernetes DNS specification has them. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use crate::controllers::SERVICE_NAME;

const DOMAIN: &str = "cluster.local";
/// Seconds; short, since addresses come and go.
const TTL: u32 = 5;
/// A chain of ExternalNames longer than this is a loop.
const CNAMES_MAX: usize = 8;
/// Networks whose reverse names are ours, known or not: pods and Services.
const OWN_NETWORKS: [[u8; 2]; 2] = [[10, 244], [10, 96]];

/// The whole of `cluster.local`, and the reverse names of Services.
#[derive(Debug, Default)]
pub struct Zone {
    /// By name in lower case without the last dot. A name without records is a step on the way to one that has some.
    records: HashMap<String, Vec<RData>>,
    reverse: HashMap<Ipv4Addr, Name>,
}

/// What the zone says to a question.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    /// Goes along with an answer without records.
    pub soa: Option<Record>,
    /// The answer ends with an alias of this name outside the cluster.
    pub continues: Option<Name>,
}

impl Zone {
    pub fn build(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Self {
        let mut by_service: BTreeMap<(Option<String>, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            if let Some(name) = slice.labels().get(SERVICE_NAME) {
                by_service.entry((slice.namespace(), name)).or_default().push(slice);
            }
        }
        let mut zone = Self::default();
        zone.insert(
            &format!("dns-version.{DOMAIN}"),
            RData::TXT(TXT::new(vec!["1.1.0".into()])),
        );
        zone.touch(&format!("svc.{DOMAIN}"));
        zone.touch(&format!("pod.{DOMAIN}"));
        for service in services {
            let key = (service.namespace(), service.name_any());
            let own = by_service.get(&(key.0, key.1.as_str())).map_or(&[][..], Vec::as_slice);
            zone.add_service(service, own);
        }
        zone
    }

    fn add_service(&mut self, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let full = format!(
            "{}.{}.svc.{DOMAIN}",
            service.name_any(),
            service.namespace().unwrap_or_default()
        );
        let Ok(name) = absolute(&full) else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(Ok(target)) = spec.external_name.as_deref().map(absolute) {
                self.insert(&full, RData::CNAME(CNAME(target)));
            }
            return;
        }
        if let Some(address) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) {
            self.insert(&full, RData::A(A(address)));
            self.reverse.insert(address, name.clone());
            for port in spec.ports.iter().flatten() {
                let Ok(number) = u16::try_from(port.port) else { continue };
                self.add_port(&full, port.name.as_deref(), port.protocol.as_deref(), number, &name);
            }
        } else if spec.cluster_ip.as_deref() == Some("None") {
            self.touch(&full);
            slices.iter().for_each(|slice| self.add_endpoints(&full, slice));
        }
    }

    /// A headless Service's name has the addresses of its endpoints, each of which has a name of its own.
    fn add_endpoints(&mut self, full: &str, slice: &EndpointSlice) {
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true)
        });
        for endpoint in ready {
            for address in endpoint
                .addresses
                .iter()
                .filter_map(|address| address.parse::<Ipv4Addr>().ok())
            {
                let label = endpoint
                    .hostname
                    .clone()
                    .unwrap_or_else(|| address.to_string().replace('.', "-"));
                let own = format!("{label}.{full}");
                let Ok(name) = absolute(&own) else { continue };
                self.insert(full, RData::A(A(address)));
                self.insert(&own, RData::A(A(address)));
                self.reverse.entry(address).or_insert(name.clone());
                for port in slice.ports.iter().flatten() {
                    let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()) else {
                        continue;
                    };
                    self.add_port(full, port.name.as_deref(), port.protocol.as_deref(), number, &name);
                }
            }
        }
    }

    /// `_name._protocol.service`, for ports that have a name.
    fn add_port(&mut self, full: &str, name: Option<&str>, protocol: Option<&str>, number: u16, target: &Name) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
            self.insert(
                &format!("_{name}._{protocol}.{full}"),
                RData::SRV(SRV::new(0, 100, number, target.clone())),
            );
        }
    }

    fn insert(&mut self, name: &str, data: RData) {
        self.touch(name);
        let records = self.records.entry(name.to_ascii_lowercase()).or_default();
        if !records.contains(&data) {
            records.push(data);
        }
    }

    /// Makes a name exist, and all names above it.
    fn touch(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        let mut rest = name.as_str();
        loop {
            self.records.entry(rest.to_owned()).or_default();
            match rest.split_once('.') {
                Some((_, parent)) if rest != DOMAIN => rest = parent,
                _ => return,
            }
        }
    }

    /// Answers a question about a name of the cluster; None if it is not one.
    pub fn answer(&self, name: &Name, type_: RecordType) -> Option<Answer> {
        let text = lower(name);
        if text != DOMAIN && !text.ends_with(&format!(".{DOMAIN}")) {
            return self.answer_reverse(name, &text, type_);
        }
        let mut answer = Answer {
            code: ResponseCode::NoError,
            answers: Vec::new(),
            soa: None,
            continues: None,
        };
        let (mut name, mut text) = (name.clone(), text);
        for _ in 0..CNAMES_MAX {
            let Some(records) = self.lookup(&text) else {
                // Of an alias only the target is unknown: the alias itself was found.
                if answer.answers.is_empty() {
                    answer.code = ResponseCode::NXDomain;
                }
                break;
            };
            let fitting = records
                .iter()
                .filter(|data| type_ == RecordType::ANY || data.record_type() == type_);
            answer
                .answers
                .extend(fitting.map(|data| Record::from_rdata(name.clone(), TTL, data.clone())));
            let alias = records.iter().find_map(|data| match data {
                RData::CNAME(target) if !matches!(type_, RecordType::CNAME | RecordType::ANY) => Some(target.0.clone()),
                _ => None,
            });
            let Some(target) = alias else { break };
            answer
                .answers
                .push(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone()))));
            (name, text) = (target.clone(), lower(&target));
            if !text.ends_with(DOMAIN) {
                answer.continues = Some(target);
                break;
            }
        }
        if answer.answers.is_empty() {
            answer.soa = soa(DOMAIN);
        }
        Some(answer)
    }

    fn lookup(&self, text: &str) -> Option<std::borrow::Cow<'_, [RData]>> {
        if let Some(records) = self.records.get(text) {
            return Some(records.as_slice().into());
        }
        pod_address(text).map(|data| data.into())
    }

    fn answer_reverse(&self, name: &Name, text: &str, type_: RecordType) -> Option<Answer> {
        let digits = text.strip_suffix(".in-addr.arpa")?;
        let mut bytes = digits
            .split('.')
            .map(|byte| byte.parse::<u8>().ok())
            .collect::<Option<Vec<_>>>()?;
        bytes.reverse();
        let address = <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)?;
        let known = self.reverse.get(&address);
        let ours = OWN_NETWORKS.iter().any(|network| address.octets()[..2] == network[..]);
        if known.is_none() && !ours {
            return None;
        }
        let answers: Vec<Record> = known
            .filter(|_| matches!(type_, RecordType::PTR | RecordType::ANY))
            .map(|target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target.clone()))))
            .into_iter()
            .collect();
        let code = if known.is_some() {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        };
        let soa = if answers.is_empty() { soa("in-addr.arpa") } else { None };
        Some(Answer {
            code,
            answers,
            soa,
            continues: None,
        })
    }
}

/// `1-2-3-4.namespace.pod.cluster.local` is 1.2.3.4, whether such a pod exists or not.
fn pod_address(text: &str) -> Option<Vec<RData>> {
    let rest = text.strip_suffix(DOMAIN)?.strip_suffix(".pod.")?;
    let (dashed, namespace) = rest
        .split_once('.')
        .map_or((None, rest), |(ip, namespace)| (Some(ip), namespace));
    if namespace.contains('.') {
        return None;
    }
    match dashed {
        // The namespace itself is a name without records.
        None => Some(Vec::new()),
        Some(dashed) => {
            let address = dashed.replace('-', ".").parse::<Ipv4Addr>().ok()?;
            Some(vec![RData::A(A(address))])
        }
    }
}

fn lower(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn absolute(text: &str) -> Result<Name, hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(text)?;
    name.set_fqdn(true);
    Ok(name)
}

/// Says how long the absence of a name may be believed.
fn soa(zone: &str) -> Option<Record> {
    let server = absolute(&format!("ns.dns.{DOMAIN}")).ok()?;
    let mail = absolute(&format!("hostmaster.{DOMAIN}")).ok()?;
    let data = SOA::new(server, mail, 1, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(absolute(zone).ok()?, TTL, RData::SOA(data)))
}
