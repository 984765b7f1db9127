//! Random numbers that a failure can repeat.
//!
//! Each test file compiles this anew and uses a part of it.
#![allow(dead_code)]

use std::time::SystemTime;

/// SplitMix64: seeds next to each other make numbers that have nothing in common.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// Seeded by [`seed`].
    pub fn seeded() -> Random {
        Random(seed())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`, which must not be 0.
    #[track_caller]
    pub fn below<N>(&mut self, end: N) -> N
    where
        N: TryFrom<u64>,
        u64: TryFrom<N>,
    {
        let end = u64::try_from(end).unwrap_or_else(|_| panic!("a negative bound"));
        N::try_from(self.next() % end).unwrap_or_else(|_| unreachable!("it is below the bound"))
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// The seed in KVS_SEED, else one from the clock; printed, so that a failure tells it.
pub fn seed() -> u64 {
    let given = std::env::var("KVS_SEED").ok();
    let seed = match given {
        Some(seed) => seed.parse().unwrap_or_else(|_| panic!("KVS_SEED is a number")),
        None => SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64),
    };
    println!("to repeat it: KVS_SEED={seed}");
    seed
}
