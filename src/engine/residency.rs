//! Asking the kernel now and then which pages of the segments are in memory, and telling from what
//! it has taken whether memory is short.
//!
//! Owner: the compactor. Between two looks, loops trust what the last one found
//! ([`Segment::is_resident`](super::segment::Segment::is_resident)), and wait for the disk where a
//! page went meanwhile. A few always go: kernels let go of what nobody has touched for long, with
//! memory to spare. So memory counts as short only when more than a share of the pages goes between
//! two looks, for then the reads that run into it would be as many.

use std::time::{Duration, Instant};

use super::core::Core;

/// How often to ask, unless that takes more than its share of the time.
const PERIOD: Duration = Duration::from_secs(1);
const SHARE_OF_TIME: u32 = 20;
/// Of so many pages in memory, one may go from one look to the next, and some more.
const FEW: u64 = 256;
const SOME: u64 = 16;
/// So long after the last look that found more gone, memory is not short any more.
const CALM: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Residency {
    short: Option<Instant>,
}

impl Residency {
    /// Asks about all segments; when to ask again.
    pub(super) fn look(&mut self, core: &Core) -> Instant {
        let began = Instant::now();
        let (mut known, mut evicted) = (0, 0);
        for segment in core.segments.all() {
            let found = segment.refresh_residency();
            known += found.known;
            evicted += found.evicted;
        }
        core.stats.evicted_pages.add(evicted);
        core.set_pressed(self.is_short(known, evicted, began));
        let now = Instant::now();
        now + PERIOD.max((now - began) * SHARE_OF_TIME)
    }

    /// Whether memory is short, after so many of the pages that were known to be in memory have
    /// gone.
    fn is_short(&mut self, known: u64, evicted: u64, now: Instant) -> bool {
        if evicted > known / FEW + SOME {
            self.short = Some(now);
        }
        self.short.is_some_and(|at| now.duration_since(at) < CALM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_for_a_while_after_more_than_a_few_pages_went() {
        let (mut residency, began) = (Residency::default(), Instant::now());
        let mut is_short =
            |evicted, after| residency.is_short(10 * FEW, SOME + evicted, began + after);
        assert!(!is_short(0, Duration::ZERO));
        assert!(!is_short(10, Duration::ZERO), "a few pages go at any time");
        assert!(is_short(11, Duration::ZERO));
        assert!(is_short(0, CALM / 2));
        assert!(is_short(11, CALM / 2), "anew");
        assert!(is_short(0, CALM));
        assert!(!is_short(10, CALM * 2));
    }
}
