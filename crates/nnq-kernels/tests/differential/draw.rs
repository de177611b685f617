//! Random cases.
use nnq_kernels::{SLACK, conv::ConvGeom, pool::PoolGeom};
use std::ops::{Range, RangeInclusive};

/// An interpreter is a thousand times slower: it gets small cases.
const SMALL: bool = cfg!(miri);

/// At most so many of something, which in small cases are fewer.
pub fn at_most(usually: usize, small: usize) -> usize {
    if SMALL { small } else { usually }
}

/// A sequence of numbers that look random, the same for the same family and number.
pub struct Draw(u64);

impl Draw {
    pub fn new(family: &str, number: u64) -> Draw {
        let mut draw = Draw(number.wrapping_mul(0xd134_2543_de82_ef95));
        for byte in family.bytes() {
            draw.0 ^= draw.next() ^ u64::from(byte);
        }
        draw
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        range.start() + (self.next() % (range.end() - range.start() + 1) as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.within(0..=from.len() - 1)]
    }

    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.within(1..=n) == 1
    }

    /// At least 0 and below 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A positive number of a random order of magnitude between powers of two.
    pub fn magnitude(&mut self, low: f64, high: f64) -> f64 {
        2f64.powf(low + (high - low) * self.share())
    }

    /// Mostly uniform bytes, sometimes only the extremes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        match self.within(0..=9) {
            0 => vec![self.pick(&[0, 255]); count],
            1 => (0..count).map(|_| self.pick(&[0, 255])).collect(),
            _ => (0..count).map(|_| self.byte()).collect(),
        }
    }

    /// As [`Draw::bytes`], signed.
    pub fn weights(&mut self, count: usize) -> Vec<i8> {
        match self.within(0..=9) {
            0 => vec![self.pick(&[-128, 127]); count],
            1 => (0..count).map(|_| self.pick(&[-128, 127])).collect(),
            // Of 4 and 2 bits.
            2..=4 => {
                let (least, most) =
                    self.pick(&[(-8, 7), (-7, 7), (0, 15), (-15, 0), (-3, 4), (-2, 1), (-1, 1), (0, 3)]);
                (0..count).map(|_| (self.within(0..=(most - least) as usize) as i32 + least) as i8).collect()
            }
            _ => (0..count).map(|_| self.byte() as i8).collect(),
        }
    }

    /// A number of channels or rows: often near the width of a vector or tile.
    pub fn size(&mut self, most: usize) -> usize {
        let near = self.pick(&[4, 8, 14, 16, 24, 32, 48, 64, 96, 128]) + self.within(0..=2) - 1;
        let size = if self.once_in(2) { near } else { self.within(1..=70) };
        let most = most.min(at_most(usize::MAX, 9));
        if size <= most { size } else { self.within(1..=most) }
    }

    /// `(zero, lo, hi)` of output codes.
    pub fn limits(&mut self) -> (u8, u8, u8) {
        let zero = self.pick(&[0, 1, 127, 128, 255, 77]);
        match self.within(0..=3) {
            0 => (zero, zero, 255),
            1 => {
                let (a, b) = (self.byte(), self.byte());
                (self.byte(), a.min(b), a.max(b))
            }
            _ => (zero, 0, 255),
        }
    }

    /// Cuts `0..count` into parts and gives them in any order.
    pub fn parts(&mut self, count: usize) -> Vec<Range<usize>> {
        let mut cuts = vec![0, count];
        cuts.extend((0..self.within(0..=3)).map(|_| self.within(0..=count)).collect::<Vec<_>>());
        cuts.sort_unstable();
        let mut parts: Vec<Range<usize>> = cuts.windows(2).map(|w| w[0]..w[1]).collect();
        for i in (1..parts.len()).rev() {
            parts.swap(i, self.within(0..=i));
        }
        parts
    }

    /// A convolution of at most `most` multiplications whose inputs fit `bytes` bytes.
    pub fn geometry(&mut self, most: usize, bytes: usize) -> ConvGeom {
        self.fitting(most, bytes, |draw| match draw.within(0..=9) {
            0 => ConvGeom::matrix(draw.size(130), draw.within(0..=at_most(700, 20)), draw.size(100)),
            1 => ConvGeom::matrix(draw.size(130), draw.size(300), draw.size(130)),
            2 => draw.image([1, 1], draw_channels, 1),
            3 if !SMALL => draw.padded_rows(),
            4 => {
                let groups = draw.within(2..=at_most(9, 4));
                draw.image([4, 4], |d| (d.size(40), d.size(40)), groups)
            }
            5 => draw.image([9, 9], |d| (d.within(1..=4), d.size(70)), 1),
            6 => draw.image([1, 9], draw_channels, 1),
            7 if draw.once_in(5) && !SMALL => {
                let stride = draw.pick(&[1, 2, 4]);
                let mut geom = draw.image([2, 2], |d| (4096 / stride, d.within(1..=5)), 1);
                geom.stride_w = stride;
                geom
            }
            _ => draw.image([5, 5], draw_channels, 1),
        })
    }

    /// The same, every channel with a kernel of its own.
    pub fn depthwise_geometry(&mut self, most: usize, bytes: usize) -> ConvGeom {
        self.fitting(most, bytes, |draw| {
            let kernel = draw.pick(&[[3, 3], [3, 3], [5, 5], [9, 9]]);
            let groups = if draw.once_in(2) { draw.within(1..=24) } else { draw.size(140) };
            draw.image(kernel, |_| (1, 1), groups)
        })
    }

    fn fitting(&mut self, most: usize, bytes: usize, mut geometry: impl FnMut(&mut Draw) -> ConvGeom) -> ConvGeom {
        loop {
            let mut geom = geometry(self);
            if self.once_in(50) {
                geom.batch = 0;
            }
            let inputs = geom.batch * geom.in_h * geom.in_w * geom.c_in;
            if geom.pixels() * geom.c_out * geom.depth() <= most && inputs + SLACK <= bytes {
                return geom;
            }
        }
    }

    /// Any convolution with a kernel of at most the given size; `channels` gives those of a group.
    fn image(&mut self, k: [usize; 2], channels: impl Fn(&mut Draw) -> (usize, usize), groups: usize) -> ConvGeom {
        let (c_in, c_out) = channels(self);
        let mut geom = ConvGeom::matrix(self.pick(&[1, 1, 2, 3]), c_in * groups, c_out * groups);
        geom.groups = groups;
        // Square kernels as networks have them, or anything.
        let square = self.once_in(2);
        let sides = if square { k } else { k.map(|k| self.within(1..=k)) };
        (geom.k_h, geom.k_w) = (sides[0], sides[1]);
        let stride = self.pick(&[1, 1, 2, 3]);
        let strides = if square { [stride; 2] } else { [self.within(1..=4), self.within(1..=4)] };
        (geom.stride_h, geom.stride_w) = (strides[0], strides[1]);
        if self.once_in(3) {
            (geom.dil_h, geom.dil_w) = (self.within(1..=3), self.within(1..=3));
        }
        (geom.in_h, geom.in_w) = (self.within(1..=at_most(20, 5)), self.within(1..=at_most(40, 6)));
        if k[0] == 1 && self.once_in(2) {
            geom.in_h = 1;
        }
        (geom.pad_top, geom.pad_left) = match self.within(0..=2) {
            0 => (0, 0),
            1 => (geom.k_h / 2, geom.k_w / 2),
            _ => (self.within(0..=4), self.within(0..=4)),
        };
        let [below, right] = [self.within(0..=4), self.within(0..=4)];
        geom.out_h = outputs(geom.in_h + geom.pad_top + below, geom.k_h, geom.dil_h, geom.stride_h);
        geom.out_w = outputs(geom.in_w + geom.pad_left + right, geom.k_w, geom.dil_w, geom.stride_w);
        geom
    }

    /// Rows of the kernel that are whole steps of a tile.
    fn padded_rows(&mut self) -> ConvGeom {
        let (c_in, k_w) = self.pick(&[(64, 1), (64, 2), (64, 3), (32, 2), (32, 4), (16, 4), (128, 3), (192, 1)]);
        let mut geom = self.image([4, 1], |d| (c_in, d.size(70)), 1);
        (geom.k_h, geom.k_w) = (self.within(2..=4), k_w);
        (geom.stride_h, geom.stride_w, geom.dil_w) = (1, 1, 1);
        geom.out_h = outputs(geom.in_h + geom.pad_top + self.within(0..=3), geom.k_h, geom.dil_h, 1);
        geom.out_w = outputs(geom.in_w + geom.pad_left + self.within(0..=3), geom.k_w, 1, 1);
        geom
    }

    /// A pooling whose inputs fit `bytes` bytes.
    pub fn pool_geometry(&mut self, bytes: usize) -> PoolGeom {
        loop {
            let c = self.size(130);
            let g = self.image([4, 4], |_| (1, 1), c);
            let mut geom = PoolGeom {
                batch: g.batch,
                in_h: g.in_h,
                in_w: g.in_w,
                c,
                out_h: g.out_h,
                out_w: g.out_w,
                k_h: g.k_h,
                k_w: g.k_w,
                stride_h: g.stride_h,
                stride_w: g.stride_w,
                dil_h: g.dil_h,
                dil_w: g.dil_w,
                pad_top: g.pad_top,
                pad_left: g.pad_left,
                pad_bottom: self.within(0..=4),
                pad_right: self.within(0..=4),
            };
            if self.once_in(5) {
                // The mean or maximum of all.
                (geom.k_h, geom.k_w, geom.out_h, geom.out_w) = (geom.in_h, geom.in_w, 1, 1);
                (geom.pad_top, geom.pad_left, geom.dil_h, geom.dil_w) = (0, 0, 1, 1);
            }
            if geom.batch * geom.in_h * geom.in_w * c + SLACK <= bytes {
                return geom;
            }
        }
    }
}

fn draw_channels(draw: &mut Draw) -> (usize, usize) {
    (draw.size(260), draw.size(130))
}

fn outputs(padded: usize, kernel: usize, dilation: usize, stride: usize) -> usize {
    padded.saturating_sub((kernel - 1) * dilation + 1) / stride + 1
}
