//! A fixed pool of threads for work that blocks.
