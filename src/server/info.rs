//! What INFO says. Field names are Redis's where Redis has the field; section `kvs` is our own.
//!
//! Thread: an event loop; reads counters only.

use std::fmt::{Display, Write};
use std::time::Duration;

use super::process::{self, human};
use super::shared::{Backend, Shared};
use crate::command::{REDIS_VERSION, now_ms};
use crate::engine::{BackupStatus, DATABASES};

struct Section {
    name: &'static str,
    write: fn(&Shared, &mut String),
    /// Whether it is shown if no section is named.
    usual: bool,
}

const fn section(name: &'static str, write: fn(&Shared, &mut String)) -> Section {
    Section { name, write, usual: true }
}

const fn on_request(name: &'static str, write: fn(&Shared, &mut String)) -> Section {
    Section { name, write, usual: false }
}

const SECTIONS: [Section; 13] = [
    section("Server", server),
    section("Clients", clients),
    section("Memory", memory),
    section("Persistence", persistence),
    section("Stats", stats),
    section("Replication", replication),
    section("CPU", cpu),
    on_request("Commandstats", commandstats),
    section("Errorstats", errorstats),
    on_request("Latencystats", latencystats),
    section("Cluster", |_, text| put(text, "cluster_enabled", 0)),
    section("Kvs", kvs),
    section("Keyspace", keyspace),
];

/// The text of INFO: the sections asked for (in lower case), or the usual ones.
pub fn text(shared: &Shared, sections: &[String]) -> String {
    let asked = |name: &str| sections.iter().any(|wanted| *wanted == name);
    let all = asked("all") || asked("everything");
    let usual = sections.is_empty() || asked("default");
    let mut text = String::new();
    for section in SECTIONS {
        if all || (usual && section.usual) || asked(&section.name.to_ascii_lowercase()) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            text += &format!("# {}\r\n", section.name);
            (section.write)(shared, &mut text);
        }
    }
    text
}

fn put(text: &mut String, name: &str, value: impl Display) {
    // Writing to a string does not fail.
    let _ = write!(text, "{name}:{value}\r\n");
}

/// What Redis has, and who reads INFO by name may miss, but is never anything else here.
fn put_zeros(text: &mut String, names: &[&str]) {
    names.iter().for_each(|name| put(text, name, 0));
}

/// A size, and the same for people.
fn put_size(text: &mut String, name: &str, bytes: u64) {
    put(text, name, bytes);
    put(text, &format!("{name}_human"), human(bytes));
}

