//! How do ranks share out a blob? In buckets, of each of which every rank owns a shard: a bucket whose gradients are complete is summed
//! while others are computed (Li et al., arXiv 2006.15704).

use std::ops::Range;

/// Shards begin at multiples of so many values, a cache line.
const ALIGNED: usize = 16;

/// A blob as ranks share it out.
#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    /// Values of the blob.
    len: usize,
    /// Values of each bucket but the last, which may be shorter: a multiple of what shards need to be equally long.
    each: usize,
    rank: usize,
    ranks: usize,
}

impl Buckets {
    /// A blob of `len` values in buckets of some `values`, as rank `rank` of `ranks` sees it.
    pub(super) fn of(len: usize, values: usize, rank: usize, ranks: usize) -> Buckets {
        let least = ALIGNED * ranks;
        Buckets { len, each: (values / least * least).max(least), rank, ranks }
    }

    /// Values of the blob.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Values of the longest bucket.
    pub(super) fn longest(&self) -> usize {
        self.each.min(self.len)
    }

    /// The buckets, from the beginning of the blob.
    pub(super) fn all(&self) -> impl Iterator<Item = Range<usize>> {
        let (len, each) = (self.len, self.each);
        (0..len.div_ceil(each)).map(move |number| number * each..len.min((number + 1) * each))
    }

    /// The parts of a bucket that ranks own, in their order, counted from its beginning: equally long but for the last ones.
    pub(super) fn shards(&self, bucket: &Range<usize>) -> Vec<Range<usize>> {
        let each = bucket.len().div_ceil(self.ranks).next_multiple_of(ALIGNED);
        (0..self.ranks).map(|rank| bucket.len().min(rank * each)..bucket.len().min((rank + 1) * each)).collect()
    }

    /// All that this rank owns of the blob.
    pub(crate) fn own(&self) -> Vec<Range<usize>> {
        let of_bucket = |bucket: Range<usize>| {
            let shard = self.shards(&bucket).swap_remove(self.rank);
            bucket.start + shard.start..bucket.start + shard.end
        };
        self.all().map(of_bucket).filter(|shard| !shard.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ranks_own_covers_a_blob_once_whatever_its_buckets() {
        for (len, values, ranks) in
            [(100, 1000, 1), (1000, 1000, 2), (1000, 100, 3), (33, 1, 5), (0, 16, 4), (4096, 512, 3)]
        {
            let owned = |rank| Buckets::of(len, values, rank, ranks).own();
            let mut all: Vec<Range<usize>> = (0..ranks).flat_map(owned).collect();
            all.sort_by_key(|shard| shard.start);
            let end = all.iter().fold(0, |end, shard| {
                assert_eq!(shard.start, end, "{len} values in buckets of {values} for {ranks} ranks: {all:?}");
                shard.end
            });
            assert_eq!(end, len);
            assert!(all.iter().all(|shard| shard.start.is_multiple_of(ALIGNED)));
        }
    }

    #[test]
    fn all_buckets_but_the_last_have_shards_of_one_length() {
        let buckets = Buckets::of(10_000, 1000, 0, 3);
        let all: Vec<Range<usize>> = buckets.all().collect();
        assert_eq!((all[0].clone(), all.last().expect("there are some").end), (0..960, 10_000));
        for bucket in &all[..all.len() - 1] {
            assert!(buckets.shards(bucket).iter().all(|shard| shard.len() == buckets.longest() / 3));
        }
    }
}
