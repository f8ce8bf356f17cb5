//! The proxy in one process with its clients and servers, on loopback.

mod ads;
mod config;
mod drain;
mod http;
mod metrics;
mod plane;
mod redirect;
mod support;
mod tcp;
