//! The real server, killed (SIGKILL) again and again while clients write: in the middle of commits,
//! of compaction, and of recovery, always at the same directory.
//!
//! After each kill the next server must have all that was acknowledged; of what was sent but not
//! acknowledged, a prefix of each connection's operations; batches whole or not at all; and nothing
//! that nobody wrote. KVS_KILL_ROUNDS says how many rounds (50).
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "kill_rounds/ledger.rs"]
mod ledger;
mod serving;

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvs::client::Client;
use kvs::protocol::Value;
use ledger::Ledger;
use serving::process::Process;
use serving::{Random, figure, wait_for};

const WRITERS: usize = 4;
/// The most operations that a connection has in flight.
const WINDOW: usize = 12;
/// What compaction reads at once (src/engine/copier.rs), in bytes.
const STEP: u64 = 256 * 1024;
/// So many acknowledgements end a round in which no compaction begins.
const ENOUGH: u64 = 3000;

/// When a round's server is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// After so many acknowledgements.
    Acknowledged(u64),
    /// After so many acknowledgements of large batches, most likely in the middle of a write.
    Torn(u64),
    /// When compaction has read so many steps more, or after so many acknowledgements.
    Compacting(u64),
}

/// What several writers change at once: one counter, and two keys that are set together.
#[derive(Debug, Default)]
struct Shared {
    /// What the counter must have at least, as acknowledged; and at most.
    acknowledged: AtomicU64,
    attempted: AtomicU64,
    counts: Mutex<HashSet<i64>>,
    tags: Mutex<HashSet<Vec<u8>>>,
}

impl Shared {
    /// Sends both operations.
    fn send(&self, client: &mut Client, tag: Vec<u8>) {
        self.attempted.fetch_add(1, Ordering::SeqCst);
        client.send(&["INCR", "total"]);
        client.send(&[b"MSET", &b"left"[..], &tag, b"right", &tag]);
        self.tags.lock().unwrap().insert(tag);
    }

    /// Takes both replies; an error if the server is gone.
    fn receive(&self, client: &mut Client) -> kvs::Result<()> {
        let Value::Integer(count) = client.receive()? else { panic!("INCR") };
        assert!(self.counts.lock().unwrap().insert(count), "{count} was given twice");
        self.acknowledged.fetch_max(count as u64, Ordering::SeqCst);
        assert_eq!(client.receive()?, Value::Simple("OK".into()));
        Ok(())
    }

    fn check(&self, client: &mut Client) {
        let total = client
            .get("total")
            .unwrap()
            .map_or(0, |n| String::from_utf8(n).unwrap().parse().unwrap());
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let attempted = self.attempted.load(Ordering::SeqCst);
        assert!(
            (acknowledged..=attempted).contains(&total),
            "{acknowledged} <= {total} <= {attempted}"
        );
        // Those that did not happen will not.
        self.attempted.store(total, Ordering::SeqCst);
        self.acknowledged.store(total, Ordering::SeqCst);
        self.counts.lock().unwrap().retain(|count| *count as u64 <= total);
        let (left, right) = (client.get("left").unwrap(), client.get("right").unwrap());
        assert!(left == right, "half of a batch");
        assert!(left.is_none_or(|tag| self.tags.lock().unwrap().contains(&tag)), "nobody wrote it");
    }
}

/// What the writers of one round and the one who kills have in common.
#[derive(Debug)]
struct Round {
    moment: Moment,
    /// Acknowledgements so far.
    told: AtomicU64,
    stop: AtomicBool,
}

impl Round {
    /// Writes until the server is gone.
    fn write(&self, mut client: Client, ledger: &mut Ledger, shared: &Shared) {
        let large = matches!(self.moment, Moment::Torn(_));
        while !self.stop.load(Ordering::Relaxed) {
            let burst = if large { 1 } else { 1 + ledger.random().below(WINDOW) };
            (0..burst).for_each(|_| ledger.next(large).send(&mut client));
            let tag = ledger.random().next().to_string().into_bytes();
            shared.send(&mut client, tag);
            if client.flush().is_err() {
                return;
            }
            for _ in 0..burst {
                let Ok(reply) = client.receive() else { return };
                ledger.acknowledge(&reply);
                self.told.fetch_add(1, Ordering::Relaxed);
            }
            if shared.receive(&mut client).is_err() {
                return;
            }
        }
    }

