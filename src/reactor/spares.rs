//! Buffers that a loop lends to the connections that hold bytes at the moment. Owned by the loop.
//!
//! Always true: what lies here is empty and of a usual size, and all of it together is bounded, so
//! that a burst leaves no lasting mark. In a steady state nothing is allocated per event.

/// The size of lent input storage, in bytes: one read drains what a busy client sends in one go.
pub(super) const INPUT_BYTES: usize = 64 << 10;

/// Input storages kept at most; more are in use only while so many requests are half received.
const INPUTS_KEPT: usize = 16;

/// An output larger than this many bytes is freed instead of kept.
const OUTPUT_MAX: usize = 256 << 10;

/// Output capacity kept at most, in bytes.
const OUTPUTS_KEPT: usize = 8 << 20;

/// The spare buffers of one loop.
#[derive(Debug, Default)]
pub(super) struct Spares {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    output_bytes: usize,
}

impl Spares {
    /// Initialised storage of `INPUT_BYTES`.
    pub(super) fn take_input(&mut self) -> Vec<u8> {
        self.inputs.pop().unwrap_or_else(|| vec![0; INPUT_BYTES])
    }

    /// Takes storage back, or frees it if it is of another size or enough is here.
    pub(super) fn put_input(&mut self, storage: Vec<u8>) {
        if storage.len() == INPUT_BYTES && self.inputs.len() < INPUTS_KEPT {
            self.inputs.push(storage);
        }
    }

    /// An empty vector, with capacity if one is here.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        let output = self.outputs.pop().unwrap_or_default();
        self.output_bytes -= output.capacity();
        output
    }

    /// Takes an output back, or frees it if it is too large or enough is here.
    pub(super) fn put_output(&mut self, mut output: Vec<u8>) {
        let size = output.capacity();
        if size > 0 && size <= OUTPUT_MAX && self.output_bytes + size <= OUTPUTS_KEPT {
            output.clear();
            self.output_bytes += size;
            self.outputs.push(output);
        }
    }

    #[cfg(test)]
    pub(super) fn inputs(&self) -> usize {
        self.inputs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spares = Spares::default();
        for _ in 0..1000 {
            spares.put_output(Vec::with_capacity(OUTPUT_MAX));
            spares.put_input(vec![0; INPUT_BYTES]);
        }
        assert_eq!(spares.outputs.len(), OUTPUTS_KEPT / OUTPUT_MAX);
        assert_eq!(spares.inputs.len(), INPUTS_KEPT);
        while spares.take_output().capacity() > 0 {}
        assert_eq!(spares.output_bytes, 0);
        spares.put_output(Vec::with_capacity(OUTPUT_MAX + 1));
        assert_eq!(spares.take_output().capacity(), 0);
    }
}
