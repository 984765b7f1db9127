//! What CONFIG GET and CONFIG SET know: one table of names, with how each is read, checked and set.
//! Names, forms and error texts are Redis 7's wherever the meaning is the same.

use super::live::{LOG_LEVELS, Live, Number};
use super::{Config, Fsync};

/// One row.
pub struct Parameter {
    /// The name in CONFIG, in lower case.
    pub name: &'static str,
    /// The flag's name where that is another one; a file may use either.
    pub flag: &'static str,
    kind: Kind,
}

enum Kind {
    /// Chosen at the start. To set it to what it is changes nothing, and is no mistake: so what CONFIG
    /// GET tells can be set again.
    Fixed(fn(&Config) -> String),
    /// The same, but Redis refuses to set it whatever the value.
    Immutable(fn(&Config) -> String),
    /// There is but one value, for a reason; to set that one is no mistake.
    Only { value: &'static str, why: &'static str },
    /// A number in a range.
    Number { least: i64, most: i64, place: fn(&Live) -> &Number },
    /// The same in bytes, with a unit.
    Memory { least: i64, most: i64, place: fn(&Live) -> &Number },
    /// 1 or 0.
    YesNo(fn(&Live) -> &Number),
    /// Anything else.
    Text { get: fn(&Live) -> String, check: Check, put: fn(&Live, &str) },
}

type Check = fn(&str) -> Result<(), String>;

const fn fixed(name: &'static str, flag: &'static str, get: fn(&Config) -> String) -> Parameter {
    Parameter { name, flag, kind: Kind::Fixed(get) }
}

const fn immutable(name: &'static str, get: fn(&Config) -> String) -> Parameter {
    Parameter { name, flag: name, kind: Kind::Immutable(get) }
}

const fn live(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, flag: name, kind }
}

const UNLIMITED: i64 = i64::MAX;
const NO_EVICTION: &str = "nothing is evicted: values are on the disk";

/// In alphabetical order.
pub static PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "appendfsync",
        flag: "fsync",
        kind: Kind::Text {
            get: |live| live.fsync().name().to_owned(),
            check: |name| parse_fsync(name).map(drop),
            put: |live, name| live.set_fsync(parse_fsync(name).unwrap_or_default()),
        },
    },
    live("appendonly", Kind::Only { value: "yes", why: "every write goes to the log" }),
    fixed("backup-dir", "backup-dir", |config| config.backup_dir.display().to_string()),
    fixed("bind", "bind", |config| config.addr.ip().to_string()),
    live(
        "client-output-buffer-limit",
        Kind::Text { get: output_limits, check: check_output_limits, put: put_output_limits },
    ),
    live(
        "client-query-buffer-limit",
        Kind::Memory { least: 1 << 20, most: u32::MAX as i64, place: |live| &live.max_request },
    ),
    immutable("daemonize", |_| "no".to_owned()),
    immutable("databases", |_| "16".to_owned()),
    fixed("dir", "dir", |config| config.dir.display().to_string()),
    immutable("enable-debug-command", |config| config.debug_command.name().to_owned()),
    fixed("engine", "engine", |config| config.engine.name().to_owned()),
    live("hz", Kind::Only { value: "10", why: "there is no such clock" }),
    fixed("index", "index", |config| {
        if config.ordered { "ordered" } else { "unordered" }.to_owned()
    }),
    live(
        "latency-monitor-threshold",
        Kind::Number { least: 0, most: UNLIMITED, place: |live| &live.latency_threshold },
    ),
    live("latency-tracking", Kind::YesNo(|live| &live.latency_tracking)),
    live(
        "latency-tracking-info-percentiles",
        Kind::Text { get: percentiles, check: check_percentiles, put: put_percentiles },
    ),
    Parameter {
        name: "loglevel",
        flag: "log-level",
        kind: Kind::Text { get: log_level, check: check_log_level, put: put_log_level },
    },
    fixed("loop-reads", "loop-reads", |config| yes_or_no(config.loop_reads)),
    fixed("loops", "loops", |config| config.loops.to_string()),
    Parameter {
        name: "maxclients",
        flag: "max-clients",
        kind: Kind::Number { least: 1, most: u32::MAX as i64, place: |live| &live.max_clients },
    },
    live("maxmemory", Kind::Memory { least: 0, most: UNLIMITED, place: |live| &live.max_memory }),
    live("maxmemory-clients", Kind::Only { value: "0", why: "no client is evicted" }),
    live("maxmemory-policy", Kind::Only { value: "noeviction", why: NO_EVICTION }),
    live("maxmemory-samples", Kind::Only { value: "5", why: NO_EVICTION }),
    live("notify-keyspace-events", Kind::Only { value: "", why: "nobody can subscribe to them" }),
    fixed("port", "port", |config| config.addr.port().to_string()),
    live(
        "proto-max-bulk-len",
        Kind::Memory { least: 1 << 20, most: 512 << 20, place: |live| &live.max_bulk },
    ),
    fixed("readers", "readers", |config| config.readers.to_string()),
    immutable("replicaof", |_| String::new()),
    live(
        "requirepass",
        Kind::Text {
            get: |live| String::from_utf8_lossy(&live.password()).into_owned(),
            check: |_| Ok(()),
            put: |live, password| live.set_password(password.as_bytes()),
        },
    ),
    live("save", Kind::Only { value: "", why: "no snapshot is needed: every write is in the log" }),
    fixed("scrub-rate", "scrub-rate", |config| config.scrub_rate.to_string()),
    fixed("segment-bytes", "segment-bytes", |config| config.segment_bytes.to_string()),
    immutable("slaveof", |_| String::new()),
    live(
        "slowlog-log-slower-than",
        Kind::Number { least: -1, most: UNLIMITED, place: |live| &live.slowlog_slower_than },
    ),
    live(
        "slowlog-max-len",
        Kind::Number { least: 0, most: UNLIMITED, place: |live| &live.slowlog_max_len },
    ),
    fixed("spin", "spin", |config| yes_or_no(config.spin)),
    live(
        "tcp-keepalive",
        Kind::Number { least: 0, most: i32::MAX as i64, place: |live| &live.tcp_keepalive },
    ),
    live("timeout", Kind::Number { least: 0, most: i32::MAX as i64, place: |live| &live.timeout }),
];

