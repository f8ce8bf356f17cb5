//! The proxy in one process with its clients and servers, on loopback.

mod ads;
mod balance;
mod breakers;
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
mod outlier;
mod plane;
mod redirect;
mod retries;
mod routes;
mod sides;
mod streams;
mod support;
mod tcp;
mod tls;
mod tracing;
