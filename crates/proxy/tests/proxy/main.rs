//! The proxy in one process with its clients and servers, on loopback.

mod ads;
mod config;
mod counting;
mod drain;
mod edge;
mod engines;
mod faults;
mod fuzz_corpus;
mod grpc;
mod h2;
mod http;
mod metrics;
mod mirror;
mod plane;
mod redirect;
mod routes;
mod sides;
mod streams;
mod support;
mod tcp;
mod tls;
mod tracing;
