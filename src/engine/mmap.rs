//! What is asked of the system about memory: segments mapped for reading, which of their pages are in
//! memory, and taking back what was freed.
//!
//! Any thread. Invariant: callers ask only for bytes below a segment's published length. Those
//! never change any more (records are appended, published once, and a sealed file is never cut
//! below its length), so a shared slice of them is sound although the file's end is being written.
#![allow(unsafe_code)]

use std::fs;
use std::io;

use memmap2::{Advice, Mmap, MmapOptions};

/// The page size that residency is counted in.
pub const PAGE: usize = 4096;

/// A read-only map of a file's first bytes.
#[derive(Debug)]
pub struct Map {
    map: Mmap,
}

impl Map {
    /// Maps `capacity` bytes from the start of `file`, which may be shorter still: what lies behind
    /// its end must not be touched before it was written.
    pub fn new(file: &fs::File, capacity: u64) -> io::Result<Map> {
        let capacity = usize::try_from(capacity)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "segment too large to map"))?;
        // SAFETY: the directory is locked, so only this process writes the file, and it writes only
        // behind the published length (module doc). Another program that cuts the file short would
        // make an access fault (SIGBUS): a stop, never a wrong value.
        let map = unsafe { MmapOptions::new().len(capacity.max(1)).map(file)? };
        // Reads are of single records: reading ahead would only push out other pages. Advice only,
        // so a refusal is of no consequence.
        let _ = map.advise(Advice::Random);
        Ok(Map { map })
    }

    /// A map of nothing, for a file that is not there.
    pub fn empty() -> io::Result<Map> {
        Ok(Map { map: MmapOptions::new().len(1).map_anon()?.make_read_only()? })
    }

    /// The bytes from `offset`, `len` of them. `None` where that lies outside the map.
    pub fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.map.get(start..start.checked_add(len)?)
    }

    /// Tells for each page of the first `len` bytes whether it is in memory, in bit 0 of a byte.
    pub fn resident_pages(&self, len: usize) -> io::Result<Vec<u8>> {
        let len = len.min(self.map.len());
        let mut pages = vec![0u8; len.div_ceil(PAGE)];
        // SAFETY: the range lies inside the map, which starts on a page, and `pages` has room for
        // one byte per page of it.
        let code = unsafe {
            libc::mincore(self.map.as_ptr().cast_mut().cast(), len, pages.as_mut_ptr().cast())
        };
        if code == 0 { Ok(pages) } else { Err(io::Error::last_os_error()) }
    }
}

/// Asks for these bytes from memory, all lines of their first 2 KiB at once: who then reads one after the
/// other waits once. (Random gets of 1 KiB: 1.2 of without; of 100 bytes no more.)
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        const MOST: usize = 32;
        // A record begins anywhere in a line: the last byte counts, too.
        for byte in bytes.iter().step_by(LINE).take(MOST).chain(bytes.last()) {
            // SAFETY: a hint without effect on what is computed, for an address inside a slice.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Gives freed memory back to the system, where the allocator would keep it in case it is needed
/// again: opening a store frees a third of what it takes (tables that grew, hints).
pub fn give_back_freed() {
    // SAFETY: it may be called at any time by any thread, and frees nothing that is in use.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
