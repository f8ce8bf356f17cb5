//! Tests of the crate from outside: scripts of loads and evaluations, and the HTTP API over a socket.

mod alike;
mod differential;
mod http_api;
mod literal;
mod peers;
mod remote;
mod rules;
mod scripts;
mod tls;
mod traffic;
