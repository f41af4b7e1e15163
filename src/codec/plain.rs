//! The codec "none": bytes as they are.

use super::decoder::{Checkpoint, Progress, Resume, Unpack};
use super::encoder::Pack;
use crate::error::Result;

/// Copies, in both directions; also its own checkpoint.
#[derive(Clone, Default)]
pub(super) struct Copier {
    copied: u64,
}

impl Pack for Copier {
    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(data);
        Ok(())
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}

impl Unpack for Copier {
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let copied = input.len().min(output.len());
        if let (Some(to), Some(from)) = (output.get_mut(..copied), input.get(..copied)) {
            to.copy_from_slice(from);
        }
        self.copied += copied as u64;
        Ok(Progress {
            consumed: copied,
            produced: copied,
            ended: false,
        })
    }

    fn consumed(&self) -> u64 {
        self.copied
    }

    fn position(&self) -> u64 {
        self.copied
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        (self.copied > 0).then(|| Checkpoint::new(self.clone()))
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

impl Resume for Copier {
    fn input_offset(&self) -> u64 {
        self.copied
    }

    fn output_offset(&self) -> u64 {
        self.copied
    }

    fn size_in_memory(&self) -> usize {
        size_of::<Self>()
    }

    fn resume(&self) -> Result<Box<dyn Unpack>> {
        Ok(Box::new(self.clone()))
    }
}