/// The parameter of this name, in any case.
pub fn find(name: &str) -> Option<&'static Parameter> {
    PARAMETERS
        .iter()
        .find(|row| row.name.eq_ignore_ascii_case(name) || row.flag.eq_ignore_ascii_case(name))
}

/// A value that was checked.
pub enum Change {
    Nothing,
    Number(i64),
    Text(String),
}

impl Parameter {
    /// Whether it can change while the server runs.
    pub fn is_live(&self) -> bool {
        !matches!(self.kind, Kind::Fixed(_) | Kind::Immutable(_))
    }

    /// Its value now.
    pub fn get(&self, config: &Config) -> String {
        let live = &config.live;
        match &self.kind {
            Kind::Fixed(get) | Kind::Immutable(get) => get(config),
            Kind::Only { value, .. } => (*value).to_owned(),
            Kind::Number { place, .. } | Kind::Memory { place, .. } => {
                place(live).get().to_string()
            }
            Kind::YesNo(place) => yes_or_no(place(live).get() != 0),
            Kind::Text { get, .. } => get(live),
        }
    }

    /// Whether CONFIG SET takes this value no more than any that would change it.
    fn is_frozen(&self, config: &Config, value: &str) -> bool {
        match &self.kind {
            Kind::Fixed(get) => get(config) != value,
            Kind::Immutable(_) => true,
            _ => false,
        }
    }

    /// What `value` would change, or why it is none.
    pub fn check(&self, value: &str) -> Result<Change, String> {
        match &self.kind {
            Kind::Fixed(_) | Kind::Immutable(_) => Ok(Change::Nothing),
            Kind::Only { value: only, .. } if value.eq_ignore_ascii_case(only) => {
                Ok(Change::Nothing)
            }
            Kind::Only { value, why } => Err(format!("it is always '{value}': {why}")),
            Kind::Number { least, most, .. } => {
                let number = integer(value).ok_or("argument couldn't be parsed into an integer")?;
                in_range(number, *least, *most)
            }
            Kind::Memory { least, most, .. } => {
                let bytes = memory(value).ok_or("argument must be a memory value")?;
                in_range(bytes, *least, *most)
            }
            Kind::YesNo(_) => match value.to_ascii_lowercase().as_str() {
                "yes" => Ok(Change::Number(1)),
                "no" => Ok(Change::Number(0)),
                _ => Err("argument must be 'yes' or 'no'".to_owned()),
            },
            Kind::Text { check, .. } => check(value).map(|()| Change::Text(value.to_owned())),
        }
    }

    /// Makes a change that [`check`](Self::check) let pass.
    pub fn apply(&self, change: &Change, live: &Live) {
        match (&self.kind, change) {
            (
                Kind::Number { place, .. } | Kind::Memory { place, .. } | Kind::YesNo(place),
                Change::Number(value),
            ) => place(live).set(*value),
            (Kind::Text { put, .. }, Change::Text(value)) => put(live, value),
            _ => {}
        }
    }
}

