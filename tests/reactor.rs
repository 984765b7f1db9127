//! The reactor over real sockets, with a small line service: what is promised to clients and to
//! services, and what happens at the limits.

#![allow(clippy::unwrap_used, clippy::expect_used)] // The lint spares only #[test] functions.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use kvs::reactor::{
    ConnId, Connection, Connections, Control, Counts, Listener, Options, OutputLimits, Peer, Post,
    Reactor, Service,
};

/// Nothing here takes long; what does has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers lines. `echo` goes straight back, through a worker thread if the service has one:
/// `work X`. Other words are commands to the connection itself.
struct Lines {
    index: usize,
    worker: Option<Sender<(ConnId, Vec<u8>)>>,
    events: Sender<Event>,
    waiting: Vec<(ConnId, Vec<u8>)>,
    /// Bytes of `big` replies.
    made: usize,
}

#[derive(Debug, PartialEq)]
enum Event {
    Opened(usize, ConnId),
    Closed(ConnId),
    Stale(bool),
    Paused(ConnId),
    Timer(u64),
    Held,
    /// So many bytes of `big` replies have not been sent.
    Unsent(usize),
}

enum Mail {
    /// Holds the loop until something comes.
    Hold(Receiver<()>),
    Reply(ConnId, Vec<u8>),
    Probe(ConnId),
    Resume(ConnId),
    Timers,
}

#[derive(Default)]
struct Session {
    in_flight: usize,
    lines_per_turn: usize,
    /// Bytes of the input that hold no line end.
    scanned: usize,
}

impl Lines {
    fn line(&mut self, conn: &mut Connection<Session>, line: &[u8]) {
        let (word, rest) =
            line.split_at(line.iter().position(|&b| b == b' ').unwrap_or(line.len()));
        match word {
            b"work" => {
                conn.session.in_flight += 1;
                self.waiting.push((conn.id(), rest.to_vec()));
            }
            b"big" => {
                let len: usize = String::from_utf8_lossy(rest).trim().parse().unwrap();
                let filled = conn.output().len() + len;
                conn.output().resize(filled, b'b');
                self.made += len;
            }
            b"pause" => {
                conn.pause_reading();
                let _ = self.events.send(Event::Paused(conn.id()));
            }
            b"slow" => conn.session.lines_per_turn = 1,
            b"where" => {
                let reply = format!("{}\n", self.index);
                conn.output().extend_from_slice(reply.as_bytes());
            }
            b"quit" => {
                conn.output().extend_from_slice(b"bye\n");
                conn.close_after_flush();
            }
            _ => {
                conn.output().extend_from_slice(line);
                conn.output().push(b'\n');
            }
        }
    }
}

fn find_line_end(conn: &mut Connection<Session>) -> Option<usize> {
    let parts = conn.parts();
    let scanned = parts.session.scanned;
    let found = memchr::memchr(b'\n', &parts.input.readable()[scanned..]);
    parts.session.scanned = parts.input.len();
    found.map(|at| scanned + at)
}

impl Service for Lines {
    type Session = Session;
    type Mail = Mail;

    fn open(&mut self, _: &mut Control, id: ConnId, _: Peer) -> Session {
        let _ = self.events.send(Event::Opened(self.index, id));
        Session::default()
    }

    fn data(&mut self, ctl: &mut Control, conn: &mut Connection<Session>) {
        let (mut done, made) = (0, self.made);
        while !conn.is_congested() && !conn.is_paused() && !conn.is_closing() {
            let Some(end) = find_line_end(conn) else { return };
            if conn.session.lines_per_turn > 0 && done >= conn.session.lines_per_turn {
                conn.call_again();
                return;
            }
            let line = conn.input().readable()[..end].to_vec();
            conn.input().consume(end + 1);
            conn.session.scanned = 0;
            self.line(conn, &line);
            done += 1;
            if self.made > made {
                let sent = ctl.stats().counts().bytes_out as usize;
                let _ = self.events.send(Event::Unsent(self.made.saturating_sub(sent)));
            }
        }
    }

    fn mail(&mut self, ctl: &mut Control, conns: &mut Connections<Session>, mail: Mail) {
        match mail {
            Mail::Reply(id, reply) => {
                if let Some(conn) = conns.get_mut(id) {
                    conn.session.in_flight -= 1;
                    conn.output().extend_from_slice(&reply);
                    conn.output().push(b'\n');
                }
            }
            Mail::Probe(id) => {
                let _ = self.events.send(Event::Stale(conns.get_mut(id).is_none()));
            }
            Mail::Hold(until) => {
                let _ = self.events.send(Event::Held);
                until.recv().unwrap();
            }
            Mail::Resume(id) => conns.get_mut(id).unwrap().resume_reading(),
            Mail::Timers => {
                ctl.timer_after(Duration::from_millis(3), 3);
                ctl.timer_after(Duration::from_millis(1), 1);
                let never = ctl.timer_after(Duration::from_millis(2), 2);
                assert!(ctl.cancel(never));
                assert!(!ctl.cancel(never));
            }
        }
    }

