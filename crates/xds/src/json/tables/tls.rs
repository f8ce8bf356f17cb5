//! Certificates and where they are shown: `envoy.extensions.transport_sockets.tls.v3`. Keys are not for people.

use super::super::Kind::{Msg, Secret, Str};
use super::super::{Field, many, one};
use super::{DATA, SOURCE};

pub(super) const SECRET: &[Field] = &[
    one(1, "name", Str),
    one(2, "tls_certificate", Msg(CERTIFICATE)),
    one(3, "session_ticket_keys", Secret),
    one(5, "generic_secret", Secret),
];
const CERTIFICATE: &[Field] = &[one(1, "certificate_chain", Msg(DATA)), one(2, "private_key", Secret)];
pub(super) const DOWNSTREAM: &[Field] = &[one(
    1,
    "common_tls_context",
    Msg(&[
        many(2, "tls_certificates", Msg(CERTIFICATE)),
        many(4, "alpn_protocols", Str),
        many(
            6,
            "tls_certificate_sds_secret_configs",
            Msg(&[one(1, "name", Str), one(2, "sds_config", Msg(SOURCE))]),
        ),
    ]),
)];
