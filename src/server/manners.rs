//! CLIENT REPLY: whether requests of a connection are answered.
//!
//! Thread: the connection's loop.

use super::pipeline::Form;
use crate::command::Replies;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    off: bool,
    /// The request under way is not answered.
    skip: bool,
    /// Nor is the one after it.
    skip_next: bool,
}

impl Manners {
    /// What the request under way asks for. It is the first that it holds for, but for SKIP, which
    /// is not answered itself.
    pub fn set(&mut self, replies: Replies) {
        match replies {
            Replies::On => *self = Manners::default(),
            Replies::Off => self.off = true,
            // Where nothing is answered there is nothing to skip.
            Replies::Skip if self.off => {}
            Replies::Skip => (self.skip, self.skip_next) = (true, true),
        }
    }

    /// RESET: from the next request on everything is answered, and itself unless it is skipped.
    pub fn start_over(&mut self) {
        *self = Manners { skip: self.skip, ..Manners::default() };
    }

    /// The form in which the request under way is answered.
    pub fn form(&self, form: Form) -> Form {
        if self.off || self.skip { Form::Silent } else { form }
    }

    /// The request under way is done with.
    pub fn next(&mut self) {
        self.skip = std::mem::take(&mut self.skip_next);
    }
}