    fn flush(&mut self, _: &mut Control, _: &mut Connections<Session>) {
        for work in self.waiting.drain(..) {
            self.worker.as_ref().unwrap().send(work).unwrap();
        }
    }

    fn timer(&mut self, _: &mut Control, _: &mut Connections<Session>, token: u64) {
        let _ = self.events.send(Event::Timer(token));
    }

    fn close(&mut self, _: &mut Control, id: ConnId, _: Session) {
        let _ = self.events.send(Event::Closed(id));
    }

    fn idle(&self, conn: &Connection<Session>) -> bool {
        conn.session.in_flight == 0
    }
}

struct Server {
    reactor: Reactor<Mail>,
    events: Receiver<Event>,
    /// Work arrives here and is answered by `Reply`.
    work: Vec<Receiver<(ConnId, Vec<u8>)>>,
}

impl Server {
    fn start(options: Options) -> Server {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (events_in, events) = channel();
        let (senders, work): (Vec<_>, Vec<_>) = (0..options.loops).map(|_| channel()).unzip();
        let reactor = Reactor::start(vec![listener], options, move |index, _: Post<Mail>| Lines {
            index,
            worker: Some(senders[index].clone()),
            events: events_in.clone(),
            waiting: Vec::new(),
            made: 0,
        })
        .unwrap();
        Server { reactor, events, work }
    }

    fn client(&self) -> TcpStream {
        connect(self.reactor.local_addr())
    }

    fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap()
    }

    fn opened(&self) -> ConnId {
        match self.event() {
            Event::Opened(_, id) => id,
            other => panic!("expected an opening, not {other:?}"),
        }
    }

    fn post(&self, mail: Mail) {
        assert!(self.reactor.posts()[0].post(mail).is_ok());
    }

    /// Waits until the counters satisfy `enough`.
    fn until(&self, enough: impl Fn(&Counts) -> bool) {
        let start = Instant::now();
        while !enough(&self.reactor.stats().counts()) {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.reactor.stats().counts());
            thread::yield_now();
        }
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn read_line(socket: &TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    let mut socket = socket;
    while socket.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn a_thousand_connections_at_once_over_three_loops() {
    let server = Server::start(Options { loops: 3, ..Options::default() });
    let clients: Vec<_> = (0..1000).map(|_| server.client()).collect();
    for (number, mut client) in clients.iter().enumerate() {
        writeln!(client, "hello {number}\nwhere").unwrap();
    }
    let mut per_loop = [0; 3];
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(read_line(client), format!("hello {number}"));
        per_loop[read_line(client).parse::<usize>().unwrap()] += 1;
    }
    assert!(per_loop.iter().all(|&n| n == 333 || n == 334), "{per_loop:?}");
    assert_eq!(server.reactor.stats().counts().open, 1000);
    drop(clients);
    server.until(|counts| counts.open == 0 && counts.accepted == 1000);
}

#[test]
fn a_large_input_comes_back_whole_though_it_is_read_slowly() {
    let limits = OutputLimits { soft: 64 << 10, ..OutputLimits::default() };
    let server = Server::start(Options { output: limits, ..Options::default() });
    let client = server.client();
    let lines = 40_000;
    let expected: Vec<String> =
        (0..lines).map(|n| format!("{n} {}", "x".repeat(n % 500))).collect();
    let sent = expected.join("\n") + "\n";
    let mut writer = client.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(sent.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut reader = BufReader::with_capacity(512, client);
    for line in &expected {
        let mut got = String::new();
        reader.read_line(&mut got).unwrap();
        assert_eq!(got.trim_end_matches('\n'), line);
    }
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    writing.join().unwrap();
    assert_eq!(server.reactor.stats().counts().cut_off, 0);
}

#[test]
fn one_request_of_64_mib_arrives() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let line = vec![b'y'; 64 << 20];
    client.write_all(&line).unwrap();
    server.until(|counts| counts.bytes_in == line.len() as u64);
    client.write_all(b"\n").unwrap();
    let mut got = vec![0; line.len() + 1];
    client.read_exact(&mut got).unwrap();
    assert!(got[..line.len()] == line[..]);
}

