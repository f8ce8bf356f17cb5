//! A head that routes look at and change: what goes is dropped from the lines that came, what comes stands behind them.

use std::borrow::Cow;

use http::header::{HeaderName, HeaderValue};
use httparse::Header;

use super::{Headers, Request};
use crate::config::route::edit::{Editable, Fields};
use crate::config::route::matching::Head;
use crate::http::headers::{self, FORWARDED_PROTO, REQUEST_ID};

impl Fields for Headers<'_, '_> {
    fn has(&self, name: &HeaderName) -> bool {
        self.get(name.as_str()).is_some() || self.added.has(name)
    }

    fn remove(&mut self, name: &HeaderName) {
        self.drop_named(name.as_str());
        Fields::remove(&mut self.added, name);
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        Fields::append(&mut self.added, name, value);
    }
}

impl Head for Request<'_, '_> {
    fn method(&self) -> &str {
        self.method
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn scheme(&self) -> &str {
        let mut said = None;
        if self.forwarded {
            self.values(FORWARDED_PROTO.as_str(), &mut |value| said = Some(value == b"https"));
        }
        headers::scheme(said.unwrap_or(self.secure))
    }

    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        let same = |f: &&Header<'_>| f.name.len() == name.len() && f.name.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).for_each(|f| see(f.value));
        let added = self.headers.added.iter().filter(|(n, _)| n == name);
        added.for_each(|(_, value)| see(value.as_bytes()));
        if !self.forwarded && name == FORWARDED_PROTO {
            see(headers::scheme(self.secure).as_bytes());
        }
    }
}

impl Fields for Request<'_, '_> {
    fn has(&self, name: &HeaderName) -> bool {
        self.headers.has(name)
    }

    fn remove(&mut self, name: &HeaderName) {
        self.headers.remove(name);
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.headers.append(name, value);
    }
}

impl Editable for Request<'_, '_> {
    fn set_target(&mut self, target: String) {
        self.target = Cow::Owned(target);
    }

    fn set_host(&mut self, host: &str) {
        self.headers.drop_named("host");
        (self.host, self.absolute, self.hostless) = (Cow::Owned(host.to_owned()), true, false);
    }

    fn settle(&mut self, request_id: bool) {
        if !std::mem::replace(&mut self.forwarded, true) {
            let scheme = HeaderValue::from_static(headers::scheme(self.secure));
            self.append(&FORWARDED_PROTO, &scheme);
        }
        if request_id && !std::mem::replace(&mut self.identified, true) {
            self.append(&REQUEST_ID, &headers::request_id());
        }
    }

    fn protocol(&self) -> &'static str {
        if self.one_one { "HTTP/1.1" } else { "HTTP/1.0" }
    }
}
