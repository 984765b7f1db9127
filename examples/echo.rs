//! An echo server: `echo [ADDR]`, by default on 127.0.0.1:4001. The smallest service there is.

use kvs::Result;
use kvs::reactor::{
    ConnId, Connection, Connections, Control, Listener, Options, Peer, Reactor, Service,
};

struct Echo;

impl Service for Echo {
    type Session = ();
    type Mail = ();

    fn open(&mut self, _: &mut Control, _: ConnId, _: Peer) {}

    fn data(&mut self, _: &mut Control, conn: &mut Connection<()>) {
        let parts = conn.parts();
        parts.output.extend_from_slice(parts.input.readable());
        parts.input.clear();
    }

    fn mail(&mut self, _: &mut Control, _: &mut Connections<()>, _: ()) {}

    fn close(&mut self, _: &mut Control, _: ConnId, _: ()) {}

    fn idle(&self, _: &Connection<()>) -> bool {
        true
    }
}

fn main() -> Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:4001".into());
    let addr = addr.parse().map_err(|_| kvs::KvsError::Invalid(format!("{addr}: no IP:PORT")))?;
    let listener = Listener::bind(addr)?;
    println!("echoing on {}", listener.local_addr());
    Reactor::start(vec![listener], Options::default(), |_, _| Echo)?.wait()
}