#[test]
fn who_never_reads_is_paused_and_then_cut_off_as_stalled() {
    let limits = OutputLimits { soft: 64 << 10, hard: 1 << 20, stall: Duration::from_millis(200) };
    let server = Server::start(Options { output: limits, ..Options::default() });
    let mut client = server.client();
    client.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    let chunk = b"some line to be echoed\n".repeat(2000);
    let mut sent = 0u64;
    // Writing stops being possible, since the server reads no more; then the connection goes.
    loop {
        match client.write(&chunk) {
            Ok(n) => sent += n as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        assert!(sent < 1 << 30, "the server goes on reading");
    }
    server.until(|counts| counts.cut_off == 1 && counts.open == 0);
    let counts = server.reactor.stats().counts();
    assert!(counts.bytes_in < counts.bytes_out + (1 << 20), "it kept what it read: {counts:?}");
}

#[test]
fn who_is_owed_more_than_the_hard_limit_is_cut_off() {
    let limits = OutputLimits { soft: 64 << 10, hard: 1 << 20, stall: PATIENCE };
    let server = Server::start(Options { output: limits, ..Options::default() });
    let mut client = server.client();
    writeln!(client, "big {}", 64 << 20).unwrap();
    server.until(|counts| counts.cut_off == 1 && counts.open == 0);
}

/// Of many who ask for much in one wake, some are sent theirs before the others' is made.
#[test]
fn many_large_replies_are_not_made_at_once() {
    const CLIENTS: usize = 40;
    const LEN: usize = 512 << 10;
    let server = Server::start(Options::default());
    let clients: Vec<_> = (0..CLIENTS).map(|_| server.client()).collect();
    for _ in &clients {
        server.opened();
    }
    let (release, until) = channel();
    server.post(Mail::Hold(until));
    assert_eq!(server.event(), Event::Held);
    for mut client in &clients {
        writeln!(client, "big {LEN}").unwrap();
    }
    release.send(()).unwrap();
    for _ in 0..CLIENTS {
        let Event::Unsent(bytes) = server.event() else { panic!("another event") };
        assert!(bytes <= 12 * LEN, "{bytes} bytes wait");
    }
    let mut reply = vec![0; LEN];
    clients.iter().for_each(|mut client| client.read_exact(&mut reply).unwrap());
}

#[test]
fn after_a_half_close_every_answer_still_comes() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.write_all(b"one\nwork two\nwork three\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_line(&client), "one");
    for _ in 0..2 {
        let (id, work) = server.work[0].recv_timeout(PATIENCE).unwrap();
        server.post(Mail::Reply(id, work));
    }
    assert_eq!(read_line(&client), " two");
    assert_eq!(read_line(&client), " three");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    server.until(|counts| counts.open == 0);
}

#[test]
fn an_end_that_comes_during_a_pause_is_noticed_after_it() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.write_all(b"pause\nlast words\n").unwrap();
    let id = server.opened();
    assert_eq!(server.event(), Event::Paused(id));
    client.shutdown(Shutdown::Write).unwrap();
    let before = server.reactor.stats().counts().wakes;
    server.post(Mail::Probe(id));
    assert_eq!(server.event(), Event::Stale(false));
    server.until(|counts| counts.wakes > before);
    server.post(Mail::Resume(id));
    assert_eq!(read_line(&client), "last words");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(server.event(), Event::Closed(id));
}

#[test]
fn stop_answers_what_was_received() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let idle = server.client();
    client.write_all(b"work slow\n").unwrap();
    let (id, work) = server.work[0].recv_timeout(PATIENCE).unwrap();
    client.write_all(b"after\nhalf a li").unwrap();
    let post = server.reactor.posts()[0].clone();
    let addr = server.reactor.local_addr();
    let reactor = server.reactor;
    let stopping = thread::spawn(move || reactor.stop(PATIENCE));
    // The idle one is closed although the other still waits.
    assert_eq!((&idle).read(&mut [0]).unwrap(), 0);
    assert_eq!(read_line(&client), "after");
    assert!(TcpStream::connect(addr).is_err(), "it still accepts");
    assert!(post.post(Mail::Reply(id, work)).is_ok());
    assert_eq!(read_line(&client), " slow");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    stopping.join().unwrap().unwrap();
    assert!(post.post(Mail::Timers).is_err(), "the loop should be gone");
}

#[test]
fn stop_does_not_wait_longer_than_it_was_told() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.write_all(b"work never answered\n").unwrap();
    server.work[0].recv_timeout(PATIENCE).unwrap();
    let start = Instant::now();
    server.reactor.stop(Duration::from_millis(50)).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_name_from_before_misses_the_connection_that_has_the_slot_now() {
    let server = Server::start(Options::default());
    let first = server.client();
    let id = server.opened();
    server.post(Mail::Probe(id));
    assert_eq!(server.event(), Event::Stale(false));
    drop(first);
    assert_eq!(server.event(), Event::Closed(id));
    let second = server.client();
    assert_ne!(server.opened(), id);
    server.post(Mail::Probe(id));
    assert_eq!(server.event(), Event::Stale(true));
    (&second).write_all(b"quit\n").unwrap();
    assert_eq!(read_line(&second), "bye");
}

