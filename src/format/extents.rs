//! Which object holds which part of an image, once all layers of a chain are laid over
//! each other.

/// One object of one layer: the range of the image that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Number of the object; the caller's own.
    pub object: usize,
    /// Where its data begins in the image, in bytes.
    pub offset: u64,
    /// Length of its data, in bytes.
    pub length: u64,
}

/// A range of the image that comes from one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte of the range in the image.
    pub start: u64,
    /// The byte behind the range.
    pub end: u64,
    /// The object that holds it.
    pub object: usize,
    /// Where `start` lies in the object's data.
    pub object_offset: u64,
}

/// Lays `layers` over each other, the newest first: what a newer object holds hides
/// all older ones there. The result is sorted, does not overlap, ends at `size`, and has
/// gaps where no object holds anything.
pub fn resolve(newest_first: impl IntoIterator<Item = Vec<Layer>>, size: u64) -> Vec<Extent> {
    let mut resolved: Vec<Extent> = Vec::new();
    for layer in newest_first {
        let flat = flatten(layer, size);
        if !flat.is_empty() {
            resolved = fill_gaps(resolved, flat);
        }
    }
    resolved
}

/// The objects of one layer, sorted. Metadata in which two overlap is refused when it
/// is read, so that nothing here has to choose between them.
fn flatten(layer: Vec<Layer>, size: u64) -> Vec<Extent> {
    let mut extents: Vec<Extent> = layer
        .into_iter()
        .filter_map(|object| {
            let end = object.offset.checked_add(object.length)?.min(size);
            (object.offset < end).then_some(Extent {
                start: object.offset,
                end,
                object: object.object,
                object_offset: 0,
            })
        })
        .collect();
    extents.sort_by_key(|extent| extent.start);
    extents
}

/// `upper`, and `lower` wherever `upper` has nothing. Both sorted, without overlaps.
fn fill_gaps(upper: Vec<Extent>, lower: Vec<Extent>) -> Vec<Extent> {
    if upper.is_empty() {
        return lower;
    }
    let mut filled = Vec::with_capacity(upper.len() + lower.len());
    let mut upper = upper.into_iter().peekable();
    for mut below in lower {
        while below.start < below.end {
            match upper.peek() {
                Some(above) if above.end <= below.start => {
                    filled.extend(upper.next());
                }
                Some(above) if above.start < below.end => {
                    if below.start < above.start {
                        filled.push(Extent {
                            end: above.start,
                            ..below
                        });
                    }
                    below.object_offset += above.end.min(below.end) - below.start;
                    below.start = above.end.min(below.end);
                }
                _ => {
                    filled.push(below);
                    break;
                }
            }
        }
    }
    filled.extend(upper);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paint(layers: &[Vec<Layer>], size: u64) -> Vec<Option<(usize, u64)>> {
        let mut image = vec![None; size as usize];
        for layer in layers.iter().rev() {
            for object in layer {
                for i in 0..object.length {
                    if let Some(byte) = image.get_mut((object.offset + i) as usize) {
                        *byte = Some((object.object, i));
                    }
                }
            }
        }
        image
    }

    fn check(layers: &[Vec<Layer>], size: u64) {
        let extents = resolve(layers.to_vec(), size);
        let mut image = vec![None; size as usize];
        let mut end = 0;
        for extent in &extents {
            assert!(end <= extent.start && extent.start < extent.end && extent.end <= size);
            end = extent.end;
            for at in extent.start..extent.end {
                image[at as usize] =
                    Some((extent.object, extent.object_offset + at - extent.start));
            }
        }
        assert_eq!(image, paint(layers, size));
    }

    #[test]
    fn newest_layer_wins() {
        let full = vec![Layer {
            object: 0,
            offset: 0,
            length: 10,
        }];
        let middle = vec![Layer {
            object: 1,
            offset: 3,
            length: 4,
        }];
        let newest = vec![
            Layer {
                object: 2,
                offset: 4,
                length: 1,
            },
            Layer {
                object: 3,
                offset: 9,
                length: 5,
            },
        ];
        check(&[newest, middle, full], 12);
    }

    #[test]
    fn lengths_from_outside_do_not_overflow() {
        let layers = vec![Layer {
            object: 0,
            offset: u64::MAX,
            length: u64::MAX,
        }];
        assert_eq!(resolve([layers], 10), []);
    }

    proptest! {
        #[test]
        fn same_as_painting(
            objects in prop::collection::vec(
                prop::collection::vec((0u64..20, 0u64..20), 0..6), 0..5),
            size in 0u64..70,
        ) {
            let mut number = 0;
            let layers: Vec<Vec<Layer>> = objects.iter().map(|layer| {
                let mut end = 0;
                let mut layer: Vec<Layer> = layer.iter().map(|(gap, length)| {
                    number += 1;
                    let offset = end + gap;
                    end = offset + length;
                    Layer { object: number, offset, length: *length }
                }).collect();
                layer.reverse();
                layer
            }).collect();
            check(&layers, size);
        }
    }
}
