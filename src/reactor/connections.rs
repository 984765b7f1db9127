//! The connections of one loop, by slot and generation. Owned by the loop.
//!
//! Always true: whoever got a connection to change it has touched it, and every touched connection
//! is settled once at the end of the wake: written, closed, given another turn, or put to rest.

use std::collections::VecDeque;

use slab::Slab;

use super::connection::{ConnId, Connection};
use super::spares::Spares;

/// The connections of one loop.
#[derive(Debug)]
pub struct Connections<S> {
    slots: Slab<Connection<S>>,
    last_generation: u32,
    touched: Vec<u32>,
    turns: VecDeque<u32>,
    pub(super) spares: Spares,
}

impl<S> Connections<S> {
    pub(super) fn new() -> Connections<S> {
        Connections {
            slots: Slab::new(),
            last_generation: 0,
            touched: Vec::new(),
            turns: VecDeque::new(),
            spares: Spares::default(),
        }
    }

    /// The connection with this name, to look at; `None` if it is gone.
    pub fn get(&self, id: ConnId) -> Option<&Connection<S>> {
        self.slots.get(id.slot as usize).filter(|conn| conn.id() == id)
    }

    /// The connection with this name, to append replies to; `None` if it is gone.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        self.get(id)?;
        self.touch(id.slot).map(|(conn, _)| conn)
    }

    /// All connections, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Connection<S>> {
        self.slots.iter().map(|(_, conn)| conn)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The name that the next connection will have.
    pub(super) fn next_id(&self) -> ConnId {
        let slot = self.slots.vacant_key() as u32;
        ConnId { slot, generation: self.last_generation.wrapping_add(1) }
    }

    /// Adds the connection that was made with [`next_id`](Self::next_id).
    pub(super) fn insert(&mut self, conn: Connection<S>) {
        debug_assert_eq!(conn.id(), self.next_id());
        self.last_generation = conn.id().generation;
        self.slots.insert(conn);
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Connection<S>> {
        let mut conn = self.slots.try_remove(slot as usize)?;
        conn.input().clear();
        conn.tidy(&mut self.spares);
        Some(conn)
    }

    pub(super) fn slot(&mut self, slot: u32) -> Option<&mut Connection<S>> {
        self.slots.get_mut(slot as usize)
    }

    /// Marks a connection for the end of the wake and lends it an output.
    pub(super) fn touch(&mut self, slot: u32) -> Option<(&mut Connection<S>, &mut Spares)> {
        let conn = self.slots.get_mut(slot as usize)?;
        if !conn.touched {
            conn.touched = true;
            conn.lend(&mut self.spares);
            self.touched.push(slot);
        }
        Some((conn, &mut self.spares))
    }

    pub(super) fn touch_all(&mut self) {
        for (slot, conn) in &mut self.slots {
            if !conn.touched {
                conn.touched = true;
                self.touched.push(slot as u32);
            }
        }
    }

    /// Those to be settled, in the order in which they were touched; goes back to
    /// [`put_touched`](Self::put_touched).
    pub(super) fn take_touched(&mut self) -> Vec<u32> {
        for &slot in &self.touched {
            if let Some(conn) = self.slots.get_mut(slot as usize) {
                conn.touched = false;
            }
        }
        std::mem::take(&mut self.touched)
    }

    /// Takes the list back for the next wake.
    pub(super) fn put_touched(&mut self, mut settled: Vec<u32>) {
        debug_assert!(self.touched.is_empty(), "touched while settling");
        settled.clear();
        self.touched = settled;
    }

    /// Gives a connection a turn in the next wake, behind those that have one already.
    pub(super) fn queue_turn(&mut self, slot: u32) {
        if let Some(conn) = self.slots.get_mut(slot as usize)
            && !conn.queued
        {
            conn.queued = true;
            self.turns.push_back(slot);
        }
    }

    /// Gives back the memory that a connection does not need until something happens.
    pub(super) fn rest(&mut self, slot: u32) {
        if let Some(conn) = self.slots.get_mut(slot as usize) {
            conn.tidy(&mut self.spares);
        }
    }

    /// Gives everyone a turn that reads the socket, whether or not it is known to hold bytes.
    pub(super) fn queue_last_turns(&mut self) {
        for (slot, conn) in &mut self.slots {
            conn.readable = true;
            if !conn.queued {
                conn.queued = true;
                self.turns.push_back(slot as u32);
            }
        }
    }

    /// Closes everyone at the end of this wake.
    pub(super) fn close_all(&mut self) {
        self.touch_all();
        for (_, conn) in &mut self.slots {
            conn.close_now();
        }
    }

    /// How many connections have a turn coming.
    pub(super) fn turns(&self) -> usize {
        self.turns.len()
    }

    pub(super) fn pop_turn(&mut self) -> Option<u32> {
        let slot = self.turns.pop_front()?;
        if let Some(conn) = self.slots.get_mut(slot as usize) {
            conn.queued = false;
        }
        Some(slot)
    }
}
