//! The one place of this module that makes threads: the acceptor and the loops, and their end.
//!
//! Owned by whoever started the reactor. Always true: all sockets, polls and queues exist before
//! the first thread does, so that a failure leaves none behind; and the loops stop after the
//! acceptor, so that no socket comes to a loop that is gone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Poll, Waker};

use super::acceptor::{Acceptor, Limits, Listener};
use super::admission::Admission;
use super::event_loop::{BELL, EventLoop, Order, Seed};
use super::mailbox::{Bell, Post, mailbox};
use super::options::Options;
use super::service::Service;
use super::stats::Stats;
use crate::error::{KvsError, Result};

/// Running event loops with their acceptor. `M` is what can be posted to the loops.
///
/// Dropping it stops everything at once, without waiting for replies.
#[derive(Debug)]
pub struct Reactor<M: Send + 'static> {
    posts: Vec<Post<M>>,
    orders: Vec<Post<Order>>,
    stop_acceptor: Post<()>,
    acceptor: Option<JoinHandle<io::Result<()>>>,
    loops: Vec<JoinHandle<io::Result<()>>>,
    addr: SocketAddr,
    stats: Stats,
    admission: Admission,
}

impl<M: Send + 'static> Reactor<M> {
    /// Starts the threads. `factory` is called on each loop's thread with the loop's number and the
    /// means to post to it.
    ///
    /// # Errors
    /// When there is no listener or no loop, or the system refuses polls or threads.
    pub fn start<S, F>(listeners: Vec<Listener>, options: Options, factory: F) -> Result<Reactor<M>>
    where
        S: Service<Mail = M>,
        F: Fn(usize, Post<M>) -> S + Send + Sync + 'static,
    {
        let first = listeners.first().filter(|_| options.loops > 0);
        let addr = first
            .map(Listener::local_addr)
            .ok_or_else(|| KvsError::Invalid("a reactor needs a listener and a loop".into()))?;
        let stats = Stats::new(options.loops);
        let (mut posts, mut orders, mut seeds) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..options.loops {
            let (poll, bell) = poll_with_bell()?;
            let (order, order_box) = mailbox(&bell);
            let (post, mails) = mailbox(&bell);
            posts.push(post);
            orders.push(order);
            let stats = stats.clone();
            seeds.push(Seed { index, poll, bell, orders: order_box, mails, stats });
        }
        let (poll, bell) = poll_with_bell()?;
        let (stop_acceptor, stop) = mailbox(&bell);
        let admission = Admission::new(options.max_connections, options.keepalive);
        let limits = Limits {
            admission: admission.clone(),
            descriptors: options.descriptors,
            rejection: options.rejection.clone(),
        };
        let acceptor =
            Acceptor::new(listeners, (poll, bell, stop), orders.clone(), limits, stats.clone())?;

        let mut reactor = Reactor {
            posts,
            orders,
            stop_acceptor,
            acceptor: None,
            loops: Vec::new(),
            addr,
            stats,
            admission,
        };
        reactor.spawn_loops(seeds, options, Arc::new(factory))?;
        reactor.acceptor = Some(spawn("acceptor".into(), move || acceptor.run())?);
        Ok(reactor)
    }

    fn spawn_loops<S, F>(
        &mut self,
        seeds: Vec<Seed<M>>,
        options: Options,
        factory: Arc<F>,
    ) -> Result<()>
    where
        S: Service<Mail = M>,
        F: Fn(usize, Post<M>) -> S + Send + Sync + 'static,
    {
        for seed in seeds {
            let (factory, options) = (Arc::clone(&factory), options.clone());
            let post = self.posts[seed.index].clone();
            let name = format!("loop-{}", seed.index);
            self.loops.push(spawn(name, move || {
                let service = factory(seed.index, post);
                EventLoop::new(seed, &options, service).run()
            })?);
        }
        Ok(())
    }

    /// One post per loop, in the order of the loops.
    pub fn posts(&self) -> &[Post<M>] {
        &self.posts
    }

    /// The address of the first listener.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Who is let in.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Whether a thread has ended that should be running: a service panicked or a poll failed. The
    /// other loops go on, but the process should not.
    pub fn has_failed(&self) -> bool {
        self.loops.iter().any(JoinHandle::is_finished)
    }

    /// Closes the listeners soon; connections go on.
    pub fn stop_accepting(&self) {
        // An error means that the acceptor has ended already.
        let _ = self.stop_acceptor.post(());
    }

    /// Stops accepting, lets the services answer what was received, sends it, closes, and joins the
    /// threads. What takes longer than `patience` is cut short. Workers that answer must run on
    /// until this returns.
    ///
    /// # Errors
    /// When a thread had failed or panicked.
    pub fn stop(mut self, patience: Duration) -> Result<()> {
        self.stop_threads(patience)
    }

    /// Waits until the threads end, which without a failure they do not.
    ///
    /// # Errors
    /// When a thread failed or panicked.
    pub fn wait(mut self) -> Result<()> {
        join(self.acceptor.take().into_iter().chain(self.loops.drain(..)))
    }

    fn stop_threads(&mut self, patience: Duration) -> Result<()> {
        self.stop_accepting();
        let accepting = join(self.acceptor.take());
        for order in &self.orders {
            // An error means that the loop has ended already; joining it tells why.
            let _ = order.post(Order::Stop(patience));
        }
        join(self.loops.drain(..)).and(accepting)
    }
}

impl<M: Send + 'static> Drop for Reactor<M> {
    fn drop(&mut self) {
        if let Err(error) = self.stop_threads(Duration::ZERO) {
            log::error!("stopping the reactor: {error}");
        }
    }
}

fn poll_with_bell() -> Result<(Poll, Arc<Bell>)> {
    let poll = Poll::new().map_err(KvsError::io("making a poll"))?;
    let waker = Waker::new(poll.registry(), BELL).map_err(KvsError::io("making a waker"))?;
    Ok((poll, Bell::new(waker)))
}

fn spawn(
    name: String,
    body: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<io::Result<()>>> {
    let logged = name.clone();
    let body = move || body().inspect_err(|error| log::error!("thread {logged} ended: {error}"));
    thread::Builder::new().name(name).spawn(body).map_err(KvsError::io("starting a thread"))
}

/// Waits for all of them; the first failure is the result.
fn join(threads: impl IntoIterator<Item = JoinHandle<io::Result<()>>>) -> Result<()> {
    let mut result = Ok(());
    for thread in threads {
        let name = thread.thread().name().unwrap_or("unnamed").to_owned();
        let ended = match thread.join() {
            Ok(ended) => ended.map_err(KvsError::io(format!("thread {name}"))),
            Err(_) => Err(KvsError::Invalid(format!("thread {name} panicked"))),
        };
        result = result.and(ended);
    }
    result
}
