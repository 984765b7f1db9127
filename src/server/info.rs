//! What INFO says. Field names are Redis's where Redis has the field.
//!
//! Thread: an event loop; reads counters only.

use std::fmt::Write;

use super::shared::{Backend, Shared};
use crate::engine::DATABASES;

/// The version of Redis whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.0.15";

type Section = (&'static str, fn(&Shared, &mut String) -> std::fmt::Result);

const SECTIONS: [Section; 7] = [
    ("server", server),
    ("clients", clients),
    ("memory", memory),
    ("persistence", persistence),
    ("stats", stats),
    ("kvs", kvs),
    ("keyspace", keyspace),
];

/// The text of INFO: the sections asked for, or all.
pub fn text(shared: &Shared, sections: &[String]) -> String {
    let everything = |name: &String| matches!(name.as_str(), "all" | "everything" | "default");
    let all = sections.is_empty() || sections.iter().any(everything);
    let mut text = String::new();
    for (name, write) in SECTIONS {
        if all || sections.iter().any(|wanted| wanted == name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let mut title = name.to_owned();
            title[..1].make_ascii_uppercase();
            // Writing to a string does not fail.
            let _ = write!(text, "# {title}\r\n");
            let _ = write(shared, &mut text);
        }
    }
    text
}

fn server(shared: &Shared, text: &mut String) -> std::fmt::Result {
    let up = shared.started.elapsed().as_secs();
    write!(text, "redis_version:{REDIS_VERSION}\r\n")?;
    write!(text, "redis_mode:standalone\r\n")?;
    write!(text, "kvs_version:{}\r\n", env!("CARGO_PKG_VERSION"))?;
    write!(text, "engine:{}\r\n", shared.config.engine.name())?;
    write!(text, "os:{} {}\r\n", std::env::consts::OS, std::env::consts::ARCH)?;
    write!(text, "process_id:{}\r\n", std::process::id())?;
    write!(text, "tcp_port:{}\r\n", shared.config.addr.port())?;
    write!(text, "uptime_in_seconds:{up}\r\nuptime_in_days:{}\r\n", up / 86_400)?;
    write!(
        text,
        "event_loops:{}\r\nread_workers:{}\r\n",
        shared.config.loops, shared.config.readers
    )
}

fn clients(shared: &Shared, text: &mut String) -> std::fmt::Result {
    let open = shared.reactor_stats.get().map_or(0, |stats| stats.counts().open);
    write!(
        text,
        "connected_clients:{open}\r\nmaxclients:{}\r\n",
        shared.config.live.max_clients.get()
    )
}

fn memory(shared: &Shared, text: &mut String) -> std::fmt::Result {
    write!(text, "used_memory:{}\r\n", resident_bytes())?;
    write!(text, "used_memory_rss:{}\r\n", resident_bytes())?;
    if let Some(Backend::Native(store)) = shared.backend.get() {
        let of_each = (0..DATABASES as u8).map(|database| store.reader().index_memory(database));
        let (points, order) =
            of_each.fold((0, 0), |(points, order), each| (points + each.0, order + each.1));
        write!(text, "index_points_bytes:{points}\r\nindex_order_bytes:{order}\r\n")?;
    }
    write!(text, "maxmemory:{}\r\n", shared.config.live.max_memory.get())
}

/// The process's resident memory, 0 where the system does not tell.
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .map_or(0, |pages: u64| pages * PAGE)
}

fn persistence(shared: &Shared, text: &mut String) -> std::fmt::Result {
    write!(text, "loading:{}\r\n", u8::from(shared.backend.get().is_none()))?;
    let healthy = match shared.backend.get() {
        Some(Backend::Native(store)) => store.reader().health().err(),
        _ => None,
    };
    write!(text, "aof_enabled:1\r\n")?;
    write!(text, "aof_last_write_status:{}\r\n", if healthy.is_none() { "ok" } else { "err" })?;
    match healthy {
        Some(error) => write!(text, "writes_refused_since:{error}\r\n"),
        None => Ok(()),
    }
}

fn stats(shared: &Shared, text: &mut String) -> std::fmt::Result {
    if let Some(stats) = shared.reactor_stats.get() {
        let counts = stats.counts();
        write!(text, "total_connections_received:{}\r\n", counts.accepted)?;
        write!(text, "rejected_connections:{}\r\n", counts.rejected)?;
        write!(text, "cut_off_connections:{}\r\n", counts.cut_off)?;
        write!(text, "total_net_input_bytes:{}\r\n", counts.bytes_in)?;
        write!(text, "total_net_output_bytes:{}\r\n", counts.bytes_out)?;
        write!(text, "loop_wakes:{}\r\n", counts.wakes)?;
    }
    let stats = &shared.stats;
    write!(text, "total_commands_processed:{}\r\n", stats.commands.get())?;
    write!(text, "expired_keys:{}\r\n", shared.engine_stats.expired_keys.get())?;
    write!(text, "reads_answered_by_loops:{}\r\n", stats.local_reads.get())?;
    write!(text, "write_messages:{}\r\n", stats.write_batches.get())?;
    write!(text, "read_messages:{}\r\n", stats.read_batches.get())?;
    write!(text, "stalled_requests:{}\r\n", stats.stalls.get())
}

fn kvs(shared: &Shared, text: &mut String) -> std::fmt::Result {
    let Some(Backend::Native(store)) = shared.backend.get() else { return Ok(()) };
    let (total, live) = store.reader().space();
    let stats = store.reader().stats();
    write!(text, "segments:{}\r\n", store.reader().segments())?;
    write!(text, "segment_bytes:{total}\r\nlive_bytes:{live}\r\n")?;
    write!(text, "dead_bytes:{}\r\n", total.saturating_sub(live))?;
    write!(text, "group_commits:{}\r\n", stats.groups.get())?;
    write!(text, "group_records:{}\r\n", stats.group_records.get())?;
    write!(text, "group_bytes:{}\r\n", stats.group_bytes.get())?;
    write!(text, "syncs:{}\r\n", stats.syncs.get())?;
    write!(text, "rotations:{}\r\n", stats.rotations.get())?;
    write!(text, "prepared_rotations:{}\r\n", stats.prepared_rotations.get())?;
    write!(text, "scheduled_expiries:{}\r\n", stats.scheduled_expiries.get())?;
    write!(text, "compactions:{}\r\n", stats.compactions.get())?;
    write!(text, "compaction_read_bytes:{}\r\n", stats.compaction_read.get())?;
    write!(text, "compaction_written_bytes:{}\r\n", stats.compaction_written.get())?;
    write!(text, "evicted_pages:{}\r\n", stats.evicted_pages.get())?;
    write!(text, "damaged_ranges:{}\r\n", stats.damaged_ranges.get())?;
    write!(text, "open_microseconds:{}\r\n", stats.open_micros.get())
}

fn keyspace(shared: &Shared, text: &mut String) -> std::fmt::Result {
    let Some(Backend::Native(store)) = shared.backend.get() else { return Ok(()) };
    let view = store.reader().view();
    for database in 0..DATABASES as u8 {
        let keys = view.len(database);
        if keys > 0 {
            let expires = view.ending(database);
            write!(text, "db{database}:keys={keys},expires={expires},avg_ttl=0\r\n")?;
        }
    }
    Ok(())
}
