//! Cutting a segment into packets.

use std::ops::Range;

/// The packets of one segment: all of `packet_size` bytes but the last, which holds the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    segment_len: usize,
    packet_size: usize,
}

impl Packets {
    /// Cuts `segment_len` bytes into packets of `packet_size` bytes (at least one byte each).
    pub fn new(segment_len: usize, packet_size: usize) -> Self {
        Self {
            segment_len,
            packet_size: packet_size.max(1),
        }
    }

    /// How many there are: `attachments` in BINARY. An empty segment has none.
    pub fn count(&self) -> usize {
        self.segment_len.div_ceil(self.packet_size)
    }

    /// How many bytes are in the packets from the one at `index` on.
    pub fn left(&self, index: usize) -> usize {
        let before = index.saturating_mul(self.packet_size);
        self.segment_len.saturating_sub(before)
    }

    /// The bytes of the packet at `index`, or `None` past the last one.
    pub fn range(&self, index: usize) -> Option<Range<usize>> {
        let start = index.checked_mul(self.packet_size)?;
        (start < self.segment_len)
            .then(|| start..start.saturating_add(self.packet_size).min(self.segment_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cover_the_segment_without_gap_or_overlap() {
        for len in [1, 61_439, 61_440, 61_441, 614_400, 2_400_000] {
            let packets = Packets::new(len, 61_440);
            let ranges: Vec<_> = (0..).map_while(|index| packets.range(index)).collect();
            assert_eq!(ranges.len(), packets.count());
            assert_eq!(ranges.first().unwrap().start, 0);
            assert_eq!(ranges.last().unwrap().end, len);
            assert_eq!(packets.left(0), len);
            assert_eq!(packets.left(ranges.len() - 1), ranges.last().unwrap().len());
            assert_eq!(packets.left(ranges.len()), 0);
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    #[test]
    fn an_empty_segment_has_no_packet() {
        assert_eq!(Packets::new(0, 61_440).count(), 0);
        assert_eq!(Packets::new(0, 61_440).range(0), None);
    }
}
