//! The chain that serves a connection, as the configuration changes under it.
//!
//! Enters: configurations. Leaves: the chain of the present one, and the word that the connection should end.

use std::sync::Arc;

use crate::config::{Active, Filter, Http, HttpStats};
use crate::flow::Flow;

/// The chain of one downstream connection.
pub struct Chain {
    /// Of the configuration of this version.
    version: u64,
    /// As configured.
    pub http: Arc<Http>,
    /// Its counters.
    pub stats: Arc<HttpStats>,
    /// The client came encrypted.
    pub secure: bool,
    /// The configuration no longer serves this connection as HTTP.
    outdated: bool,
}

impl Chain {
    /// As the configuration `version` has it.
    pub fn new(http: Arc<Http>, stats: Arc<HttpStats>, version: u64, secure: bool) -> Self {
        Self {
            version,
            http,
            stats,
            secure,
            outdated: false,
        }
    }

    /// Becomes what the present configuration has for the connection.
    pub fn follow(&mut self, flow: &Flow, active: &Active) {
        if self.version == active.version {
            return;
        }
        self.version = active.version;
        match flow.choose(active).map(|chain| chain.filter) {
            Some(Filter::Http(http)) => {
                self.stats = active.stats_of(&http);
                (self.http, self.outdated) = (http, false);
            }
            _ => self.outdated = true,
        }
    }

    /// Whether the client should be told to come back on another connection.
    pub fn is_ending(&self, flow: &Flow) -> bool {
        self.outdated || flow.worker.shared.life.sends_away(flow.direction)
    }
}