fn in_range(number: i64, least: i64, most: i64) -> Result<Change, String> {
    if (least..=most).contains(&number) {
        return Ok(Change::Number(number));
    }
    Err(format!("argument must be between {least} and {most} inclusive"))
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// Digits as Redis takes them: no plus, no zeros in front.
fn integer(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

/// A size in bytes as Redis takes it: `kb` is 1024, `k` is 1000, and so on.
fn memory(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(unit)
}

fn parse_fsync(name: &str) -> Result<Fsync, String> {
    name.to_ascii_lowercase()
        .parse()
        .map_err(|_| "argument(s) must be one of the following: everysec, always, no".to_owned())
}

fn log_level(live: &Live) -> String {
    LOG_LEVELS.get(live.log_level.count()).map_or("notice", |(name, _)| name).to_owned()
}

fn level_of(name: &str) -> Option<usize> {
    LOG_LEVELS.iter().position(|(known, _)| known.eq_ignore_ascii_case(name))
}

fn check_log_level(name: &str) -> Result<(), String> {
    level_of(name).map(drop).ok_or_else(|| {
        "argument(s) must be one of the following: debug, verbose, notice, warning".to_owned()
    })
}

fn put_log_level(live: &Live, name: &str) {
    if let Some(level) = level_of(name) {
        live.log_level.set(level as i64);
    }
}

fn percentiles(live: &Live) -> String {
    live.percentiles().iter().map(f64::to_string).collect::<Vec<_>>().join(" ")
}

fn parse_percentiles(text: &str) -> Result<Vec<f64>, String> {
    let percentile = |word: &str| match word.parse::<f64>() {
        Ok(percentile) if (0.0..=100.0).contains(&percentile) => Ok(percentile),
        Ok(percentile) if !percentile.is_nan() => {
            Err("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]")
        }
        _ => Err("Invalid latency-tracking-info-percentiles parameters"),
    };
    text.split_whitespace().map(percentile).collect::<Result<_, _>>().map_err(str::to_owned)
}

fn check_percentiles(text: &str) -> Result<(), String> {
    parse_percentiles(text).map(drop)
}

fn put_percentiles(live: &Live, text: &str) {
    if let Ok(percentiles) = parse_percentiles(text) {
        live.set_percentiles(percentiles);
    }
}

/// In the order of [`Live::output`].
const CLASSES: [&str; 3] = ["normal", "slave", "pubsub"];

fn output_limits(live: &Live) -> String {
    let class = |(name, bound): (&&str, &super::live::OutputBound)| {
        format!("{name} {} {} {}", bound.hard.get(), bound.soft.get(), bound.seconds.get())
    };
    CLASSES.iter().zip(&live.output).map(class).collect::<Vec<_>>().join(" ")
}

/// The classes that `text` sets, with hard, soft and seconds.
fn parse_output_limits(text: &str) -> Result<Vec<(usize, [i64; 3])>, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".to_owned());
    }
    let class = |words: &[&str]| {
        let [name, hard, soft, seconds] = words else { return Err(String::new()) };
        let name = if name.eq_ignore_ascii_case("replica") { "slave" } else { name };
        let class = CLASSES
            .iter()
            .position(|class| class.eq_ignore_ascii_case(name))
            .ok_or("Invalid client class specified in buffer limit configuration.")?;
        let bounds = [memory(hard), memory(soft), integer(seconds).filter(|s| *s >= 0)];
        match bounds {
            [Some(hard), Some(soft), Some(seconds)] => Ok((class, [hard, soft, seconds])),
            _ => Err("Error in hard, soft or soft_seconds setting in buffer limit configuration."
                .to_owned()),
        }
    };
    words.chunks(4).map(class).collect()
}

fn check_output_limits(text: &str) -> Result<(), String> {
    // For the other classes, which have no members, any will do.
    let soft = |(class, [_, soft, _]): &(usize, [i64; 3])| *class == 0 && *soft != 0;
    if parse_output_limits(text)?.iter().any(soft) {
        return Err(
            "there is no soft limit for normal clients: who takes nothing for a minute is \
                    cut off anyway"
                .to_owned(),
        );
    }
    Ok(())
}

fn put_output_limits(live: &Live, text: &str) {
    for (class, [hard, soft, seconds]) in parse_output_limits(text).unwrap_or_default() {
        let bound = &live.output[class];
        bound.hard.set(hard);
        bound.soft.set(soft);
        bound.seconds.set(seconds);
    }
}

/// Which connections may use DEBUG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugCommand {
    /// None.
    No,
    /// Those from this machine.
    Local,
    /// All.
    Yes,
}

impl DebugCommand {
    pub(super) const ALL: [DebugCommand; 3] =
        [DebugCommand::No, DebugCommand::Local, DebugCommand::Yes];

