//! The proxy in one process with its clients and servers, on loopback.

mod ads;
mod config;
mod drain;
mod fuzz_corpus;
mod http;
mod metrics;
mod plane;
mod redirect;
mod support;
mod tcp;