    /// Waits for the moment. Tells whether a compaction is under way.
    fn wait(&self, monitor: &mut Client) -> bool {
        wait_for("the moment", || {
            let told = self.told.load(Ordering::Relaxed);
            match self.moment {
                Moment::Acknowledged(acks) | Moment::Torn(acks) => (told >= acks).then_some(false),
                Moment::Compacting(steps) => {
                    let compacting =
                        figure(monitor, "kvs", "compaction_read_bytes") >= steps * STEP;
                    (compacting || told >= ENOUGH).then_some(compacting)
                }
            }
        })
    }
}

/// The number behind `name:` in INFO.
/// One round's work: writes, and the kill. Tells whether it hit a compaction.
fn write_and_kill(
    server: Process,
    ledgers: &mut [Ledger],
    shared: &Shared,
    moment: Moment,
) -> bool {
    let round = Round { moment, told: AtomicU64::new(0), stop: AtomicBool::new(false) };
    let mut monitor = server.client();
    // Connected before any of them writes: the kill may come at once then.
    let mut clients: Vec<Client> = ledgers.iter().map(|_| server.client()).collect();
    let compacting = std::thread::scope(|scope| {
        for ledger in ledgers {
            let (round, client) = (&round, clients.pop().unwrap());
            scope.spawn(move || round.write(client, ledger, shared));
        }
        let compacting = round.wait(&mut monitor);
        server.signal("KILL");
        round.stop.store(true, Ordering::Relaxed);
        compacting
    });
    complain_of_damage(&server);
    server.kill();
    compacting
}

/// Starts a server and kills it while it opens the store, or a little later.
fn kill_in_recovery(dir: &Path, usual: Duration, random: &mut Random) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvs-server"));
    command.args(["--addr", "127.0.0.1:0", "--log-level", "off", "--dir"]).arg(dir);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    // No wait for anything: any moment will do.
    std::thread::sleep(usual.mul_f64(random.below(1000) as f64 / 1000.0));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The store was never anything but torn at its end.
fn complain_of_damage(server: &Process) {
    assert!(!server.log().contains("damaged"), "it found damage");
}

/// `kvs check` finds nothing wrong in what a kill left.
fn check_files(dir: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvs"));
    let output = command.args(["check", "--dir"]).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn flags(random: &mut Random) -> Vec<&'static str> {
    let choices: [&[&[&str]]; 5] = [
        &[&["--fsync", "always"], &["--fsync", "no"], &["--fsync", "everysec"]],
        &[&["--segment-bytes", "16k"], &["--segment-bytes", "64k"], &["--segment-bytes", "256k"]],
        &[&["--loops", "1"], &["--loops", "2"]],
        &[&["--loop-reads", "yes"], &["--loop-reads", "no"]],
        &[&["--index", "ordered"], &["--index", "unordered"]],
    ];
    choices.iter().flat_map(|of| of[random.below(of.len())]).copied().collect()
}

fn moment(random: &mut Random) -> Moment {
    match random.below(8) {
        0 => Moment::Torn(random.below(6) as u64),
        1..=3 => Moment::Acknowledged(random.below(800) as u64),
        _ => Moment::Compacting(1 + random.below(12) as u64),
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_at_any_moment() {
    let rounds = std::env::var("KVS_KILL_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap());
    let mut random = Random::seeded();
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::default();
    let mut ledgers: Vec<Ledger> =
        (0..WRITERS).map(|writer| Ledger::new(writer, Random(random.next()))).collect();
    let mut usual = Duration::ZERO;
    let (mut in_compaction, mut in_recovery, mut in_write) = (0, 0, 0);
    for round in 0..=rounds {
        while random.below(2) == 0 {
            kill_in_recovery(dir.path(), usual, &mut random);
            in_recovery += 1;
        }
        if round > 0 {
            check_files(dir.path());
        }
        let flags = flags(&mut random);
        let began = Instant::now();
        let server = Process::start_in(dir.path(), &flags);
        usual = began.elapsed();
        let mut client = server.client();
        complain_of_damage(&server);
        assert_eq!(figure(&mut client, "kvs", "damaged_ranges"), 0);
        ledgers.iter_mut().for_each(|ledger| ledger.check(&mut client));
        shared.check(&mut client);
        drop(client);
        in_write += usize::from(server.log().contains("left unfinished"));
        let moment = moment(&mut random);
        if round < rounds {
            let hit = write_and_kill(server, &mut ledgers, &shared, moment);
            in_compaction += usize::from(hit);
            println!("round {round}: {flags:?}, {moment:?}");
        }
    }
    println!(
        "{rounds} rounds; {in_recovery} kills in recovery, {in_compaction} in compaction, at least \
         {in_write} in a write"
    );
    if rounds >= 50 {
        assert!(in_compaction > 0 && in_recovery > 0, "it missed what it is for");
    }
}
