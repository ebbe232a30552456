//! Ranges of guest addresses, put together where they adjoin.

/// Ranges that one chain names, in any order. Used again and again: it allocates only while it grows.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds `length` bytes at `start`. Their end must not overflow.
    pub(crate) fn push(&mut self, start: u64, length: u64) {
        self.0.push((start, start + length));
    }

    /// The ranges in ascending order, those that adjoin or overlap as one: start and length. A call to the kernel
    /// per range costs more than the sorting, and drivers hand out pages from high to low, or in no order.
    pub(crate) fn merged(&mut self) -> impl Iterator<Item = (u64, u64)> {
        self.0.sort_unstable();
        let mut rest = self.0.iter().copied().peekable();
        std::iter::from_fn(move || {
            let (start, mut end) = rest.next()?;
            while let Some((_, next)) = rest.next_if(|(start, _)| *start <= end) {
                end = end.max(next);
            }
            Some((start, end - start))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut all = Ranges::default();
        for (start, length) in ranges {
            all.push(*start, *length);
        }
        all.merged().collect()
    }

    #[test]
    fn adjoining_and_overlapping_ranges_are_one() {
        assert_eq!(merged(&[]), []);
        assert_eq!(merged(&[(8, 4), (4, 4), (0, 4)]), [(0, 12)]);
        assert_eq!(
            merged(&[(0, 4), (8, 4), (0, 4), (20, 1)]),
            [(0, 4), (8, 4), (20, 1)]
        );
        assert_eq!(merged(&[(0, 100), (10, 5), (50, 60)]), [(0, 110)]);
        assert_eq!(merged(&[(u64::MAX - 4, 4)]), [(u64::MAX - 4, 4)]);
    }
}
