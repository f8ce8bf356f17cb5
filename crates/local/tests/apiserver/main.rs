//! The API server over real TLS on loopback, used through kube-rs and plain HTTP.

mod aggregation;
mod fixture;
mod identity;
mod kubelet;
mod lifecycle;
mod objects;
mod watching;