    /// Its name in CONFIG and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DebugCommand::No => "no",
            DebugCommand::Local => "local",
            DebugCommand::Yes => "yes",
        }
    }
}

/// The name and value of every parameter.
pub fn get_all(config: &Config) -> impl Iterator<Item = (&'static str, String)> {
    PARAMETERS.iter().map(|row| (row.name, row.get(config)))
}

/// Sets all of them, or none: then it is the error line that answers CONFIG SET.
pub fn set_all(config: &Config, pairs: &[(&str, &str)]) -> Result<(), String> {
    let failed = |name: &str, why: &str| {
        format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
    };
    let mut rows: Vec<&Parameter> = Vec::new();
    let mut error = None;
    for (name, value) in pairs {
        // An unknown name is told of before anything else is.
        let Some(row) = PARAMETERS.iter().find(|row| row.name.eq_ignore_ascii_case(name)) else {
            return Err(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            ));
        };
        if error.is_none() && row.is_frozen(config, value) {
            error = Some(failed(name, "can't set immutable config"));
        }
        if error.is_none() && rows.iter().any(|earlier| earlier.name == row.name) {
            error = Some(failed(name, "duplicate parameter"));
        }
        rows.push(row);
    }
    if let Some(error) = error {
        return Err(error);
    }
    let mut changes = Vec::new();
    for (row, (name, value)) in rows.iter().zip(pairs) {
        changes.push(row.check(value).map_err(|why| failed(name, &why))?);
    }
    for (row, change) in rows.iter().zip(&changes) {
        row.apply(change, &config.live);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Config {
        crate::config::Settings::default().check().unwrap()
    }

    fn set(config: &Config, pairs: &[(&str, &str)]) -> String {
        set_all(config, pairs).err().unwrap_or_default()
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(PARAMETERS.is_sorted_by_key(|row| row.name));
    }

    #[test]
    fn several_are_set_together_or_none() {
        let config = fresh();
        let live = &config.live;
        assert_eq!(set(&config, &[("timeout", "5"), ("MaxMemory", "1gb")]), "");
        assert_eq!((live.timeout.get(), live.max_memory.get()), (5, 1 << 30));
        assert_eq!(
            set(&config, &[("timeout", "6"), ("maxmemory", "much")]),
            "ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a \
             memory value"
        );
        assert_eq!(
            set(&config, &[("timeout", "6"), ("timeout", "7")]),
            "ERR CONFIG SET failed (possibly related to argument 'timeout') - duplicate parameter"
        );
        assert_eq!(
            set(&config, &[("port", "6"), ("shoes", "7")]),
            "ERR Unknown option or number of arguments for CONFIG SET - 'shoes'"
        );
        assert_eq!(live.timeout.get(), 5);
    }

    #[test]
    fn what_is_told_can_be_set_again_but_for_what_redis_refuses() {
        let config = fresh();
        let frozen = ["daemonize", "databases", "enable-debug-command", "replicaof", "slaveof"];
        for (name, value) in get_all(&config) {
            let refused = set(&config, &[(name, &value)]);
            let is_frozen = frozen.contains(&name);
            assert_eq!(refused.ends_with("can't set immutable config"), is_frozen, "{refused}");
            assert_eq!(refused.is_empty(), !is_frozen, "{refused}");
        }
        let refused = set(&config, &[("timeout", "5"), ("loops", "200")]);
        assert!(refused.ends_with("'loops') - can't set immutable config"), "{refused}");
        assert_eq!(config.live.timeout.get(), 0);
    }

    #[test]
    fn sizes_have_the_units_of_redis() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("7b", Some(7)),
            ("2k", Some(2000)),
            ("2KB", Some(2048)),
            ("3mb", Some(3 << 20)),
            ("1G", Some(1_000_000_000)),
            ("1gb", Some(1 << 30)),
            ("", None),
            ("-1", None),
            ("1.5gb", None),
            ("1q", None),
            ("99999999999gb", None),
        ] {
            assert_eq!(memory(text), bytes, "{text}");
        }
    }

    #[test]
    fn bounds_of_one_class_leave_the_others() {
        let config = fresh();
        assert_eq!(set(&config, &[("client-output-buffer-limit", "normal 1mb 0 0")]), "");
        let soft = set(&config, &[("client-output-buffer-limit", "normal 1mb 1kb 10")]);
        assert!(soft.contains("no soft limit"), "{soft}");
        assert_eq!(
            output_limits(&config.live),
            "normal 1048576 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"
        );
        for wrong in ["normal 0", "", "foo 0 0 0", "normal a 0 0", "normal 0 0 -1"] {
            let line = set(&config, &[("client-output-buffer-limit", wrong)]);
            assert!(line.ends_with("buffer limit configuration."), "{line}");
        }
    }
}
