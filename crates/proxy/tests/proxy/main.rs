//! The proxy in one process with its clients and servers, on loopback.

mod ads;
mod config;
mod drain;
mod http;
mod metrics;
mod support;
mod tcp;
