//! How long something took, and how often: counts in steps that double, each in four parts.
//!
//! One thread adds, with plain stores; any may read. A reading is of no one moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::stats::add_alone;

/// Times below 2^10 ns are not told apart, as in Redis.
const LEAST: u32 = 10;
/// The step that begins at 2^30 ns, about a second, is the last.
const MOST: u32 = 30;
/// Parts of a step.
const PARTS: usize = 4;
const PLACES: usize = 1 + (MOST - LEAST + 1) as usize * PARTS;

/// Counts that are added to.
#[derive(Debug)]
pub struct Histogram([AtomicU64; PLACES]);

/// Counts that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted([u64; PLACES]);

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram([const { AtomicU64::new(0) }; PLACES])
    }
}

impl Default for Counted {
    fn default() -> Counted {
        Counted([0; PLACES])
    }
}

fn place(nanos: u64) -> usize {
    let step = nanos.max(1).ilog2();
    if step < LEAST {
        return 0;
    }
    if step > MOST {
        return PLACES - 1;
    }
    let part = (nanos >> (step - 2)) as usize % PARTS;
    1 + (step - LEAST) as usize * PARTS + part
}

/// The largest time in a place, in nanoseconds.
fn end(place: usize) -> u64 {
    let Some(place) = place.checked_sub(1) else { return (1 << LEAST) - 1 };
    let step = LEAST + (place / PARTS) as u32;
    (1 << step) + ((place % PARTS) as u64 + 1) * (1 << (step - 2)) - 1
}

impl Histogram {
    /// For the one thread that adds.
    pub fn add(&self, nanos: u64, weight: u64) {
        add_alone(&self.0[place(nanos)], weight);
    }

    /// Adds what has been counted so far to `sum`.
    pub fn add_to(&self, sum: &mut Counted) {
        for (sum, count) in sum.0.iter_mut().zip(&self.0) {
            *sum += count.load(Relaxed);
        }
    }
}

impl Counted {
    /// What was counted since `before`.
    pub fn since(&self, before: &Counted) -> Counted {
        let mut since = self.clone();
        for (count, before) in since.0.iter_mut().zip(&before.0) {
            *count = count.saturating_sub(*before);
        }
        since
    }

    /// How often it took at most so many microseconds, for each power of two of them up to the
    /// longest time, as Redis labels them. Only those that add something.
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let (mut sum, mut rows) = (0, Vec::<(u64, u64)>::new());
        for step in LEAST..=MOST + 1 {
            let first = if step == LEAST { 0 } else { 1 + (step - LEAST - 1) as usize * PARTS };
            let last = if step == LEAST { 0 } else { first + PARTS - 1 };
            let before = sum;
            sum += self.0[first..=last].iter().sum::<u64>();
            match rows.last_mut() {
                _ if sum == before => {}
                Some((last, count)) if *last == label(step) => *count = sum,
                _ => rows.push((label(step), sum)),
            }
        }
        rows
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// The time in microseconds that so many hundredths took no longer than.
    pub fn percentile(&self, hundredths: f64) -> f64 {
        let total: u64 = self.0.iter().sum();
        let wanted = ((total as f64) * hundredths / 100.0).ceil().max(1.0) as u64;
        let mut sum = 0;
        for (place, count) in self.0.iter().enumerate() {
            sum += count;
            if sum >= wanted {
                return end(place) as f64 / 1000.0;
            }
        }
        0.0
    }
}

/// What Redis calls the times up to 2^step ns: its histogram has 128 places from each power of two
/// to the next, and it names the last of the place that begins there, in microseconds. Nothing is
/// counted beyond 2^30 ns.
fn label(step: u32) -> u64 {
    let begin = 1_u64 << step.min(MOST);
    let width = if step >= MOST { 0 } else { begin / 128 };
    (begin + width.saturating_sub(1)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(times: &[u64]) -> Counted {
        let (histogram, mut counted) = (Histogram::default(), Counted::default());
        times.iter().for_each(|nanos| histogram.add(*nanos, 1));
        histogram.add_to(&mut counted);
        counted
    }

    #[test]
    fn places_are_in_order_and_without_gaps() {
        for place_ in 0..PLACES - 1 {
            assert_eq!(place(end(place_)), place_);
            assert_eq!(place(end(place_) + 1), place_ + 1);
        }
        assert_eq!((place(0), place(u64::MAX)), (0, PLACES - 1));
    }

    #[test]
    fn labels_are_those_of_redis() {
        let labels: Vec<u64> = (LEAST..=MOST).map(label).collect();
        assert_eq!(
            labels,
            [
                1, 2, 4, 8, 16, 33, 66, 132, 264, 528, 1056, 2113, 4227, 8454, 16908, 33816, 67633,
                135266, 270532, 541065, 1073741
            ]
        );
    }

    #[test]
    fn the_last_two_steps_have_one_label() {
        let rows = counted(&[900_000_000, 1_100_000_000]).cumulative();
        assert_eq!(rows, [(1_073_741, 2)]);
    }

    #[test]
    fn counts_add_up() {
        let some = counted(&[500, 900, 1500, 3000, 3000, 1_000_000, 5_000_000_000]);
        assert_eq!(some.cumulative(), [(1, 2), (2, 3), (4, 5), (1056, 6), (1073741, 7)]);
        assert!((1.0..1.1).contains(&some.percentile(20.0)), "{}", some.percentile(20.0));
        assert!((3.0..3.6).contains(&some.percentile(50.0)), "{}", some.percentile(50.0));
        assert_eq!(some.since(&some).cumulative(), []);
        assert_eq!(counted(&[]).percentile(50.0), 0.0);
    }
}