#[test]
fn who_floods_does_not_starve_the_others() {
    let server = Server::start(Options { read_budget: 16 << 10, ..Options::default() });
    let flood = server.client();
    let mut writer = flood.try_clone().unwrap();
    let writing = thread::spawn(move || {
        let chunk = [b"slow\n".to_vec(), b"f\n".repeat(50_000)].concat();
        while writer.write_all(&chunk).is_ok() {}
    });
    let mut drain = flood.try_clone().unwrap();
    let draining = thread::spawn(move || while drain.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {});
    server.until(|counts| counts.bytes_out > 1000);
    let mut other = server.client();
    for round in 0..200 {
        let before = server.reactor.stats().counts().bytes_in;
        writeln!(other, "round {round}").unwrap();
        assert_eq!(read_line(&other), format!("round {round}"));
        let flooded = server.reactor.stats().counts().bytes_in - before;
        assert!(flooded < 64 << 20, "{flooded} bytes of the flood came first");
    }
    flood.shutdown(Shutdown::Both).unwrap();
    writing.join().unwrap();
    draining.join().unwrap();
}

#[test]
fn a_closing_reply_arrives_though_more_was_sent() {
    let server = Server::start(Options::default());
    for _ in 0..50 {
        let mut client = server.client();
        let mut request = b"quit\n".to_vec();
        request.resize(1 << 20, b'z');
        let mut writer = client.try_clone().unwrap();
        let writing = thread::spawn(move || writer.write_all(&request));
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).unwrap();
        assert_eq!(reply, b"bye\n");
        let _ = writing.join().unwrap();
    }
}

#[test]
fn beyond_the_limit_clients_are_told_and_turned_away() {
    let options =
        Options { max_connections: 2, rejection: b"-ERR full\r\n".to_vec(), ..Options::default() };
    let server = Server::start(options);
    let first = server.client();
    let _second = server.client();
    let mut told = String::new();
    server.client().read_to_string(&mut told).unwrap();
    assert_eq!(told, "-ERR full\r\n");
    drop(first);
    server.until(|counts| counts.open == 1 && counts.rejected == 1);
    let mut third = server.client();
    third.write_all(b"in\n").unwrap();
    assert_eq!(read_line(&third), "in");
}

#[test]
fn timers_come_in_order_and_not_when_cancelled() {
    let server = Server::start(Options::default());
    server.post(Mail::Timers);
    assert_eq!(server.event(), Event::Timer(1));
    assert_eq!(server.event(), Event::Timer(3));
}

#[test]
fn an_address_in_use_is_an_error_that_says_so() {
    let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = Listener::bind(first.local_addr()).unwrap_err().to_string();
    assert!(error.contains("in use") && error.contains(&first.local_addr().to_string()), "{error}");
}

#[test]
fn an_idle_loop_sleeps() {
    let server = Server::start(Options::default());
    let mut clients: Vec<_> = (0..10).map(|_| server.client()).collect();
    for client in &mut clients {
        client.write_all(b"half a line").unwrap();
    }
    server.until(|counts| counts.bytes_in == 110);
    server.post(Mail::Timers);
    let before = server.reactor.stats().counts().wakes;
    while server.event() != Event::Timer(3) {}
    let wakes = server.reactor.stats().counts().wakes - before;
    assert!(wakes <= 10, "{wakes} wakes for two timers");
}

/// Runs the ignored test below with few descriptors.
#[test]
fn running_out_of_descriptors_only_delays() {
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 48; exec \"$0\" --exact few_descriptors --ignored --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let addr = loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "no address");
        if let Some((_, addr)) = line.trim().split_once("serving on ") {
            break addr.parse().unwrap();
        }
    };
    let clients: Vec<_> = (0..100).map(|_| connect(addr)).collect();
    for mut client in &clients {
        client.write_all(b"me\n").unwrap();
    }
    // The first ones are served and make room; then come those that had to wait.
    for client in clients {
        assert_eq!(read_line(&client), "me");
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "a child process of running_out_of_descriptors_only_delays"]
fn few_descriptors() {
    let server = Server::start(Options::default());
    println!("serving on {}", server.reactor.local_addr());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let wakes = server.reactor.stats().counts().wakes;
    assert!(wakes < 2000, "{wakes} wakes");
    server.reactor.stop(PATIENCE).unwrap();
}
