//! Queues into a loop, and the bell that wakes the loop at most once for all of them.
//!
//! Any thread posts; the loop's thread takes. A post to a loop that is awake costs no system call,
//! and of many posts to a sleeping one exactly one rings.
//!
//! That no wake-up is lost is up to [`Sleep`], whose module has the proof.
//!
//! The queues are unbounded, since a loop must never make a worker wait that it may itself wait
//! for. What bounds them is that every mail answers a request: the loops stop reading from a
//! connection whose requests are not taken.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use mio::Waker;

use super::sleep::Sleep;

/// Wakes one sleeping thread out of its poll.
#[derive(Debug)]
pub(super) struct Bell {
    sleep: Sleep,
    waker: Waker,
}

impl Bell {
    pub(super) fn new(waker: Waker) -> Arc<Bell> {
        Arc::new(Bell { sleep: Sleep::new(), waker })
    }

    /// Loop's thread: from here on, posts ring. The queues must be looked into once more.
    pub(super) fn fall_asleep(&self) {
        self.sleep.begin();
    }

    /// Loop's thread: after the poll, before the queues are emptied.
    pub(super) fn wake_up(&self) {
        self.sleep.end();
    }

    /// Any thread, after its push.
    fn ring(&self) {
        if self.sleep.must_be_ended()
            && let Err(error) = self.waker.wake()
        {
            log::error!("waking an event loop: {error}");
        }
    }
}

/// The sending end of a loop's queue: any thread may post.
#[derive(Debug)]
pub struct Post<T> {
    queue: Sender<T>,
    bell: Arc<Bell>,
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Post { queue: self.queue.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Post<T> {
    /// Queues `mail` for the loop and wakes it if it sleeps; never blocks. Mails of one thread
    /// arrive in order.
    ///
    /// # Errors
    /// Gives the mail back if the loop has ended.
    pub fn post(&self, mail: T) -> Result<(), T> {
        self.queue.send(mail).map_err(|unsent| unsent.0)?;
        self.bell.ring();
        Ok(())
    }
}

/// The loop's end of a queue.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    queue: Receiver<T>,
}

impl<T> Mailbox<T> {
    pub(super) fn take(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

/// A queue to the thread that sleeps at `bell`; several queues may share one.
pub(super) fn mailbox<T>(bell: &Arc<Bell>) -> (Post<T>, Mailbox<T>) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    (Post { queue: sender, bell: Arc::clone(bell) }, Mailbox { queue: receiver })
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn poll_and_bell() -> (Poll, Arc<Bell>) {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        (poll, Bell::new(waker))
    }

    /// Long enough that a lost wake-up is one, short enough to fail in.
    const LOST: Duration = Duration::from_secs(20);

    #[test]
    fn no_wake_up_is_lost_and_senders_keep_their_order() {
        const THREADS: usize = 8;
        const MAILS: usize = 20_000;
        let (mut poll, bell) = poll_and_bell();
        let (post, mailbox) = mailbox::<(usize, usize)>(&bell);
        let senders: Vec<_> = (0..THREADS)
            .map(|thread| {
                let post = post.clone();
                thread::spawn(move || {
                    for mail in 0..MAILS {
                        post.post((thread, mail)).unwrap();
                        if mail % 64 == thread {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();

        let mut events = Events::with_capacity(4);
        let (mut seen, mut wakes) = ([0; THREADS], 0);
        while seen.iter().sum::<usize>() < THREADS * MAILS {
            bell.fall_asleep();
            if mailbox.is_empty() {
                poll.poll(&mut events, Some(LOST)).unwrap();
                assert!(!events.is_empty(), "slept through a post");
                wakes += 1;
            }
            bell.wake_up();
            while let Some((thread, mail)) = mailbox.take() {
                assert_eq!(seen[thread], mail);
                seen[thread] += 1;
            }
        }
        assert!(wakes <= THREADS * MAILS);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }

    #[test]
    fn ping_pong_between_two_sleepers_never_stops() {
        const ROUNDS: usize = 20_000;
        let (poll_a, bell_a) = poll_and_bell();
        let (poll_b, bell_b) = poll_and_bell();
        let (to_a, in_a) = mailbox::<usize>(&bell_a);
        let (to_b, in_b) = mailbox::<usize>(&bell_b);
        let side = |mut poll: Poll, bell: Arc<Bell>, inbox: Mailbox<usize>, out: Post<usize>| {
            move || {
                let mut events = Events::with_capacity(4);
                loop {
                    bell.fall_asleep();
                    if inbox.is_empty() {
                        poll.poll(&mut events, Some(LOST)).unwrap();
                        assert!(!events.is_empty(), "slept through a post");
                    }
                    bell.wake_up();
                    while let Some(round) = inbox.take() {
                        let _ = out.post(round + 1);
                        if round >= ROUNDS {
                            return;
                        }
                    }
                }
            }
        };
        let b = thread::spawn(side(poll_b, bell_b, in_b, to_a));
        to_b.post(0).unwrap();
        side(poll_a, bell_a, in_a, to_b)();
        b.join().unwrap();
    }

    #[test]
    fn only_a_sleeper_is_rung_and_only_once() {
        let (mut poll, bell) = poll_and_bell();
        let (post, mailbox) = mailbox::<u32>(&bell);
        let mut events = Events::with_capacity(4);
        post.post(1).unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "rang though the loop is awake");
        bell.fall_asleep();
        post.post(2).unwrap();
        assert!(!bell.sleep.must_be_ended(), "the second post would ring again");
        poll.poll(&mut events, Some(LOST)).unwrap();
        assert_eq!(events.iter().count(), 1);
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_post_to_a_loop_that_is_gone_comes_back() {
        let (_poll, bell) = poll_and_bell();
        let (post, mailbox) = mailbox::<u32>(&bell);
        drop(mailbox);
        assert_eq!(post.post(7), Err(7));
    }
}
