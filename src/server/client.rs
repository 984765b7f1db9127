//! What local commands see of their connection and of the server around it.
//!
//! Thread: the connection's loop.

use std::time::Duration;

use super::session::State;
use super::shared::{Backend, Shared, StopReason};
use super::{info, process};
use crate::command::{
    Abort, Client, ClientFilter, Latency, LatencyEvent, MemoryUse, Replies, SlowEntry,
};
use crate::protocol::Version;

/// See the module.
pub struct LocalClient<'a> {
    state: &'a mut State,
    shared: &'a Shared,
}

impl<'a> LocalClient<'a> {
    /// The connection with this state.
    pub fn new(state: &'a mut State, shared: &'a Shared) -> LocalClient<'a> {
        LocalClient { state, shared }
    }
}

impl Client for LocalClient<'_> {
    fn id(&self) -> u64 {
        self.state.entry.number
    }

    fn version(&self) -> Version {
        self.state.version
    }

    fn set_version(&mut self, version: Version) {
        self.state.version = version;
    }

    fn name(&self) -> Vec<u8> {
        self.state.entry.name()
    }

    fn set_name(&mut self, name: &[u8]) {
        self.state.entry.set_name(name);
    }

    fn select(&mut self, database: usize) -> bool {
        let chosen = self.shared.database(database);
        self.state.database = chosen.unwrap_or(self.state.database);
        chosen.is_some()
    }

    fn list(&self, filter: &ClientFilter) -> String {
        self.state.tell_of_turn();
        self.shared.registry.list(filter)
    }

    fn kill(&mut self, filter: &ClientFilter) -> usize {
        let (killed, me_too) = self.shared.registry.kill(filter, self.state.entry.number);
        self.state.closing |= me_too;
        killed
    }

    fn set_replies(&mut self, replies: Replies) {
        self.state.manners.set(replies);
    }

    fn set_no_evict(&mut self, wish: bool) {
        self.state.no_evict = wish;
    }

    fn pause(&mut self, time: Duration, all: bool) {
        self.shared.pause.begin(time, all);
    }

    fn unpause(&mut self) {
        self.shared.pause.end();
        self.shared.registry.announce_change();
    }

    fn has_password(&self) -> bool {
        self.shared.config.live.has_password()
    }

    fn is_authenticated(&self) -> bool {
        !self.state.is_guest(self.shared)
    }

    fn authenticate(&mut self, password: &[u8]) -> bool {
        let right = self.shared.config.live.is_password(password);
        self.state.authenticated |= right;
        right
    }

    fn unwatch(&mut self) {
        self.state.watch = None;
    }

    fn start_over(&mut self) {
        self.state.manners.start_over();
        (self.state.multi, self.state.watch) = (None, None);
        self.state.authenticated = !self.has_password();
    }

    fn slow_entries(&self, count: usize) -> Vec<SlowEntry> {
        self.shared.slowlog.newest(count)
    }

    fn slow_len(&self) -> usize {
        self.shared.slowlog.len()
    }

    fn forget_slow(&mut self) {
        self.shared.slowlog.clear();
    }

    fn latencies(&self) -> Vec<Latency> {
        let figures = self.shared.figures();
        let called = figures.used().filter(|(_, figures)| figures.calls > 0);
        let timed = called.map(|(command, figures)| Latency {
            name: command.name,
            calls: figures.calls,
            cumulative: figures.times.cumulative(),
        });
        timed.filter(|row| !row.cumulative.is_empty()).collect()
    }

    fn latency_events(&self) -> Vec<LatencyEvent> {
        self.shared.spikes.events()
    }

    fn forget_latency(&mut self, event: Option<&[u8]>) -> usize {
        self.shared.spikes.forget(event)
    }

    fn memory(&self) -> MemoryUse {
        let process = process::memory();
        let mut memory = MemoryUse { own: process.own, peak: process.peak, ..MemoryUse::default() };
        if let Some(Backend::Native(store)) = self.shared.backend.get() {
            let (points, order) = store.reader().all_index_memory();
            let view = store.reader().view();
            memory.index = (points + order) as u64;
            memory.keys = (0..self.shared.databases() as u8).map(|number| view.len(number)).sum();
            memory.live = store.reader().space().1;
        }
        memory
    }

    fn writes_are_durable(&self) -> bool {
        match self.shared.backend.get() {
            Some(Backend::Native(store)) => store.reader().is_durable(),
            _ => false,
        }
    }

    fn start_compaction(&mut self) -> Result<bool, Abort> {
        self.shared.start_compaction()
    }

    fn set_active_expiry(&mut self, active: bool) {
        if let Some(Backend::Native(store)) = self.shared.backend.get() {
            store.set_active_expiry(active);
        }
    }

    fn reset_stats(&mut self) {
        self.shared.reset_figures();
    }

    fn close(&mut self) {
        self.state.closing = true;
    }

    fn info(&self, sections: &[String]) -> String {
        info::text(self.shared, sections)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let databases = self.shared.databases().to_string();
        let of_engine = |(name, value)| match name {
            "databases" => (name, databases.clone()),
            _ => (name, value),
        };
        crate::config::get_all(&self.shared.config).map(of_engine).collect()
    }

    fn configure(&mut self, pairs: &[(&str, &str)]) -> Result<(), String> {
        crate::config::set_all(&self.shared.config, pairs)?;
        self.shared.settings_changed();
        Ok(())
    }

    fn rewrite_settings(&mut self) -> crate::error::Result<bool> {
        self.shared.config.rewrite()
    }

    fn last_backup(&self) -> u64 {
        self.shared.backups().map_or(0, |backups| backups.status().last_success_secs())
    }

    fn shutdown(&mut self) {
        log::info!("SHUTDOWN was called by {}", self.state.entry.peer.addr);
        // Full means that the stop is under way.
        let _ = self.shared.stop.try_send(StopReason::Command);
        self.state.closing = true;
    }
}
