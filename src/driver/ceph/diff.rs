//! Where an image has data, and where it differs from a snapshot of it: the cluster knows
//! that without anything being read.

use super::cluster::c_text;
use super::failure::check;
use super::image::Image;
use super::{MOST_ASKED, OBJECT};
use crate::error::Result;
use std::ffi::{CString, c_int, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is being done, in messages.
const HOLES: &str = "find the holes of the image";
const CHANGES: &str = "find the changes of the image";

/// In an image of so many objects, all of them are asked at once, several at a time: faster
/// than one range after the other.
const MOST_AT_ONCE: u64 = 2048;

/// What a walk over an image has found, in the order in which it was.
#[derive(Debug, Default)]
struct Extents {
    found: Vec<Range<u64>>,
    /// What holds no data any more is to be found as well.
    with_gone: bool,
}

impl Image {
    /// The ranges that hold data, or, with a snapshot, those that it may have otherwise: in
    /// order and not adjoining, within the `size` of the image. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn differs(&self, from: Option<&str>, size: u64) -> Result<Vec<Range<u64>>> {
        let from = from.map(|from| c_text(CHANGES, from)).transpose()?;
        if !self.has_fast_diff()? {
            return self.walk(from.as_ref(), 0..size, false);
        }
        // Which objects these are is told at once, and what of each is asked of it.
        let objects = self.walk(from.as_ref(), 0..size, true)?;
        let bytes: u64 = objects.iter().map(|range| range.end - range.start).sum();
        if bytes.div_ceil(OBJECT) > MOST_ASKED || objects.len() as u64 > MOST_ASKED {
            return Ok(objects);
        }
        if size.div_ceil(OBJECT) <= MOST_AT_ONCE {
            return self.walk(from.as_ref(), 0..size, false);
        }
        let mut all = Vec::new();
        for range in objects {
            all.extend(self.walk(from.as_ref(), range, false)?);
        }
        Ok(in_order(all, size))
    }

    /// The ranges that hold data, as far as that is known without reading: all else is zero.
    /// `whole_objects` makes them as large as objects, which is faster for images that know
    /// which objects they have. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn data(&self, size: u64, whole_objects: bool) -> Result<Vec<Range<u64>>> {
        self.walk(None, 0..size, whole_objects)
    }

    /// The parts of a range that differ from what they were at a snapshot, holes as well as
    /// data: they may be larger than what really differs, never smaller. Blocks.
    ///
    /// # Errors
    /// `NotFound` when there is no such snapshot; those of the cluster.
    pub fn changes(
        &self,
        snap: &str,
        range: Range<u64>,
        whole_objects: bool,
    ) -> Result<Vec<Range<u64>>> {
        let snap = c_text(CHANGES, snap)?;
        self.walk(Some(&snap), range, whole_objects)
    }

    fn walk(
        &self,
        from: Option<&CString>,
        range: Range<u64>,
        whole_objects: bool,
    ) -> Result<Vec<Range<u64>>> {
        if range.is_empty() {
            // The library ends the program when it is asked for nothing.
            return Ok(Vec::new());
        }
        let mut extents = Extents {
            found: Vec::new(),
            with_gone: from.is_some(),
        };
        // SAFETY: the image is open, the text outlives the call; the callback is made for this
        // argument, and is not called any more when the call has returned.
        let walked = unsafe {
            (self.library().rbd.rbd_diff_iterate2)(
                self.handle,
                from.map_or(std::ptr::null(), |from| from.as_ptr()),
                range.start,
                range.end - range.start,
                1,
                u8::from(whole_objects),
                extent_found,
                (&raw mut extents).cast(),
            )
        };
        let op = from.map_or(HOLES, |_| CHANGES);
        check(op, &self.name, walked)?;
        Ok(in_order(extents.found, range.end))
    }
}

unsafe extern "C" fn extent_found(
    offset: u64,
    length: usize,
    exists: c_int,
    argument: *mut c_void,
) -> c_int {
    let noted = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `walk` has given a pointer to this, which nobody else uses meanwhile.
        let extents = unsafe { &mut *argument.cast::<Extents>() };
        if exists != 0 || extents.with_gone {
            let end = offset.saturating_add(length as u64);
            extents.found.push(offset..end);
        }
    }));
    // Out of memory is no reason to take data for a hole.
    if noted.is_ok() { 0 } else { -libc::ENOMEM }
}

/// Ranges, sorted, within `size` bytes, and those that adjoin joined.
pub fn in_order(mut ranges: Vec<Range<u64>>, size: u64) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let range = range.start.min(size)..range.end.min(size);
        match joined.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_put_in_order() {
        let found = vec![8..12, 0..4, 4..6, 30..40, 11..13, 50..60, 7..7];
        assert_eq!(in_order(found, 35), [0..6, 8..13, 30..35]);
    }
}