fn server(shared: &Shared, text: &mut String) {
    let up = shared.started.elapsed().as_secs();
    put(text, "redis_version", REDIS_VERSION);
    put(text, "redis_git_sha1", "00000000");
    put(text, "redis_git_dirty", 0);
    put(text, "redis_build_id", 0);
    put(text, "redis_mode", "standalone");
    put(text, "os", format_args!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    put(text, "arch_bits", usize::BITS);
    put(text, "multiplexing_api", "epoll");
    put(text, "process_id", std::process::id());
    put(text, "run_id", &shared.run_id);
    put(text, "tcp_port", shared.config.addr.port());
    put(text, "server_time_usec", now_ms() * 1000);
    put(text, "uptime_in_seconds", up);
    put(text, "uptime_in_days", up / 86_400);
    put(text, "hz", 10);
    put(text, "configured_hz", 10);
    let executable = std::env::current_exe().unwrap_or_default();
    put(text, "executable", executable.display());
    let file = shared.config.file.clone().unwrap_or_default();
    put(text, "config_file", file.display());
}

fn clients(shared: &Shared, text: &mut String) {
    put(text, "connected_clients", shared.registry.connected());
    put(text, "cluster_connections", 0);
    put(text, "maxclients", shared.config.live.max_clients.get());
    put(text, "blocked_clients", shared.registry.held());
    put(text, "tracking_clients", 0);
}

/// What `maxmemory` bounds is the index: `index_bytes`.
fn memory(shared: &Shared, text: &mut String) {
    let memory = process::memory();
    put_size(text, "used_memory", memory.own);
    put_size(text, "used_memory_rss", memory.resident);
    put_size(text, "used_memory_peak", memory.peak);
    let part = 100.0 * memory.own as f64 / memory.peak.max(1) as f64;
    put(text, "used_memory_peak_perc", format_args!("{part:.2}%"));
    if let Some(Backend::Native(store)) = shared.backend.get() {
        let (points, order) = store.reader().all_index_memory();
        put(text, "index_bytes", points + order);
        put(text, "index_points_bytes", points);
        put(text, "index_order_bytes", order);
    }
    put_size(text, "total_system_memory", memory.machine);
    put_size(text, "maxmemory", shared.config.live.max_memory.count() as u64);
    put(text, "maxmemory_policy", "noeviction");
    let ratio = memory.resident as f64 / memory.own.max(1) as f64;
    put(text, "mem_fragmentation_ratio", format_args!("{ratio:.2}"));
    put(text, "mem_allocator", "libc");
    put_zeros(text, &["lazyfree_pending_objects", "lazyfreed_objects"]);
}

fn persistence(shared: &Shared, text: &mut String) {
    let store = match shared.backend.get() {
        Some(Backend::Native(store)) => Some(store),
        _ => None,
    };
    let cause = store.and_then(|store| store.reader().health().err());
    let full = store.is_some_and(|store| store.reader().disk_is_full());
    let status = if cause.is_none() && !full { "ok" } else { "err" };
    put(text, "loading", u8::from(shared.backend.get().is_none()));
    put(text, "async_loading", 0);
    if shared.backend.get().is_none() {
        loading(shared, text);
    }
    if let Some(store) = store {
        backups(store.reader().backups().status(), shared.engine_stats.group_records.get(), text);
    }
    put(text, "aof_enabled", u8::from(store.is_some()));
    put(text, "aof_rewrite_in_progress", u8::from(shared.is_compacting()));
    put(text, "aof_rewrite_scheduled", 0);
    put(text, "aof_last_bgrewrite_status", "ok");
    put(text, "aof_last_write_status", status);
    if let Some(store) = store {
        let (total, live) = store.reader().space();
        put(text, "aof_current_size", total);
        put(text, "aof_base_size", live);
        put(text, "disk_full", u8::from(full));
    }
    if let Some(cause) = cause {
        put(text, "writes_refused_since", cause);
    }
}

/// How far the opening of the store is.
fn loading(shared: &Shared, text: &mut String) {
    let (done, total) = (shared.engine_stats.load_done.get(), shared.engine_stats.load_total.get());
    let took = shared.started.elapsed().as_secs();
    let left = took as f64 * total.saturating_sub(done) as f64 / done.max(1) as f64;
    put(text, "loading_start_time", (now_ms() / 1000).saturating_sub(took));
    put(text, "loading_total_bytes", total);
    put(text, "loading_loaded_bytes", done);
    let percent = 100.0 * done as f64 / total.max(1) as f64;
    put(text, "loading_loaded_perc", format_args!("{percent:.2}"));
    put(text, "loading_eta_seconds", left.ceil() as u64);
}

/// `written`: how many records there were so far.
fn backups(status: BackupStatus, written: u64, text: &mut String) {
    let seconds = |time: Option<Duration>| time.map_or(-1, |time| time.as_secs() as i64);
    put(text, "rdb_changes_since_last_save", written.saturating_sub(status.records));
    put(text, "rdb_bgsave_in_progress", u8::from(status.running.is_some()));
    put(text, "rdb_last_save_time", status.last_success_secs());
    put(text, "rdb_last_bgsave_status", if status.is_well { "ok" } else { "err" });
    put(text, "rdb_last_bgsave_time_sec", seconds(status.took));
    put(text, "rdb_current_bgsave_time_sec", seconds(status.running.map(|at| at.elapsed())));
}

fn stats(shared: &Shared, text: &mut String) {
    let figures = shared.figures();
    let counts = &figures.counts;
    put(text, "total_connections_received", counts.accepted);
    put(text, "total_commands_processed", figures.processed);
    let rates = shared.book.rates();
    put(text, "instantaneous_ops_per_sec", rates.commands.round() as u64);
    put(text, "total_net_input_bytes", counts.bytes_in);
    put(text, "total_net_output_bytes", counts.bytes_out);
    let kilobytes = |bytes: f64| format!("{:.2}", bytes / 1024.0);
    put(text, "instantaneous_input_kbps", kilobytes(rates.bytes_in));
    put(text, "instantaneous_output_kbps", kilobytes(rates.bytes_out));
    put(text, "rejected_connections", counts.rejected);
    put(text, "cut_off_connections", counts.cut_off);
    put(text, "expired_keys", figures.expired);
    put_zeros(text, &["sync_full", "sync_partial_ok", "sync_partial_err"]);
    put_zeros(text, &["evicted_keys", "evicted_clients"]);
    put(text, "keyspace_hits", figures.hits);
    put(text, "keyspace_misses", figures.misses);
    put_zeros(text, &["pubsub_channels", "pubsub_patterns", "pubsubshard_channels"]);
    put_zeros(text, &["latest_fork_usec", "total_forks", "unexpected_error_replies"]);
    put(text, "total_error_replies", figures.errors.values().sum::<u64>());
}

fn replication(shared: &Shared, text: &mut String) {
    put(text, "role", "master");
    put(text, "connected_slaves", 0);
    put(text, "master_failover_state", "no-failover");
    put(text, "master_replid", &shared.run_id);
    put(text, "master_replid2", "0".repeat(40));
    put(text, "master_repl_offset", 0);
    put(text, "second_repl_offset", -1);
    put_zeros(text, &["repl_backlog_active", "repl_backlog_size"]);
    put_zeros(text, &["repl_backlog_first_byte_offset", "repl_backlog_histlen"]);
}

fn cpu(_: &Shared, text: &mut String) {
    let (system, user) = process::cpu();
    put(text, "used_cpu_sys", format_args!("{system:.6}"));
    put(text, "used_cpu_user", format_args!("{user:.6}"));
    put(text, "used_cpu_sys_children", "0.000000");
    put(text, "used_cpu_user_children", "0.000000");
}

fn commandstats(shared: &Shared, text: &mut String) {
    for (command, figures) in shared.figures().used() {
        let (calls, micros) = (figures.calls, figures.nanos / 1000);
        let each = figures.nanos as f64 / 1000.0 / calls.max(1) as f64;
        let value = format_args!(
            "calls={calls},usec={micros},usec_per_call={each:.2},rejected_calls={},failed_calls={}",
            figures.rejected, figures.failed
        )
        .to_string();
        put(text, &format!("cmdstat_{}", command.name), value);
    }
}

fn errorstats(shared: &Shared, text: &mut String) {
    for (code, count) in shared.figures().errors {
        put(text, &format!("errorstat_{code}"), format_args!("count={count}"));
    }
}

fn latencystats(shared: &Shared, text: &mut String) {
    let percentiles = shared.config.live.percentiles();
    for (command, figures) in shared.figures().used() {
        // It may have been called while times were not counted.
        if !figures.times.is_empty() {
            let name = format!("latency_percentiles_usec_{}", command.name);
            let time = |hundredths: &f64| {
                format!("p{hundredths}={:.3}", figures.times.percentile(*hundredths))
            };
            put(text, &name, percentiles.iter().map(time).collect::<Vec<_>>().join(","));
        }
    }
}

/// Our own: what the store and the loops are doing.
fn kvs(shared: &Shared, text: &mut String) {
    put(text, "kvs_version", env!("CARGO_PKG_VERSION"));
    put(text, "engine", shared.config.engine.name());
    put(text, "event_loops", shared.config.loops);
    put(text, "read_workers", shared.config.readers);
    let wakes = shared.reactor_stats.get().map_or(0, |stats| stats.counts().wakes);
    put(text, "loop_wakes", wakes);
    put(text, "reads_answered_by_loops", shared.stats.local_reads.get());
    put(text, "write_messages", shared.stats.write_batches.get());
    put(text, "read_messages", shared.stats.read_batches.get());
    put(text, "stalled_requests", shared.stats.stalls.get());
    let Some(Backend::Native(store)) = shared.backend.get() else { return };
    let (total, live) = store.reader().space();
    let stats = store.reader().stats();
    put(text, "segments", store.reader().segments());
    put(text, "segment_bytes", total);
    put(text, "live_bytes", live);
    put(text, "dead_bytes", total.saturating_sub(live));
    put(text, "group_commits", stats.groups.get());
    put(text, "group_records", stats.group_records.get());
    put(text, "group_bytes", stats.group_bytes.get());
    let groups = stats.groups.get().max(1);
    put(
        text,
        "records_per_group",
        format_args!("{:.2}", stats.group_records.get() as f64 / groups as f64),
    );
    put(text, "syncs", stats.syncs.get());
    put(text, "rotations", stats.rotations.get());
    put(text, "prepared_rotations", stats.prepared_rotations.get());
    put(text, "scheduled_expiries", stats.scheduled_expiries.get());
    put(text, "compactions", stats.compactions.get());
    put(text, "compaction_read_bytes", stats.compaction_read.get());
    put(text, "compaction_written_bytes", stats.compaction_written.get());
    put(text, "evicted_pages", stats.evicted_pages.get());
    put(text, "backup_bytes_to_copy", stats.backup_to_copy.get());
    put(text, "backup_bytes_copied", stats.backup_copied.get());
    put(text, "scrub_bytes", stats.scrub_bytes.get());
    put(text, "scrub_rounds", stats.scrub_rounds.get());
    put(text, "scrub_damaged_ranges", stats.scrub_damaged.get());
    put(text, "damaged_ranges", stats.damaged_ranges.get());
    put(text, "open_microseconds", stats.open_micros.get());
}

fn keyspace(shared: &Shared, text: &mut String) {
    let Some(Backend::Native(store)) = shared.backend.get() else { return };
    let view = store.reader().view();
    for database in 0..DATABASES as u8 {
        let keys = view.len(database);
        if keys > 0 {
            let expires = view.ending(database);
            let name = format!("db{database}");
            put(text, &name, format_args!("keys={keys},expires={expires},avg_ttl=0"));
        }
    }
}
